//! NetworkPolicies, compiled: what one allows, asked for one connection at a time. Pure.
//!
//! What cannot be understood allows nothing: a peer or port that is wrong never matches, and never turns its
//! rule into one without peers or ports, which would allow everything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use coracle_api::selector::LabelSelector;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::NamedPort;
use crate::stack::Protocol;

/// The labels of a pod or of a namespace.
pub(crate) type Labels = BTreeMap<String, String>;

/// Which way a connection goes, as seen from the pod that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// One NetworkPolicy.
#[derive(Debug, PartialEq)]
pub(crate) struct Policy {
    /// The pods it is about; `None` if its selector cannot be understood, and then it is about all: to be shut
    /// out by mistake is noticed.
    pods: Option<LabelSelector>,
    /// `None` if it says nothing about that direction.
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

/// One rule: any of the peers on any of the ports; all peers or ports if none is named.
#[derive(Debug, PartialEq)]
struct Rule {
    peers: Vec<Peer>,
    ports: Vec<Port>,
}

#[derive(Debug, PartialEq)]
enum Peer {
    /// Pods with these labels, in the policy's own namespace if `namespaces` is `None`.
    Pods {
        namespaces: Option<LabelSelector>,
        pods: LabelSelector,
    },
    Block {
        whole: IpNet,
        except: Vec<IpNet>,
    },
    Nobody,
}

#[derive(Debug, PartialEq)]
struct Port {
    /// `None` for one that pods here do not speak.
    protocol: Option<Protocol>,
    number: Number,
}

#[derive(Debug, PartialEq)]
enum Number {
    Range(RangeInclusive<u16>),
    /// What the pod that is connected to calls so.
    Named(String),
}

/// The other side of a connection, as rules know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other<'a> {
    pub(crate) address: IpAddr,
    /// Its namespace, that namespace's labels and its own, if it is a pod.
    pub(crate) pod: Option<(&'a str, &'a Labels, &'a Labels)>,
}

/// Where a connection ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// The ports that the pod there has names for.
    pub(crate) names: &'a [NamedPort],
}

/// What the policies about a pod say of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// No rule allows it.
    Denied,
    /// A rule allows it that names no peers.
    Anybody,
    /// A rule allows it that names the other side.
    Named,
    /// No policy is about the pod and this direction.
    Free,
}

/// How far outside the cluster the policies about a pod let it reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    Nowhere,
    /// To the address blocks that they name.
    Blocks,
    /// Everywhere, as far as policies are concerned.
    Everywhere,
}

impl Policy {
    pub(crate) fn of(policy: &NetworkPolicy) -> Policy {
        let Some(spec) = &policy.spec else {
            return Policy { pods: None, ingress: Some(vec![]), egress: None };
        };
        let about = |type_: &str, otherwise: bool| match &spec.policy_types {
            Some(types) if !types.is_empty() => types.iter().any(|known| known == type_),
            _ => otherwise,
        };
        let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let ingress = || spec.ingress.iter().flatten().map(Rule::of_ingress).collect();
        let egress = || spec.egress.iter().flatten().map(Rule::of_egress).collect();
        Policy {
            pods: match &spec.pod_selector {
                Some(selector) => LabelSelector::from_api(selector).ok(),
                None => Some(LabelSelector::default()),
            },
            ingress: about("Ingress", true).then(ingress),
            egress: about("Egress", has_egress).then(egress),
        }
    }

    /// Whether it is about a pod of its namespace with these labels.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.pods.as_ref().is_none_or(|pods| pods.matches(labels))
    }

    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// What all policies about a pod say together. `namespace` is the pod's and theirs.
pub(crate) fn judge<'a>(
    policies: impl Iterator<Item = &'a Policy>,
    direction: Direction,
    namespace: &str,
    other: Other<'_>,
    door: Door<'_>,
) -> Verdict {
    let mut verdict = Verdict::Free;
    for rules in policies.filter_map(|policy| policy.rules(direction)) {
        if verdict == Verdict::Free {
            verdict = Verdict::Denied;
        }
        for rule in rules.iter().filter(|rule| rule.opens(door)) {
            if rule.peers.is_empty() {
                verdict = verdict.max(Verdict::Anybody);
            } else if rule.peers.iter().any(|peer| peer.is(namespace, other)) {
                return Verdict::Named;
            }
        }
    }
    verdict
}

/// How far outside a pod's policies let it reach at all.
pub(crate) fn reach<'a>(policies: impl Iterator<Item = &'a Policy>) -> Reach {
    let mut reach = None;
    for rules in policies.filter_map(|policy| policy.rules(Direction::Egress)) {
        let far = rules.iter().map(Rule::reach).max().unwrap_or(Reach::Nowhere);
        reach = Some(reach.unwrap_or(Reach::Nowhere).max(far));
    }
    reach.unwrap_or(Reach::Everywhere)
}

impl Rule {
    fn of_ingress(rule: &NetworkPolicyIngressRule) -> Rule {
        Rule::of(rule.from.as_deref(), rule.ports.as_deref())
    }

    fn of_egress(rule: &NetworkPolicyEgressRule) -> Rule {
        Rule::of(rule.to.as_deref(), rule.ports.as_deref())
    }

    fn of(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Rule {
        Rule {
            peers: peers.into_iter().flatten().map(Peer::of).collect(),
            ports: ports.into_iter().flatten().map(Port::of).collect(),
        }
    }

    fn opens(&self, door: Door<'_>) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|port| port.is(door))
    }

    fn reach(&self) -> Reach {
        if self.peers.is_empty() {
            Reach::Everywhere
        } else if self.peers.iter().any(|peer| matches!(peer, Peer::Block { .. })) {
            Reach::Blocks
        } else {
            Reach::Nowhere
        }
    }
}

impl Peer {
    fn of(peer: &NetworkPolicyPeer) -> Peer {
        let selector = |selector: &_| LabelSelector::from_api(selector).ok();
        let made = match peer {
            NetworkPolicyPeer { ip_block: Some(block), .. } => Peer::block(block),
            NetworkPolicyPeer { pod_selector: None, namespace_selector: None, .. } => None,
            NetworkPolicyPeer { pod_selector, namespace_selector, .. } => {
                let namespaces = namespace_selector.as_ref().map(selector);
                let pods = pod_selector.as_ref().map_or(Some(LabelSelector::default()), selector);
                match (namespaces, pods) {
                    (Some(None), _) | (_, None) => None,
                    (namespaces, Some(pods)) => Some(Peer::Pods { namespaces: namespaces.flatten(), pods }),
                }
            }
        };
        made.unwrap_or(Peer::Nobody)
    }

    fn block(block: &IPBlock) -> Option<Peer> {
        let whole = block.cidr.parse::<IpNet>().ok()?.trunc();
        let except: Result<Vec<IpNet>, _> =
            block.except.iter().flatten().map(|except| except.parse::<IpNet>()).collect();
        Some(Peer::Block { whole, except: except.ok()? })
    }

    fn is(&self, own: &str, other: Other<'_>) -> bool {
        match self {
            Peer::Nobody => false,
            Peer::Block { whole, except } => {
                whole.contains(&other.address) && !except.iter().any(|part| part.contains(&other.address))
            }
            Peer::Pods { namespaces, pods } => other.pod.is_some_and(|(namespace, of_namespace, labels)| {
                let place = match namespaces {
                    Some(namespaces) => namespaces.matches(of_namespace),
                    None => namespace == own,
                };
                place && pods.matches(labels)
            }),
        }
    }
}

impl Port {
    fn of(port: &NetworkPolicyPort) -> Port {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP" | "") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some(_) => None,
        };
        let number = match &port.port {
            None => Number::Range(0..=u16::MAX),
            Some(IntOrString::String(name)) => Number::Named(name.clone()),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                // Nothing lies in a range that ends before it begins.
                let (first, last) =
                    (u16::try_from(*first).unwrap_or(u16::MAX), u16::try_from(last).unwrap_or(0));
                Number::Range(first..=last)
            }
        };
        Port { protocol, number }
    }

    fn is(&self, door: Door<'_>) -> bool {
        let number = match &self.number {
            Number::Range(range) => range.contains(&door.port),
            Number::Named(name) => {
                let named = |known: &NamedPort| known.is(name, door.protocol, door.port);
                door.names.iter().any(named)
            }
        };
        number && self.protocol == Some(door.protocol)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: &Value) -> Policy {
        Policy::of(
            &serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a policy"),
        )
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn http() -> NamedPort {
        NamedPort::new("http", "TCP", 8080).expect("a port")
    }

    /// Asks policies with one pod on the other side: address 10.128.0.9, `app=web` in namespace `n2` with `team=a`.
    #[track_caller]
    fn check(
        specs: &[Value],
        direction: Direction,
        namespace: &str,
        door: (Protocol, u16),
        expected: Verdict,
    ) {
        let policies: Vec<Policy> = specs.iter().map(policy).collect();
        let (of_namespace, own) = (labels(&[("team", "a")]), labels(&[("app", "web")]));
        let other = Other {
            address: "10.128.0.9".parse().expect("an address"),
            pod: Some(("n2", &of_namespace, &own)),
        };
        let names = [http()];
        let door = Door { protocol: door.0, port: door.1, names: &names };
        assert_eq!(judge(policies.iter(), direction, namespace, other, door), expected, "{specs:?}");
    }

    const WEB: (Protocol, u16) = (Protocol::Tcp, 8080);

    #[test]
    fn what_a_policy_is_about() {
        use Direction::{Egress, Ingress};
        let check = |spec: Value, direction, expected| check(&[spec], direction, "n1", WEB, expected);
        check(json!({"podSelector": {}}), Ingress, Verdict::Denied);
        check(json!({"podSelector": {}}), Egress, Verdict::Free);
        check(json!({"podSelector": {}, "policyTypes": ["Egress"]}), Ingress, Verdict::Free);
        check(json!({"podSelector": {}, "policyTypes": ["Egress"]}), Egress, Verdict::Denied);
        check(json!({"podSelector": {}, "egress": [{}]}), Egress, Verdict::Anybody);
        check(json!({"podSelector": {}, "ingress": [{}]}), Ingress, Verdict::Anybody);
        let selected = policy(&json!({"podSelector": {"matchLabels": {"app": "web"}}}));
        assert!(selected.selects(&labels(&[("app", "web"), ("x", "y")])));
        assert!(!selected.selects(&labels(&[("app", "db")])));
        assert!(policy(&json!({})).selects(&Labels::new()), "no selector selects all");
    }

    #[test]
    fn peers() {
        let check = |namespace, peer: Value, expected| {
            let spec = json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
            check(&[spec], Direction::Ingress, namespace, WEB, expected);
        };
        let web = json!({"matchLabels": {"app": "web"}});
        let team = |name: &str| json!({"matchLabels": {"team": name}});
        check("n2", json!({"podSelector": web}), Verdict::Named);
        check("n1", json!({"podSelector": web}), Verdict::Denied);
        check("n2", json!({"podSelector": {"matchLabels": {"app": "db"}}}), Verdict::Denied);
        check("n1", json!({"namespaceSelector": team("a")}), Verdict::Named);
        check("n1", json!({"namespaceSelector": {}}), Verdict::Named);
        check("n1", json!({"namespaceSelector": team("b")}), Verdict::Denied);
        check("n1", json!({"namespaceSelector": team("a"), "podSelector": web}), Verdict::Named);
        check("n1", json!({"namespaceSelector": team("a"), "podSelector": team("a")}), Verdict::Denied);
        check("n1", json!({"ipBlock": {"cidr": "10.128.0.0/24"}}), Verdict::Named);
        check(
            "n1",
            json!({"ipBlock": {"cidr": "10.128.0.0/24", "except": ["10.128.0.8/30"]}}),
            Verdict::Denied,
        );
        check("n1", json!({"ipBlock": {"cidr": "::/0"}}), Verdict::Denied);
        for nonsense in [
            json!({}),
            json!({"ipBlock": {"cidr": "everywhere"}}),
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["some"]}}),
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
        ] {
            check("n2", nonsense, Verdict::Denied);
        }
    }

    #[test]
    fn ports() {
        let check = |ports: Value, door, expected| {
            let spec = json!({"podSelector": {}, "ingress": [{"ports": ports}]});
            check(&[spec], Direction::Ingress, "n1", door, expected);
        };
        check(json!([{"port": 8080}]), WEB, Verdict::Anybody);
        check(json!([{"port": 8080}]), (Protocol::Udp, 8080), Verdict::Denied);
        check(json!([{"port": 80}, {"port": "http"}]), WEB, Verdict::Anybody);
        check(json!([{"port": "https"}]), WEB, Verdict::Denied);
        check(json!([{"port": "http"}]), (Protocol::Tcp, 80), Verdict::Denied);
        check(json!([{"protocol": "UDP"}]), (Protocol::Udp, 53), Verdict::Anybody);
        check(json!([{"protocol": "SCTP"}]), WEB, Verdict::Denied);
        check(json!([{"port": 8000, "endPort": 8080}]), WEB, Verdict::Anybody);
        check(json!([{"port": 8000, "endPort": 8079}]), WEB, Verdict::Denied);
        check(json!([{"port": 8080, "endPort": 1}]), WEB, Verdict::Denied);
        check(json!([{"port": 70000}]), WEB, Verdict::Denied);
    }

    #[test]
    fn policies_add_up() {
        let deny = json!({"podSelector": {}});
        let some = json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]});
        let all = json!({"podSelector": {}, "ingress": [{}]});
        check(&[], Direction::Ingress, "n1", WEB, Verdict::Free);
        check(&[deny.clone(), some.clone()], Direction::Ingress, "n1", WEB, Verdict::Named);
        check(&[all.clone(), deny], Direction::Ingress, "n1", WEB, Verdict::Anybody);
        check(&[all, some], Direction::Ingress, "n1", WEB, Verdict::Named);
    }

    #[test]
    fn how_far_outside() {
        #[track_caller]
        fn check(specs: &[Value], expected: Reach) {
            let policies: Vec<Policy> = specs.iter().map(policy).collect();
            assert_eq!(reach(policies.iter()), expected, "{specs:?}");
        }
        let egress = |rules: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": rules});
        let block = json!([{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]);
        check(&[], Reach::Everywhere);
        check(&[json!({"podSelector": {}})], Reach::Everywhere);
        check(&[egress(json!([]))], Reach::Nowhere);
        check(&[egress(json!([{"to": [{"podSelector": {}}]}]))], Reach::Nowhere);
        check(&[egress(json!([])), egress(block.clone())], Reach::Blocks);
        check(&[egress(block), egress(json!([{"ports": [{"port": 443}]}]))], Reach::Everywhere);
    }

    proptest! {
        /// A policy more never takes away what policies about the direction allow already.
        #[test]
        fn another_policy_only_adds(
            first in proptest::collection::vec(0_usize..6, 1..4),
            more in 0_usize..6,
            port in prop_oneof![Just(80_u16), Just(8080), Just(9000)],
        ) {
            let pool = [
                json!({"podSelector": {}, "ingress": []}),
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}),
                json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
                json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}]}),
                json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}),
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 8081, "endPort": 9000}]}]}),
            ];
            let compiled: Vec<Policy> = pool.iter().map(policy).collect();
            let (of_namespace, own) = (labels(&[]), labels(&[("app", "web")]));
            let other =
                Other { address: "10.128.0.9".parse().expect("an address"), pod: Some(("n2", &of_namespace, &own)) };
            let names = [http()];
            let door = Door { protocol: Protocol::Tcp, port, names: &names };
            let judged = |indexes: &[usize]| {
                judge(indexes.iter().map(|at| &compiled[*at]), Direction::Ingress, "n1", other, door)
            };
            let before = judged(&first);
            let mut all = first.clone();
            all.push(more);
            prop_assert!(before != Verdict::Free);
            prop_assert!(judged(&all) >= before);
            // Nor does their order matter.
            all.reverse();
            let mut forward = first;
            forward.push(more);
            prop_assert_eq!(judged(&all), judged(&forward));
        }
    }
}
