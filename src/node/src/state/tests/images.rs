//! Images that come late, change, or cannot be had.

use super::*;

#[test]
fn failed_pulls_are_relabelled_and_retried() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.seen.clear();
    let waiting = Waiting { reason: "ErrImagePull", message: Some("no such image".into()) };
    bench.feed(Input::LaunchFailed { index: 0, waiting: waiting.clone() });
    bench.expect(&["Failed: Error: ErrImagePull"]);
    bench.expect_views(&["ErrImagePull x0"]);
    bench.pass(1);
    bench.feed(Input::Tick);
    bench.expect(&["BackOff: Back-off pulling image \"i\"", "Failed: Error: ImagePullBackOff"]);
    bench.expect_views(&["ImagePullBackOff x0"]);
    bench.pass(9);
    bench.feed(Input::Tick);
    bench.expect(&["launch 0.0"]);
    bench.expect_views(&["ImagePullBackOff x0"]);
    bench.feed(Input::LaunchFailed { index: 0, waiting });
    bench.pass(1);
    bench.feed(Input::Tick);
    bench.seen.clear();
    bench.pass(18);
    bench.feed(Input::Tick);
    bench.expect(&[]);
    bench.pass(1);
    bench.feed(Input::Tick);
    bench.expect(&["launch 0.0"]);
    bench.up(0);
    bench.expect_views(&["Running x0 ready"]);
}

#[test]
fn missing_configuration_is_tried_again_when_it_appears() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.seen.clear();
    let waiting =
        Waiting { reason: "CreateContainerConfigError", message: Some("configmap \"m\" not found".into()) };
    bench.feed(Input::LaunchFailed { index: 0, waiting });
    bench.expect(&["Failed: Error: configmap \"m\" not found"]);
    bench.feed(Input::SourcesChanged);
    bench.expect(&["launch 0.0"]);
}

fn new_image(index: usize) -> Input {
    Input::ImageChanged { index, image: "new".into() }
}

#[test]
fn a_new_image_restarts_a_running_container_whatever_the_policy_says() {
    for policy in ["Always", "OnFailure", "Never"] {
        for code in [137, 0] {
            let mut bench = Bench::simple(policy);
            bench.feed(Input::SetUp);
            bench.up(0);
            bench.seen.clear();
            bench.feed(new_image(0));
            bench.expect(&["Killing: Container c definition changed, will be restarted", "stop 0"]);
            bench.expect_views(&["Running x0 ready"]);
            assert_eq!(bench.machine.images().collect::<Vec<_>>(), ["new"]);
            bench.feed(Input::ImageChanged { index: 0, image: "newer".into() });
            bench.expect(&[]);
            bench.exit(0, code);
            bench.expect(&["launch 0.1"]);
            let reason = if code == 0 { "Completed" } else { "Error" };
            bench.expect_views(&[&format!("ContainerCreating last={reason}({code}) x0")]);
            bench.up(0);
            bench.expect_views(&[&format!("Running last={reason}({code}) x1 ready")]);
        }
    }
}

#[test]
fn a_new_image_forgives_crashes() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.exit(0, 1);
    bench.up(0);
    bench.exit(0, 1);
    bench.seen.clear();
    bench.expect_views(&["CrashLoopBackOff last=Error(1) x1"]);
    bench.feed(new_image(0));
    bench.expect(&["launch 0.2"]);
    bench.up(0);
    bench.exit(0, 1);
    bench.expect(&["BackOff: Back-off restarting failed container c in pod p_n(u)"]);
    assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(10)));
    bench.feed(new_image(0));
    bench.up(0);
    bench.seen.clear();
    bench.feed(new_image(0));
    bench.exit(0, 137);
    bench.up(0);
    bench.exit(0, 1);
    bench.expect(&[
        "Killing: Container c definition changed, will be restarted",
        "stop 0",
        "launch 0.4",
        "launch 0.5",
    ]);
}

#[test]
fn a_new_image_is_tried_at_once_by_what_waits() {
    #[track_caller]
    fn check(reason: &'static str, seconds: u64, shown: &str) {
        let mut bench = Bench::simple("Never");
        bench.feed(Input::SetUp);
        bench.feed(Input::LaunchFailed { index: 0, waiting: Waiting { reason, message: None } });
        bench.pass(seconds);
        bench.feed(Input::Tick);
        bench.seen.clear();
        bench.feed(new_image(0));
        bench.expect(&["launch 0.0"]);
        bench.expect_views(&[&format!("{shown} x0")]);
        // And what the new one lacks is not held against it longer than a first failure.
        bench.feed(Input::LaunchFailed { index: 0, waiting: Waiting { reason, message: None } });
        bench.pass(1);
        bench.feed(Input::Tick);
        if reason == "ErrImagePull" {
            bench.expect(&[
                "Failed: Error: ErrImagePull",
                "BackOff: Back-off pulling image \"new\"",
                "Failed: Error: ImagePullBackOff",
            ]);
        }
        assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(9)));
    }
    check("ErrImagePull", 0, "ErrImagePull");
    check("ErrImagePull", 1, "ImagePullBackOff");
    check("SignatureValidationFailed", 0, "SignatureValidationFailed");
    check("SignatureValidationFailed", 1, "ImagePullBackOff");
    check("InvalidImageName", 1, "InvalidImageName");
    check("ErrImageNeverPull", 1, "ErrImageNeverPull");
    check("CreateContainerError", 1, "CreateContainerError");
}

#[test]
fn a_new_image_replaces_a_launch_under_way() {
    let mut bench = Bench::simple("Always");
    bench.feed(new_image(0));
    bench.expect(&["setup"]);
    bench.feed(Input::SetUp);
    bench.expect(&["launch 0.0"]);
    bench.feed(new_image(0));
    bench.expect(&["abandon 0", "launch 0.0"]);
    bench.expect_views(&["ContainerCreating x0"]);
}

#[test]
fn a_new_image_starts_nothing_in_a_pod_that_ends() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.feed(new_image(0));
    bench.seen.clear();
    bench.stop(30);
    bench.feed(new_image(0));
    bench.expect(&["abort"]);
    bench.exit(0, 137);
    bench.expect(&["teardown"]);
    bench.feed(new_image(0));
    bench.expect(&[]);
}

#[test]
fn new_images_of_init_containers() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "side", "image": "i", "restartPolicy": "Always"},
            {"name": "init", "image": "i"},
        ],
        "containers": [{"name": "main", "image": "i"}],
    });
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.up(1);
    bench.seen.clear();
    bench.feed(new_image(1));
    bench.expect(&[]);
    bench.feed(new_image(0));
    bench.expect(&["Killing: Init container side definition changed", "stop 0"]);
    bench.exit(0, 137);
    bench.expect(&["launch 0.1"]);
    bench.exit(1, 0);
    bench.expect(&["launch 2.0"]);
    bench.feed(new_image(1));
    bench.expect(&[]);
    bench.up(2);
    bench.exit(2, 0);
    bench.expect(&["abandon 0", "teardown"]);
}
