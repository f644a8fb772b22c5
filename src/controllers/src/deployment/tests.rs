//! Steps by tables, bounds by random rollouts, and the running controller on a fake API.

use coracle_client::{random, test_support::eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{
            DeploymentCondition, DeploymentSpec, DeploymentStrategy, ReplicaSetStatus,
            RollingUpdateDeployment,
        },
        core::v1::Event,
    },
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};
use proptest::prelude::*;

use super::{bounds::Bounds, plan::Plan, *};
use crate::{
    Controller as Registered, replicaset,
    testing::{Bench, chaos, meta, node, selector, template},
};

const ALL: &[Registered] = &[
    Registered { name: NAME, run },
    Registered { name: replicaset::SETS, run: replicaset::run::<ReplicaSet> },
];

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

fn number(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

/// A deployment `web` of the template `v1`.
fn web(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    let mut deployment = Deployment {
        metadata: meta("web"),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: selector(),
            template: template("v1"),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(number(surge)),
                    max_unavailable: Some(number(unavailable)),
                }),
            }),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            ..DeploymentSpec::default()
        }),
        status: None,
    };
    deployment.metadata.uid = Some("u".to_owned());
    deployment.metadata.generation = Some(1);
    deployment
}

fn spec(deployment: &mut Deployment) -> &mut DeploymentSpec {
    deployment.spec.as_mut().expect("has one")
}

fn planned(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Plan {
    let none = |_: &str| Vec::new();
    plan(&Observed { deployment, sets, pods: &none }, now())
}

/// A replica set described as `VERSION REPLICAS/ACTUAL/AVAILABLE [desired:N/MAX] [revision:N]`.
fn described(deployment: &Deployment, index: usize, text: &str) -> Arc<ReplicaSet> {
    let mut words = text.split_whitespace();
    let mut of = deployment.clone();
    spec(&mut of).template = template(words.next().expect("a version"));
    let mut set = revision::replica_set(&of, 0);
    let three =
        |text: &str| -> Vec<i32> { text.split('/').map(|text| text.parse().expect("a number")).collect() };
    let sizes = three(words.next().expect("sizes"));
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(revision::REVISION.to_owned(), (index + 1).to_string());
    for word in words {
        let (name, value) = word.split_once(':').expect("name:value");
        match name {
            "desired" => {
                let numbers = three(value);
                annotations.insert(revision::DESIRED.to_owned(), numbers[0].to_string());
                annotations
                    .insert("deployment.kubernetes.io/max-replicas".to_owned(), numbers[1].to_string());
            }
            "revision" => {
                annotations.insert(revision::REVISION.to_owned(), value.to_owned());
            }
            other => panic!("unknown word {other}"),
        }
    }
    let age = SignedDuration::from_secs(1000 - i64::try_from(index).expect("small"));
    set.metadata.creation_timestamp = Some(Time(now() - age));
    set.metadata.uid = set.metadata.name.clone();
    set.metadata.generation = Some(1);
    set.spec.as_mut().expect("has one").replicas = Some(sizes[0]);
    set.status = Some(ReplicaSetStatus {
        replicas: sizes[1],
        available_replicas: Some(sizes[2]),
        ready_replicas: Some(sizes[2]),
        observed_generation: Some(1),
        ..ReplicaSetStatus::default()
    });
    Arc::new(set)
}

fn version(set: &ReplicaSet) -> String {
    let spec = set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.spec.as_ref());
    spec.and_then(|spec| spec.containers[0].image.clone()).expect("has one")
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).expect("has one")
}

fn said(plan: &Plan) -> String {
    let words = plan.changes.iter().filter_map(|change| match change {
        Change::Create(set) => Some(format!("create {} {}", version(set), size(set))),
        Change::Update { set, from } if *from != size(set) => {
            Some(format!("{} {from}>{}", version(set), size(set)))
        }
        Change::Update { .. } => None,
        Change::Delete(set) => Some(format!("delete {}", version(set))),
    });
    words.collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn check(deployment: &Deployment, sets: &[&str], expected: &str) {
    let sets: Vec<_> =
        sets.iter().enumerate().map(|(index, text)| described(deployment, index, text)).collect();
    assert_eq!(said(&planned(deployment, &sets)), expected);
}

#[test]
fn rolling_steps() {
    check(&web(3, "1", "0"), &[], "create v1 3");
    check(&web(3, "1", "0"), &["v1 3/3/3"], "");
    check(&web(3, "1", "0"), &["v0 3/3/3"], "create v1 1");
    check(&web(3, "1", "0"), &["v0 3/3/3", "v1 1/0/0"], "");
    check(&web(3, "1", "0"), &["v0 3/3/3", "v1 1/1/1"], "v0 3>2");
    check(&web(3, "0", "1"), &["v0 3/3/3"], "create v1 0; v0 3>2");
    check(&web(3, "0", "1"), &["v0 2/3/3", "v1 0/0/0"], "");
    check(&web(3, "0", "1"), &["v0 2/2/2", "v1 0/0/0"], "v1 0>1");
    check(&web(10, "25%", "25%"), &["v0 10/10/10"], "create v1 3; v0 10>8");
    check(&web(3, "0%", "0%"), &["v0 3/3/3"], "create v1 0; v0 3>2");
    // Broken old pods go first, and a rollback meets a half-grown replica set.
    check(&web(3, "1", "0"), &["v0 3/3/1", "v1 1/1/0"], "");
    check(&web(3, "1", "1"), &["v0 3/3/0", "v1 1/1/1"], "v0 3>1");
    check(&web(3, "1", "0"), &["v0 0/0/0", "v2 3/3/3", "v1 1/1/1"], "v2 3>2");
    // A status that is older than what was asked for last says nothing.
    let behind = described(&web(3, "1", "0"), 0, "v0 3/3/3");
    let mut behind = (*behind).clone();
    behind.metadata.generation = Some(2);
    assert_eq!(said(&planned(&web(3, "1", "0"), &[Arc::new(behind)])), "create v1 0");
    // A status that counts pods which are about to go.
    check(&web(10, "3", "2"), &["v0 8/10/10", "v1 3/3/1"], "v0 8>7");
}

#[test]
fn scaling_steps() {
    check(&web(5, "1", "0"), &["v1 3/3/3 desired:3/4"], "v1 3>5");
    check(&web(0, "1", "0"), &["v1 3/3/3 desired:3/4"], "v1 3>0");
    // Amid a rollout every replica set gets its share.
    check(&web(20, "5", "0"), &["v0 10/10/10 desired:10/15", "v1 5/5/0 desired:10/15"], "v1 5>8; v0 10>17");
    check(&web(5, "0", "1"), &["v0 6/6/6 desired:10/10", "v1 4/4/4 desired:10/10"], "v1 4>2; v0 6>3");
    check(&web(0, "5", "0"), &["v0 10/10/10 desired:10/15", "v1 5/5/0 desired:10/15"], "v1 5>0; v0 10>0");
    // Paused: no rollout, but sizes are followed.
    let mut paused = web(4, "1", "0");
    spec(&mut paused).paused = Some(true);
    check(&paused, &["v0 3/3/3 desired:3/4"], "v0 3>4");
    check(&paused, &["v0 4/4/4 desired:4/5"], "");
    // Pods that are still to go take the room of new ones.
    check(&web(4, "1", "0"), &["v0 1/3/3 desired:3/4", "v1 1/1/1 desired:3/4"], "");
    check(&web(2, "0", "1"), &["v0 2/3/3 desired:3/4", "v1 1/1/1 desired:3/4"], "v0 2>1");
    check(&web(4, "1", "0"), &["v0 0/2/2 desired:3/4", "v1 3/3/3 desired:3/4"], "");
    check(&web(2, "1", "0"), &["v0 0/2/2 desired:3/4", "v1 3/3/3 desired:3/4"], "v1 3>2");
}

#[test]
fn recreation_waits_for_the_last_old_pod() {
    let mut deployment = web(3, "1", "0");
    spec(&mut deployment).strategy =
        Some(DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None });
    check(&deployment, &["v0 3/3/3"], "v0 3>0");
    check(&deployment, &["v0 0/1/0"], "");
    check(&deployment, &["v0 0/0/0"], "create v1 3");
    check(&deployment, &["v0 0/0/0", "v1 0/0/0"], "v1 0>3");
    let sets = [described(&deployment, 0, "v0 0/0/0")];
    let going = |_: &str| vec![Arc::new(crate::testing::pod("a"))];
    let waits = plan(&Observed { deployment: &deployment, sets: &sets, pods: &going }, now());
    assert_eq!(said(&waits), "");
}

#[test]
fn history_is_kept_and_limited() {
    let mut deployment = web(1, "1", "0");
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/change-cause".to_owned(), "why".to_owned());
    annotations.insert(revision::REVISION.to_owned(), "7".to_owned());
    let sets =
        [described(&deployment, 0, "v1 0/0/0 revision:2"), described(&deployment, 1, "v2 1/1/1 revision:3")];
    let back = planned(&deployment, &sets);
    assert_eq!(back.revision.as_deref(), Some("4"));
    let Change::Update { set, .. } = &back.changes[0] else { panic!("{:?}", back.changes) };
    let annotation = |name| revision::annotation(&set.metadata, name);
    assert_eq!(annotation(revision::REVISION), Some("4"));
    assert_eq!(annotation("deployment.kubernetes.io/revision-history"), Some("2"));
    assert_eq!(annotation("kubernetes.io/change-cause"), Some("why"));

    let mut limited = web(1, "1", "0");
    spec(&mut limited).revision_history_limit = Some(1);
    check(&limited, &["v7 0/0/0", "v8 0/0/0", "v9 0/0/0", "v1 1/1/1"], "delete v7; delete v8");
    check(&limited, &["v7 0/0/0", "v8 0/0/0", "v1 1/1/0"], "");
    check(&limited, &["v7 0/1/0", "v8 0/0/0", "v9 0/0/0", "v1 1/1/1"], "");
}

fn progressing(plan: &Plan) -> DeploymentCondition {
    status::find(&plan.status, "Progressing").expect("is told").clone()
}

/// The `Progressing` condition's status, reason and message after the replica sets are as described.
#[track_caller]
fn check_progress(deployment: &mut Deployment, sets: &[&str], expected: &str) {
    let sets: Vec<_> =
        sets.iter().enumerate().map(|(index, text)| described(deployment, index, text)).collect();
    let plan = planned(deployment, &sets);
    let told = progressing(&plan);
    let said = format!("{} {} {}", told.status, told.reason.expect("has one"), told.message.expect("too"));
    let name = planned(&web(1, "1", "0"), &[]);
    let Change::Create(set) = &name.changes[0] else { panic!("nothing is created") };
    assert_eq!(said.replace(pods::name(&set.metadata), "NEW"), expected);
    deployment.status = Some(plan.status);
}

#[test]
fn progress_is_told() {
    let mut deployment = web(2, "1", "0");
    check_progress(&mut deployment, &[], "True NewReplicaSetCreated Created new replica set \"NEW\"");
    check_progress(
        &mut deployment,
        &["v1 2/2/1"],
        "True ReplicaSetUpdated ReplicaSet \"NEW\" is progressing.",
    );
    let available = |deployment: &Deployment| {
        let status = deployment.status.as_ref().expect("has one");
        status::find(status, "Available").and_then(|condition| condition.reason.clone())
    };
    assert_eq!(available(&deployment).as_deref(), Some("MinimumReplicasUnavailable"));
    let before = deployment.clone();
    check_progress(
        &mut deployment,
        &["v1 2/2/2"],
        "True NewReplicaSetAvailable ReplicaSet \"NEW\" has successfully progressed.",
    );
    assert_eq!(available(&deployment).as_deref(), Some("MinimumReplicasAvailable"));
    // A pod that fails later does not make the rollout unfinished.
    check_progress(
        &mut deployment,
        &["v1 2/2/1"],
        "True NewReplicaSetAvailable ReplicaSet \"NEW\" has successfully progressed.",
    );
    let mut late = before;
    let conditions = late.status.as_mut().and_then(|status| status.conditions.as_mut()).expect("has some");
    for condition in conditions {
        condition.last_update_time = Some(Time(now() - SignedDuration::from_secs(601)));
    }
    check_progress(
        &mut late,
        &["v1 2/2/1"],
        "False ProgressDeadlineExceeded ReplicaSet \"NEW\" has timed out progressing.",
    );
    let mut paused = web(2, "1", "0");
    spec(&mut paused).paused = Some(true);
    check_progress(&mut paused, &["v1 2/2/2"], "Unknown DeploymentPaused Deployment is paused");
    spec(&mut paused).paused = Some(false);
    paused.status.as_mut().expect("has one").available_replicas = Some(2);
    paused.status.as_mut().expect("has one").ready_replicas = Some(2);
    check_progress(&mut paused, &["v1 2/2/1"], "Unknown DeploymentResumed Deployment is resumed");
    let mut found = web(2, "1", "0");
    found.status = Some(DeploymentStatus {
        updated_replicas: Some(2),
        replicas: Some(2),
        ready_replicas: Some(1),
        available_replicas: Some(1),
        ..DeploymentStatus::default()
    });
    check_progress(&mut found, &["v1 2/2/1"], "True FoundNewReplicaSet Found new replica set \"NEW\"");
}

#[test]
fn a_stuck_rollout_is_looked_at_when_its_deadline_ends() {
    let plan = planned(&web(2, "1", "0"), &[]);
    assert_eq!(plan.again, Some(Duration::from_secs(601)));
    let mut endless = web(2, "1", "0");
    spec(&mut endless).progress_deadline_seconds = Some(i32::MAX);
    assert_eq!(planned(&endless, &[]).again, None);
}

/// A replica set whose controller may lag behind, and its pods: true if available.
struct Simulated {
    set: ReplicaSet,
    pods: Vec<bool>,
}

impl Simulated {
    /// What the controller of replica sets does: pods as asked for, unavailable ones go first.
    fn catch_up(&mut self) {
        self.pods.sort_unstable_by_key(|available| std::cmp::Reverse(*available));
        self.pods.resize(usize::try_from(size(&self.set)).expect("not negative"), false);
        let available = i32::try_from(self.pods.iter().filter(|available| **available).count()).expect("few");
        let status = self.set.status.get_or_insert_default();
        status.replicas = i32::try_from(self.pods.len()).expect("few");
        status.available_replicas = Some(available);
        status.ready_replicas = Some(available);
        status.observed_generation = self.set.metadata.generation;
    }
}

#[derive(Default)]
struct Simulation {
    sets: Vec<Simulated>,
}

impl Simulation {
    fn step(&mut self, deployment: &mut Deployment) -> bool {
        let sets: Vec<_> = self.sets.iter().map(|simulated| Arc::new(simulated.set.clone())).collect();
        let plan = planned(deployment, &sets);
        let behind = |simulated: &Simulated| {
            let observed = simulated.set.status.as_ref().and_then(|status| status.observed_generation);
            observed < simulated.set.metadata.generation
        };
        let quiet = plan.changes.is_empty() && !self.sets.iter().any(behind);
        for change in plan.changes {
            match change {
                Change::Create(mut set) => {
                    let age = i64::try_from(self.sets.len()).expect("few");
                    set.metadata.creation_timestamp = Some(Time(now() + SignedDuration::from_secs(age)));
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.generation = Some(1);
                    self.sets.push(Simulated { set, pods: Vec::new() });
                }
                Change::Update { set, .. } => {
                    let of =
                        self.sets.iter_mut().find(|simulated| simulated.set.metadata.uid == set.metadata.uid);
                    let of = of.expect("exists");
                    let same = of.set.spec == set.spec;
                    of.set = set;
                    *of.set.metadata.generation.get_or_insert(1) += i64::from(!same);
                }
                Change::Delete(set) => {
                    self.sets.retain(|simulated| simulated.set.metadata.uid != set.metadata.uid);
                }
            }
        }
        deployment.status = Some(plan.status);
        quiet
    }

    fn pods(&self) -> i32 {
        i32::try_from(self.sets.iter().map(|simulated| simulated.pods.len()).sum::<usize>()).expect("few")
    }

    fn available(&self) -> i32 {
        let available =
            self.sets.iter().flat_map(|simulated| &simulated.pods).filter(|available| **available);
        i32::try_from(available.count()).expect("few")
    }

    fn settle(&mut self, deployment: &mut Deployment) {
        for _ in 0..200 {
            let quiet = self.step(deployment);
            for simulated in &mut self.sets {
                simulated.catch_up();
                simulated.pods.fill(true);
                simulated.catch_up();
            }
            if quiet && self.step(deployment) {
                return;
            }
        }
        panic!("never quiet");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever the order in which controllers, pods and users act (some change the size, too): never more pods than any wish so far
    /// allowed, never fewer available ones than demanded while the size stays, and in the end all pods are of
    /// the newest template.
    #[test]
    fn rollouts_keep_their_bounds(
        replicas in 1..12_i32,
        surge in 0..5_i32,
        unavailable in 0..5_i32,
        scales in any::<bool>(),
        steps in proptest::collection::vec((0..12_u32, any::<proptest::sample::Index>()), 0..120),
    ) {
        let mut deployment = web(replicas, &surge.to_string(), &unavailable.to_string());
        let mut bounds = Bounds::of(&deployment);
        let mut most = bounds.most();
        let mut world = Simulation::default();
        world.settle(&mut deployment);
        prop_assert_eq!((world.pods(), world.available()), (replicas, replicas));
        for (step, which) in steps {
            match step {
                0 => spec(&mut deployment).template = template(&format!("v{}", which.index(4))),
                1..=4 => drop(world.step(&mut deployment)),
                10 if scales => {
                    let replicas = i32::try_from(which.index(12)).expect("small");
                    spec(&mut deployment).replicas = Some(replicas);
                    bounds = Bounds::of(&deployment);
                    most = most.max(bounds.most());
                }
                11 if scales => {
                    let paused = spec(&mut deployment).paused == Some(true);
                    spec(&mut deployment).paused = Some(!paused);
                }
                5..=7 => {
                    let count = world.sets.len();
                    world.sets[which.index(count)].catch_up();
                }
                _ => {
                    let waiting: Vec<_> = world
                        .sets
                        .iter_mut()
                        .flat_map(|simulated| simulated.pods.iter_mut())
                        .filter(|available| !**available)
                        .collect();
                    let count = waiting.len();
                    if let Some(pod) = waiting.into_iter().nth(which.index(count.max(1))) {
                        *pod = true;
                    }
                }
            }
            prop_assert!(world.pods() <= most, "{} pods", world.pods());
            let enough = scales || world.available() >= bounds.least();
            prop_assert!(enough, "{} available", world.available());
        }
        spec(&mut deployment).paused = None;
        world.settle(&mut deployment);
        let replicas = bounds.replicas;
        let wanted = spec(&mut deployment).template.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
        for simulated in &world.sets {
            let size = if Some(version(&simulated.set)) == wanted { replicas } else { 0 };
            prop_assert_eq!(simulated.pods.len(), usize::try_from(size).expect("positive"));
        }
    }

    /// Scaling amid a rollout gives away exactly what may be given.
    #[test]
    fn shares_add_up(
        sizes in proptest::collection::vec(1..40_i32, 2..6),
        before in 1..100_i32,
        replicas in 0..100_i32,
        surge in 0..10_i32,
    ) {
        let deployment = web(replicas, &surge.to_string(), "1");
        prop_assume!(before != replicas);
        let sets: Vec<_> = sizes.iter().enumerate().map(|(index, size)| {
            let text = format!("v{index} {size}/{size}/0 desired:{before}/{}", before + surge);
            described(&deployment, index, &text)
        }).collect();
        let mut rollout = rollout::Rollout::of(&deployment, &sets);
        rollout.scale(false, 0);
        let most = if replicas == 0 { 0 } else { replicas + surge };
        let sum: i32 = rollout.all().map(rollout::Draft::replicas).sum();
        prop_assert_eq!(sum, most);
    }
}

fn status_of(bench: &Bench) -> Option<DeploymentStatus> {
    bench.api.get::<Deployment>("ns", "web")?.status
}

/// Lets the node work until the rollout is complete as `kubectl rollout status` sees it.
async fn complete(bench: &Bench, replicas: i32) {
    eventually("a complete rollout", || {
        node(&bench.api);
        let deployment: Deployment = bench.api.get("ns", "web")?;
        let status = deployment.status.as_ref()?;
        let done = status::find(status, "Progressing").and_then(|condition| condition.reason.as_deref())
            == Some("NewReplicaSetAvailable");
        let all = Some(replicas);
        (status.observed_generation == deployment.metadata.generation
            && (status.replicas, status.updated_replicas, status.available_replicas) == (all, all, all)
            && done)
            .then_some(())
    })
    .await;
}

fn history(bench: &Bench) -> Vec<String> {
    let mut all: Vec<_> = bench
        .api
        .list::<ReplicaSet>()
        .iter()
        .map(|set| format!("{}:{}:{}", revision::revision(set), version(set), size(set)))
        .collect();
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn a_rollout_and_its_undoing() {
    let bench = Bench::start(ALL);
    let mut deployment = web(3, "1", "0");
    deployment.metadata.uid = None;
    bench.api.create(&deployment);
    complete(&bench, 3).await;
    let change = |version: &'static str| {
        bench.api.edit("ns", "web", |deployment: &mut Deployment| {
            spec(deployment).template = template(version);
            *deployment.metadata.generation.as_mut().expect("has one") += 1;
        });
    };
    change("v2");
    complete(&bench, 3).await;
    assert_eq!(history(&bench), ["1:v1:0", "2:v2:3"]);
    change("v1");
    complete(&bench, 3).await;
    bench.quiet().await;
    assert_eq!(history(&bench), ["2:v2:0", "3:v1:3"]);
    let annotated: Deployment = bench.api.get("ns", "web").expect("exists");
    assert_eq!(revision::annotation(&annotated.metadata, revision::REVISION), Some("3"));
    let told = |start: &str, end: &str| {
        let events = bench.api.list::<Event>();
        let scaled = events.iter().filter(|event| event.reason.as_deref() == Some("ScalingReplicaSet"));
        let texts = scaled.filter_map(|event| event.message.as_deref());
        texts.filter(|text| text.starts_with(start) && text.ends_with(end)).count()
    };
    assert_eq!(told("Scaled up replica set web-", " from 0 to 3"), 1);
    assert!(told("Scaled down replica set web-", " from 3 to 2") >= 1);
    let left = status_of(&bench).expect("has one");
    assert_eq!((left.unavailable_replicas, left.observed_generation), (None, Some(3)));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_avoided() {
    let bench = Bench::start(ALL);
    let deployment = web(2, "1", "0");
    let mut other = revision::replica_set(&deployment, 0);
    other.metadata.owner_references = None;
    other.metadata.labels = None;
    let template = other.spec.as_mut().and_then(|spec| spec.template.as_mut()).expect("has one");
    template.spec = crate::testing::template("v9").spec;
    bench.api.create(&other);
    bench.api.create(&deployment);
    complete(&bench, 2).await;
    bench.quiet().await;
    assert_eq!(status_of(&bench).and_then(|status| status.collision_count), Some(1));
    assert_eq!(bench.api.list::<ReplicaSet>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_replica_set_left_behind_is_adopted() {
    let bench = Bench::start(ALL);
    let deployment = web(2, "1", "0");
    let mut left = revision::replica_set(&deployment, 0);
    left.metadata.owner_references = None;
    left.metadata.name = Some("left".to_owned());
    left.spec.as_mut().expect("has one").replicas = Some(2);
    bench.api.create(&left);
    bench.api.create(&deployment);
    complete(&bench, 2).await;
    bench.quiet().await;
    let sets = bench.api.list::<ReplicaSet>();
    assert_eq!(sets.len(), 1);
    assert_eq!(pods::controller_of(&sets[0].metadata).map(|owner| owner.name.as_str()), Some("web"));
}

/// Under faults of every kind, with templates and sizes that change: bounds hold while the size stays, and
/// in the end everything is as asked for.
#[tokio::test(start_paused = true)]
async fn under_faults_rollouts_keep_their_bounds() {
    for seed in 0..6 {
        random::seed(seed);
        let bench = Bench::start(ALL);
        bench.api.create(&web(4, "2", "1"));
        complete(&bench, 4).await;
        chaos(&bench.api, 5);
        for step in 0..60 {
            match random::below(10) {
                0 => {
                    let version = format!("v{}", random::below(3));
                    bench.api.edit("ns", "web", |deployment: &mut Deployment| {
                        spec(deployment).template = template(&version);
                    });
                }
                1 => bench.api.cut_watches(),
                2 => bench.api.compact(),
                _ if step % 3 == 0 => node(&bench.api),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random::below(200))).await;
            let alive: Vec<_> = bench.api.list::<Pod>().into_iter().filter(pods::is_active).collect();
            let ready = alive.iter().filter(|pod| pods::is_ready(pod)).count();
            assert!(alive.len() <= 6, "seed {seed}: {} pods", alive.len());
            assert!(ready >= 3, "seed {seed}: {ready} are ready");
        }
        bench.api.clear_faults();
        complete(&bench, 4).await;
        bench.quiet().await;
        bench.handle.shutdown().await;
    }
}
