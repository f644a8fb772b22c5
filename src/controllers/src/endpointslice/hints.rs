//! `service.kubernetes.io/topology-mode: Auto`: which zone's clients each endpoint is for, so that every zone has
//! endpoints in proportion to its share of the nodes' CPU, and as few as possible for another zone than their own.
//!
//! ```text
//!  share of the CPU × ready endpoints = what a zone should have; a fifth more load than that per endpoint is borne
//!  slices that change anyway ─▶ each endpoint for its own zone ─▶ zones with too many give to those with too few
//!  slices that do not change ─▶ stay, unless no zone would get its least share
//! ```
//!
//! Where that does not come out even enough, nobody has hints, and an event says why: Kubernetes' numbers and words.

use std::{collections::BTreeMap, sync::Arc};

use coracle_api::Quantity;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone},
};

use super::{plan::Plan, zone};
use crate::nodes;

/// The annotation by which a service wants this: the name of old, which has precedence, and that of today.
const MODE: [&str; 2] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];

/// Nodes with one of these labels run no ordinary pods: their CPU does not count.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// How much more than its share the clients of a zone may ask of an endpoint. Kubernetes' number.
const OVERLOAD: f64 = 0.2;

const NO_NODES: &str =
    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";
const TOO_FEW: &str = "Insufficient number of endpoints";
const UNEVEN: &str =
    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";

/// The CPU of each zone in thousandths, where that is known of every node and there are two zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Capacity(BTreeMap<String, i64>);

/// How many endpoints a zone gets.
#[derive(Debug)]
struct Share {
    least: usize,
    most: usize,
    wanted: f64,
}

type Shares<'a> = BTreeMap<&'a str, Share>;

/// Endpoints by the zone that they are for.
type Given = BTreeMap<String, usize>;

pub(super) fn is_auto(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|all| MODE.iter().find_map(|name| all.get(*name)));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

impl Capacity {
    pub(super) fn of(nodes: &[Arc<Node>]) -> Capacity {
        let mut zones: BTreeMap<String, i64> = BTreeMap::new();
        for offer in nodes.iter().filter_map(|node| offer(node)) {
            let Some((zone, cpu)) = offer else { return Capacity::default() };
            *zones.entry(zone).or_default() += cpu;
        }
        if zones.len() < 2 { Capacity::default() } else { Capacity(zones) }
    }
}

/// What a node adds to the capacity: nothing, or its CPU in its zone, or `None` inside if that is not known.
#[expect(clippy::option_option, reason = "a node that does not count is not one that says nothing")]
pub(super) fn offer(node: &Node) -> Option<Option<(String, i64)>> {
    let labels = node.metadata.labels.as_ref();
    let excluded = EXCLUDED.iter().any(|name| labels.is_some_and(|labels| labels.contains_key(*name)));
    if excluded || !nodes::is_ready(node) {
        return None;
    }
    let amounts = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let cpu = amounts.and_then(|amounts| amounts.get("cpu"));
    let cpu = cpu.and_then(|cpu| Quantity::parse(&cpu.0).ok()).map(|cpu| cpu.milli()).filter(|cpu| *cpu > 0);
    Some(zone(node).filter(|zone| !zone.is_empty()).map(str::to_owned).zip(cpu))
}

/// Gives hints to the endpoints of one kind of address, or takes them from all and says why.
pub(super) fn give(plan: &mut Plan, family: &str, capacity: &Capacity) -> Result<(), String> {
    let outcome = try_give(plan, family, capacity);
    if outcome.is_err() {
        let hinted = |slice: &EndpointSlice| slice.endpoints.iter().any(|endpoint| endpoint.hints.is_some());
        let stay = plan.unchanged.extract_if(.., |slice| slice.address_type == family && hinted(slice));
        plan.update.extend(stay);
        changing(plan, family).for_each(|endpoint| endpoint.hints = None);
    }
    outcome.map_err(|why| format!("{why}, addressType: {family}"))
}

fn try_give(plan: &mut Plan, family: &str, capacity: &Capacity) -> Result<(), String> {
    let slices = plan.create.iter().chain(&plan.update).chain(&plan.unchanged);
    let endpoints = slices.filter(|slice| slice.address_type == family).flat_map(|slice| &slice.endpoints);
    let shares = shares(capacity, endpoints.filter(|endpoint| is_ready(endpoint)).count())?;

    let mut given = Given::new();
    let unfit = plan
        .unchanged
        .extract_if(.., |slice| slice.address_type == family && !is_fit(slice, &shares, &mut given));
    plan.update.extend(unfit);

    for endpoint in changing(plan, family) {
        if !is_ready(endpoint) {
            endpoint.hints = None;
            continue;
        }
        let own = endpoint.zone.clone().filter(|zone| !zone.is_empty()).ok_or(NO_ZONE)?;
        *given.entry(own.clone()).or_default() += 1;
        hint(endpoint, own);
    }

    let (mut giving, mut receiving) = exchange(&shares, &given);
    for endpoint in changing(plan, family).filter(|endpoint| is_ready(endpoint)) {
        let gives = endpoint.zone.as_deref().is_some_and(|zone| giving.contains_key(zone));
        let Some(to) = receiving.keys().next().copied().filter(|_| gives) else { continue };
        take_one(&mut giving, endpoint.zone.as_deref().unwrap_or_default());
        take_one(&mut receiving, to);
        hint(endpoint, to.to_owned());
    }
    Ok(())
}

/// The endpoints in slices that are written anyway.
fn changing<'a>(plan: &'a mut Plan, family: &str) -> impl Iterator<Item = &'a mut Endpoint> {
    let slices = plan.create.iter_mut().chain(&mut plan.update);
    slices.filter(move |slice| slice.address_type == family).flat_map(|slice| &mut slice.endpoints)
}

fn hint(endpoint: &mut Endpoint, zone: String) {
    let for_zones = Some(vec![ForZone { name: zone }]);
    endpoint.hints = Some(EndpointHints { for_zones, ..EndpointHints::default() });
}

pub(super) fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
}

/// How many of so many endpoints each zone gets.
fn shares(capacity: &Capacity, endpoints: usize) -> Result<Shares<'_>, String> {
    let Capacity(zones) = capacity;
    if zones.is_empty() {
        return Err(NO_NODES.to_owned());
    }
    let counted = |why: &str| format!("{why} ({endpoints} endpoints, {} zones)", zones.len());
    if zones.len() > endpoints {
        return Err(counted(TOO_FEW));
    }
    let total = as_f64(zones.values().sum());
    let share = |cpu: i64| {
        let wanted = as_f64(cpu) / total * count_as_f64(endpoints);
        let least = ceil(wanted * (1.0 / (1.0 + OVERLOAD)));
        Share { least, most: 0, wanted: wanted.max(count_as_f64(least)) }
    };
    let mut shares: Shares<'_> = zones.iter().map(|(zone, cpu)| (zone.as_str(), share(*cpu))).collect();
    let least: usize = shares.values().map(|share| share.least).sum();
    let spare = endpoints.checked_sub(least).ok_or_else(|| counted(UNEVEN))?;
    shares.values_mut().for_each(|share| share.most = share.least + spare);
    Ok(shares)
}

/// Whether the hints of a slice can stay: every endpoint has some, for zones that want them, and none gets so many
/// that another could not have its least. Then they are given.
fn is_fit(slice: &EndpointSlice, shares: &Shares<'_>, given: &mut Given) -> bool {
    let mut own = Given::new();
    for endpoint in slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        if zones.is_empty() || !zones.iter().all(|zone| shares.contains_key(zone.name.as_str())) {
            return false;
        }
        zones.iter().for_each(|zone| *own.entry(zone.name.clone()).or_default() += 1);
    }
    let many = |(zone, count): (&String, &usize)| {
        let before = given.get(zone).copied().unwrap_or(0);
        shares.get(zone.as_str()).is_none_or(|share| count + before > share.most)
    };
    if own.iter().any(many) {
        return false;
    }
    own.into_iter().for_each(|(zone, count)| *given.entry(zone).or_default() += count);
    true
}

/// How many endpoints zones give to others, and get from others.
fn exchange<'a>(shares: &Shares<'a>, given: &Given) -> (BTreeMap<&'a str, usize>, BTreeMap<&'a str, usize>) {
    let (mut over, mut under) = (BTreeMap::new(), BTreeMap::new());
    for (zone, share) in shares {
        let too_many = count_as_f64(given.get(*zone).copied().unwrap_or(0)) - share.wanted;
        if too_many > 0.0 {
            over.insert(*zone, too_many);
        } else if too_many < 0.0 {
            under.insert(*zone, -too_many);
        }
    }
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    while let (Some((from, spare)), Some((to, lack))) = (most(&mut over), most(&mut under)) {
        // Less than half an endpoint is not worth one, nor two halves.
        if *spare < 0.5 || *lack < 0.5 || (*spare < 1.0 && *lack < 1.0) {
            break;
        }
        (*spare, *lack) = (*spare - 1.0, *lack - 1.0);
        *giving.entry(from).or_insert(0) += 1;
        *receiving.entry(to).or_insert(0) += 1;
    }
    (giving, receiving)
}

/// The zone with the greatest amount; the first by name among equals.
fn most<'a, 'b>(zones: &'b mut BTreeMap<&'a str, f64>) -> Option<(&'a str, &'b mut f64)> {
    let mut all = zones.iter_mut();
    let first = all.next()?;
    let (zone, amount) = all.fold(first, |most, next| if next.1 > most.1 { next } else { most });
    Some((*zone, amount))
}

fn take_one(zones: &mut BTreeMap<&str, usize>, zone: &str) {
    if let Some(count) = zones.get_mut(zone) {
        *count -= 1;
        if *count == 0 {
            zones.remove(zone);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "thousandths of CPUs of a cluster are far fewer than 2^52")]
fn as_f64(cpu: i64) -> f64 {
    cpu as f64
}

#[expect(clippy::cast_precision_loss, reason = "endpoints are far fewer than 2^52")]
fn count_as_f64(endpoints: usize) -> f64 {
    endpoints as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a number of endpoints"
)]
fn ceil(endpoints: f64) -> usize {
    endpoints.ceil() as usize
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(zone: Option<&str>, cpu: &str, ready: &str, label: Option<&str>) -> Arc<Node> {
        let mut object = json!({
            "metadata": { "name": "n", "labels": {} },
            "status": { "conditions": [{ "type": "Ready", "status": ready }], "allocatable": { "cpu": cpu } },
        });
        for (name, value) in zone.map(|zone| (nodes::ZONE, zone)).into_iter().chain(label.map(|l| (l, ""))) {
            object["metadata"]["labels"][name] = json!(value);
        }
        Arc::new(serde_json::from_value(object).expect("a node"))
    }

    #[test]
    fn zones_have_the_cpu_of_their_ready_nodes() {
        #[track_caller]
        fn check(nodes: &[Arc<Node>], expected: &[(&str, i64)]) {
            let expected = expected.iter().map(|(zone, cpu)| ((*zone).to_owned(), *cpu)).collect();
            assert_eq!(Capacity::of(nodes), Capacity(expected), "{nodes:?}");
        }
        let (a, b) = (node(Some("a"), "2", "True", None), node(Some("b"), "500m", "True", None));
        let both = [("a", 2000), ("b", 500)];
        check(&[a.clone(), b.clone()], &both);
        check(&[a.clone(), b.clone(), b.clone()], &[("a", 2000), ("b", 1000)]);
        check(&[a.clone(), a.clone()], &[]);
        check(&[a.clone(), b.clone(), node(None, "1", "False", None)], &both);
        check(&[a.clone(), b.clone(), node(None, "1", "True", Some(EXCLUDED[0]))], &both);
        check(&[a.clone(), b.clone(), node(None, "1", "True", None)], &[]);
        check(&[a, b, node(Some("c"), "0", "True", None)], &[]);
    }

    fn slice(name: &str, endpoints: &[(&str, &str)]) -> EndpointSlice {
        let endpoint = |(zone, hint): &(&str, &str)| {
            let mut endpoint = json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": *hint != "-" } });
            if !zone.is_empty() {
                endpoint["zone"] = json!(zone);
            }
            if !["", "-"].contains(hint) {
                endpoint["hints"] = json!({ "forZones": [{ "name": hint }] });
            }
            endpoint
        };
        let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
        let object = json!({ "metadata": { "name": name }, "addressType": "IPv4", "endpoints": endpoints });
        serde_json::from_value(object).expect("a slice")
    }

    /// The hints of a slice: a zone for each endpoint, or `-`.
    fn hints(slice: &EndpointSlice) -> String {
        let hint = |endpoint: &Endpoint| {
            let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.clone());
            zones.map_or("-".to_owned(), |zones| zones.into_iter().map(|zone| zone.name).collect())
        };
        slice.endpoints.iter().map(hint).collect()
    }

    /// Zones with their CPU; the zones of the endpoints in a slice that is written; their hints, or why there are none.
    #[track_caller]
    fn check(zones: &[(&str, i64)], endpoints: &str, expected: Result<&str, &str>) {
        let capacity = Capacity(zones.iter().map(|(zone, cpu)| ((*zone).to_owned(), *cpu)).collect());
        let names: Vec<String> = endpoints.chars().map(String::from).collect();
        // In capitals: not ready. A dot: in no zone.
        let of = |name: &String| match name.as_str() {
            "." => (String::new(), ""),
            name if name.chars().all(char::is_uppercase) => (name.to_lowercase(), "-"),
            name => (name.to_owned(), "x"),
        };
        let endpoints: Vec<(String, &str)> = names.iter().map(of).collect();
        let endpoints: Vec<(&str, &str)> =
            endpoints.iter().map(|(zone, hint)| (zone.as_str(), *hint)).collect();
        let mut plan = Plan { create: vec![slice("s", &endpoints)], ..Plan::default() };
        let outcome = give(&mut plan, "IPv4", &capacity);
        let found = hints(&plan.create[0]);
        match expected {
            Ok(hints) => assert_eq!((outcome, found.as_str()), (Ok(()), hints), "{zones:?} {names:?}"),
            Err(why) => {
                assert_eq!(outcome, Err(format!("{why}, addressType: IPv4")), "{zones:?} {names:?}");
                assert!(found.chars().all(|hint| hint == '-'), "{found}");
            }
        }
    }

    #[test]
    fn endpoints_are_given_to_zones_by_their_cpu() {
        let (even, uneven) = ([("a", 1000), ("b", 1000)], [("a", 3000), ("b", 1000)]);
        check(&even, "aabb", Ok("aabb"));
        check(&even, "aaab", Ok("baab"));
        check(&even, "aaaa", Ok("bbaa"));
        check(&even, "aaaaaabbbb", Ok("baaaaabbbb"));
        check(&uneven, "aaab", Ok("aaab"));
        check(&uneven, "aabb", Ok("aaab"));
        check(&[("a", 1000), ("b", 1000), ("c", 1000)], "aaabbb", Ok("caacbb"));
        // Who is not ready is nobody's, and counts for nothing.
        check(&even, "aaAbbB", Ok("aa-bb-"));
        // A zone without nodes keeps its own.
        check(&even, "aaabbz", Ok("aaabbz"));
        // Half an endpoint is not given away.
        check(&[("a", 1100), ("b", 900)], "aaaaabbbbb", Ok("aaaaabbbbb"));
    }

    #[test]
    fn where_it_does_not_come_out_even_nobody_has_hints() {
        let even = [("a", 1000), ("b", 1000)];
        check(&[], "aabb", Err(NO_NODES));
        check(&even, "a", Err("Insufficient number of endpoints (1 endpoints, 2 zones)"));
        check(&even, "aBBB", Err("Insufficient number of endpoints (1 endpoints, 2 zones)"));
        check(
            &even,
            "aab",
            Err(
                "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (3 endpoints, 2 zones)",
            ),
        );
        check(&even, "aab.", Err(NO_ZONE));
    }

    /// Slices that do not change, and one that is written: which of the first have to be written too, and all hints.
    #[track_caller]
    fn with_others(unchanged: &[&str], written: &str, updated: &[&str], expected: &[&str]) {
        let capacity = Capacity([("a".to_owned(), 1000), ("b".to_owned(), 1000)].into());
        let pairs = |text: &str| -> Vec<(String, String)> {
            text.split(' ').map(|pair| (pair[..1].to_owned(), pair[1..].to_owned())).collect()
        };
        let made = |name: &str, text: &str| {
            let pairs = pairs(text);
            let pairs: Vec<_> = pairs.iter().map(|(zone, hint)| (zone.as_str(), hint.as_str())).collect();
            slice(name, &pairs)
        };
        let names = ["s0", "s1", "s2"];
        let unchanged_slices = unchanged.iter().zip(names).map(|(text, name)| made(name, text)).collect();
        let mut plan =
            Plan { update: vec![made("w", written)], unchanged: unchanged_slices, ..Plan::default() };
        give(&mut plan, "IPv4", &capacity).expect("it comes out even");
        let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
        let found: Vec<String> = plan.update.iter().skip(1).map(name).collect();
        assert_eq!(found, updated, "{unchanged:?} {written}");
        let mut all: Vec<&EndpointSlice> = plan.update.iter().chain(&plan.unchanged).collect();
        all.sort_by_key(|slice| name(slice));
        let all: Vec<String> = all.into_iter().map(hints).collect();
        assert_eq!(all, expected, "{unchanged:?} {written}");
    }

    #[test]
    fn slices_that_are_right_are_left_alone() {
        with_others(&["aa ab"], "b b", &[], &["ab", "ab"]);
        with_others(&["aa aa"], "a a", &[], &["aa", "bb"]);
        with_others(&["aa aa"], "b b", &[], &["aa", "bb"]);
        // Without hints, for a zone that is no more, and more than a zone may have.
        with_others(&["a a"], "b b", &["s0"], &["aa", "bb"]);
        with_others(&["az aa"], "b b", &["s0"], &["aa", "bb"]);
        with_others(&["aa aa aa"], "a", &["s0"], &["baa", "b"]);
    }

    #[test]
    fn the_annotation_has_two_names() {
        #[track_caller]
        fn check(annotations: &Value, expected: bool) {
            let object = json!({ "metadata": { "annotations": annotations } });
            assert_eq!(
                is_auto(&serde_json::from_value(object).expect("a service")),
                expected,
                "{annotations}"
            );
        }
        check(&Value::Null, false);
        check(&json!({ MODE[0]: "Auto" }), true);
        check(&json!({ MODE[1]: "auto" }), true);
        check(&json!({ MODE[0]: "Disabled", MODE[1]: "Auto" }), false);
    }
}
