//! Patches do what Kubernetes does, and never harm.

#![allow(clippy::needless_pass_by_value, reason = "tables of JSON literals read better without references")]

use proptest::prelude::{
    BoxedStrategy, Just, Strategy as _, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    schema::{MAX_DEPTH, height, message},
    status::Status,
};

mod json_patches {
    use super::*;

    #[track_caller]
    fn check(object: Value, patch: Value, want: Value) {
        assert_eq!(json_patch(&object, patch.to_string().as_bytes()), Ok(want));
    }

    #[track_caller]
    fn refuse(object: &Value, patch: &str, code: u16, want: &str) {
        let error = json_patch(object, patch.as_bytes()).unwrap_err();
        assert_eq!((error.to_string().as_str(), Status::from(error).code()), (want, code));
    }

    #[test]
    fn operations() {
        check(json!({"a": {}}), json!([{"op": "add", "path": "/a/b", "value": 1}]), json!({"a": {"b": 1}}));
        check(
            json!({"a": [1, 3]}),
            json!([{"op": "add", "path": "/a/1", "value": 2}]),
            json!({"a": [1, 2, 3]}),
        );
        check(json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]}));
        check(json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1]}));
        check(
            json!({"a": 1}),
            json!([{"op": "replace", "path": "/a", "value": {"b": []}}]),
            json!({"a": {"b": []}}),
        );
        check(json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1}));
        check(
            json!({"a": {"x": 1}}),
            json!([{"op": "copy", "from": "/a", "path": "/b"}]),
            json!({"a": {"x": 1}, "b": {"x": 1}}),
        );
        check(
            json!({"a/b": {"~": 1}}),
            json!([{"op": "test", "path": "/a~1b/~0", "value": 1}]),
            json!({"a/b": {"~": 1}}),
        );
        check(json!({"a": 1}), json!([{"op": "test", "path": "/b", "value": null}]), json!({"a": 1}));
        check(json!({"a": 1}), json!([{"op": "test", "path": "/b"}]), json!({"a": 1}));
        check(json!({}), json!([]), json!({}));
    }

    #[test]
    fn what_is_refused() {
        let object = json!({"a": {"b": 1}});
        refuse(&object, "{}", 400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
        refuse(&object, "[", 400, "unexpected end of JSON input");
        refuse(
            &object,
            r#"[{"op": "test", "path": "/a/b", "value": 2}]"#,
            422,
            "testing value /a/b failed: test failed",
        );
        refuse(
            &object,
            r#"[{"op": "replace", "path": "/a/c", "value": 2}]"#,
            422,
            "replace operation does not apply: doc is missing key: /a/c: missing value",
        );
        refuse(
            &object,
            r#"[{"op": "add", "path": "/x/c", "value": 2}]"#,
            422,
            "add operation does not apply: doc is missing path: \"/x/c\": missing value",
        );
        refuse(
            &object,
            r#"[{"op": "remove", "path": "/x"}]"#,
            422,
            "remove operation does not apply: doc is missing path: \"/x\": missing value",
        );
        refuse(&object, r#"[{"op": "frob", "path": "/x"}]"#, 422, "Unexpected kind: frob");
        let many = vec![json!({"op": "test", "path": "/a/b", "value": 1}); 10_001];
        refuse(
            &object,
            &Value::from(many).to_string(),
            413,
            "The allowed maximum operations in a JSON patch is 10000, got 10001",
        );
    }

    #[test]
    fn copies_cannot_explode() {
        let mut patch = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(1000)]})];
        patch.extend((0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        let error = json_patch(&json!({}), Value::from(patch).to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("Unable to complete the copy"), "{error}");
    }

    #[test]
    fn depth_cannot_grow() {
        let deep = (0..60).fold(json!(1), |inner, _| json!({"a": inner}));
        let path = "/a".repeat(60);
        for patch in [
            json!([{"op": "add", "path": path, "value": deep}]),
            json!([{"op": "replace", "path": path, "value": deep}]),
            json!([{"op": "add", "path": "/b", "value": deep}, {"op": "copy", "from": "/b", "path": path}]),
            json!([{"op": "add", "path": "/b", "value": deep}, {"op": "move", "from": "/b", "path": path}]),
        ] {
            let error = json_patch(&deep, patch.to_string().as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "exceeded max depth");
        }
    }
}

/// The examples of RFC 7386, appendix A, whose patch is an object.
#[test]
fn merge_patches() {
    #[track_caller]
    fn check(object: Value, patch: Value, want: Value) {
        assert_eq!(merge_patch(&object, &patch), Ok(want));
    }
    check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
    check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
    check(json!({"a": "b"}), json!({"a": null}), json!({}));
    check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
    check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
    check(json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]}));
    check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
    check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
    check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
    check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
    check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
    assert_eq!(merge_patch(&json!({}), &json!([])).unwrap_err().to_string(), "Invalid JSON Patch");
}

mod strategic_patches {
    use super::*;

    #[track_caller]
    fn check(name: &str, object: Value, patch: Value, want: Value) {
        assert_eq!(strategic_merge(message(name).unwrap(), &object, &patch), Ok(want));
    }

    #[track_caller]
    fn refuse(name: &str, object: Value, patch: Value, want: &str) {
        let error = strategic_merge(message(name).unwrap(), &object, &patch).unwrap_err();
        assert_eq!((error.to_string().as_str(), Status::from(error).code()), (want, 400));
    }

    const SPEC: &str = "core.v1.PodSpec";

    #[test]
    fn fields_are_merged_and_removed() {
        check(
            "core.v1.Pod",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"nodeName": "n", "hostname": "h"}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"nodeName": null, "hostname": "i", "gone": null}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"hostname": "i"}}),
        );
        check(
            "core.v1.Pod",
            json!({}),
            json!({"spec": {"hostname": "h", "os": {"name": null}}}),
            json!({"spec": {"hostname": "h", "os": {}}}),
        );
    }

    #[test]
    fn lists_are_merged_by_key() {
        let containers = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
        check(
            SPEC,
            containers.clone(),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
        );
        check(
            SPEC,
            containers.clone(),
            json!({"containers": [{"$patch": "delete", "name": "a"}]}),
            json!({"containers": [{"name": "b", "image": "1"}]}),
        );
        check(
            SPEC,
            containers.clone(),
            json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}),
            json!({"containers": [{"name": "z"}]}),
        );
        check(
            SPEC,
            containers,
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": null}]}]}),
            json!({"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "1"}]}),
        );
        // Lists without a merge strategy are replaced.
        check(
            SPEC,
            json!({"tolerations": [{"key": "a"}, {"key": "b"}]}),
            json!({"tolerations": [{"key": "c"}]}),
            json!({"tolerations": [{"key": "c"}]}),
        );
        // Merged, nested in a merged item.
        check(
            SPEC,
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "3"}, {"name": "Y", "$patch": "delete"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "3"}]}]}),
        );
    }

    #[test]
    fn elements_are_ordered() {
        let env = |names: &str| {
            Value::from(names.chars().map(|c| json!({"name": c.to_string()})).collect::<Vec<_>>())
        };
        #[track_caller]
        fn check_order(env: impl Fn(&str) -> Value, before: &str, patch: &str, order: &str, want: &str) {
            check(
                "core.v1.Container",
                json!({"env": env(before)}),
                json!({"env": env(patch), "$setElementOrder/env": env(order)}),
                json!({"env": env(want)}),
            );
        }
        check_order(env, "abc", "", "cab", "cab");
        check_order(env, "abc", "d", "dabc", "dabc");
        check_order(env, "abc", "d", "acd", "abcd");
        check_order(env, "abxc", "", "cba", "xcba");
        check_order(env, "", "ba", "bca", "ba");
        // Without the directive the order of the patch counts for what it names.
        check(
            "core.v1.Container",
            json!({"env": env("abc")}),
            json!({"env": env("cxa")}),
            json!({"env": env("bcxa")}),
        );
        refuse(
            "core.v1.Container",
            json!({"env": env("ab")}),
            json!({"env": env("ab"), "$setElementOrder/env": env("b")}),
            "The order in patch list:\n[map[name:a] map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        );
    }

    #[test]
    fn scalars_in_lists() {
        let meta = "meta.v1.ObjectMeta";
        check(
            meta,
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["c", "b"]}),
            json!({"finalizers": ["c", "a", "b"]}),
        );
        check(
            meta,
            json!({"finalizers": ["a", "b", "c"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["b", "x"]}),
            json!({"finalizers": ["a", "c"]}),
        );
        check(meta, json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["b"]}), json!({}));
        check(
            meta,
            json!({"finalizers": ["a", "b"]}),
            json!({"$setElementOrder/finalizers": ["b", "c", "a"], "finalizers": ["c"]}),
            json!({"finalizers": ["b", "c", "a"]}),
        );
    }

    #[test]
    fn keys_are_retained() {
        let strategy = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        check(
            "apps.v1.DeploymentSpec",
            strategy.clone(),
            json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
            json!({"strategy": {"type": "Recreate"}}),
        );
        check(
            SPEC,
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
        );
        for bad in [json!({"$retainKeys": ["type"], "rollingUpdate": {}}), json!({"$retainKeys": "type"})] {
            refuse(
                "apps.v1.DeploymentSpec",
                strategy.clone(),
                json!({"strategy": bad}),
                "invalid patch format of retainKeys",
            );
        }
    }

    #[test]
    fn objects_are_replaced_and_emptied() {
        let labels = json!({"nodeSelector": {"a": "1"}, "hostname": "h"});
        check(
            SPEC,
            labels.clone(),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}, "hostname": "h"}),
        );
        check(
            SPEC,
            labels.clone(),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}, "hostname": "h"}),
        );
        check(SPEC, labels, json!({"$patch": "replace", "nodeName": "n"}), json!({"nodeName": "n"}));
        check(SPEC, json!({}), json!({"nodeSelector": {"$patch": "delete"}}), json!({}));
        check(
            "policy.v1.PodDisruptionBudgetSpec",
            json!({"selector": {"matchLabels": {"a": "1"}}}),
            json!({"selector": {"matchLabels": {"b": "2"}}}),
            json!({"selector": {"matchLabels": {"b": "2"}}}),
        );
    }

    #[test]
    fn what_is_refused() {
        let containers = json!({"containers": [{"name": "a"}]});
        refuse(SPEC, containers.clone(), json!([]), "invalid JSON document");
        refuse(
            SPEC,
            containers.clone(),
            json!({"containers": [{"image": "x", "args": ["y", 1]}]}),
            "map: map[args:[y 1] image:x] does not contain declared merge key: name",
        );
        refuse(
            SPEC,
            containers.clone(),
            json!({"containers": [{"name": "a", "$patch": "frob"}]}),
            "unknown patch type: frob in map: map[$patch:frob name:a]",
        );
        refuse(
            SPEC,
            containers.clone(),
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            "merging lists cannot yet be specified in the patch",
        );
        refuse(
            SPEC,
            containers.clone(),
            json!({"containers": ["x"]}),
            "list element types are not identical: [[map[name:a]] [x]]",
        );
        refuse(
            SPEC,
            json!({"foo": {}}),
            json!({"foo": {}}),
            "unable to find api field in struct PodSpec for the json field \"foo\"",
        );
        refuse(
            SPEC,
            containers.clone(),
            json!({"$setElementOrder": []}),
            "invalid patch format of setElementOrder list",
        );
        refuse(
            SPEC,
            containers,
            json!({"$deleteFromPrimitiveList": []}),
            "invalid patch format of primitive list",
        );
    }
}

const NAMES: &[&str] = &[
    "a",
    "b",
    "spec",
    "containers",
    "name",
    "env",
    "volumes",
    "finalizers",
    "metadata",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$setElementOrder/finalizers",
    "$deleteFromPrimitiveList/finalizers",
];

fn any_value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4).prop_map(Value::from),
        "[a-c]".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(proptest::sample::select(NAMES), inner, 0..5).prop_map(|map| map
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
    .boxed()
}

fn any_pod() -> BoxedStrategy<Value> {
    let env = proptest::collection::btree_map("[A-C]", "[a-c]", 0..3).prop_map(|env| {
        env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Value>()
    });
    let containers = proptest::collection::btree_map("[a-d]", env, 1..4).prop_map(|all| {
        all.into_iter().map(|(name, env)| json!({"name": name, "env": env})).collect::<Value>()
    });
    let labels = proptest::collection::btree_map("[a-c]", "[a-c]", 0..3);
    let finalizers = proptest::collection::btree_set("[a-d]", 0..4);
    (containers, labels, finalizers)
        .prop_map(|(containers, labels, finalizers)| {
            json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": containers}})
        })
        .boxed()
}

proptest! {
    #[test]
    fn a_pod_merged_into_itself_stays(pod in any_pod()) {
        let message = message("core.v1.Pod").unwrap();
        prop_assert_eq!(&strategic_merge(message, &pod, &pod).unwrap(), &pod);
        prop_assert_eq!(&strategic_merge(message, &pod, &json!({})).unwrap(), &pod);
        prop_assert_eq!(&merge_patch(&pod, &pod).unwrap(), &pod);
    }

    #[test]
    fn merging_twice_is_merging_once(one in any_pod(), two in any_pod()) {
        let message = message("core.v1.Pod").unwrap();
        let once = strategic_merge(message, &one, &two).unwrap();
        prop_assert_eq!(&strategic_merge(message, &once, &two).unwrap(), &once);
        let names = |pod: &Value| pod["spec"]["containers"].as_array().unwrap().iter()
            .map(|container| container["name"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>();
        let union = names(&one).union(&names(&two)).cloned().collect::<std::collections::BTreeSet<_>>();
        prop_assert_eq!(names(&once), union);
    }

    #[test]
    fn hostile_patches_do_no_harm(object in any_value(), patch in any_value()) {
        let deepest = height(&object).max(height(&patch));
        for result in [
            strategic_merge(message("core.v1.Pod").unwrap(), &object, &patch),
            merge_patch(&object, &patch),
            json_patch(&object, patch.to_string().as_bytes()),
        ].into_iter().flatten() {
            prop_assert!(height(&result) <= deepest.max(1));
        }
    }

    #[test]
    fn hostile_operations_do_no_harm(
        object in any_value(),
        steps in proptest::collection::vec((0..6_usize, "(/[ab0-2-]|/-1){0,4}", "(/[ab0-2]){0,4}", any_value()), 0..5),
    ) {
        let operations = ["add", "remove", "replace", "move", "copy", "test"];
        let patch: Value = steps.into_iter()
            .map(|(op, path, from, value)| json!({"op": operations[op], "path": path, "from": from, "value": value}))
            .collect();
        if let Ok(result) = json_patch(&object, patch.to_string().as_bytes()) {
            prop_assert!(height(&result) <= MAX_DEPTH);
        }
    }

    #[test]
    fn merge_patch_leaves_no_null_of_its_own(patch in any_value()) {
        fn has_null(value: &Value) -> bool {
            value.as_object().is_some_and(|map| map.values().any(|value| value.is_null() || has_null(value)))
        }
        if let Ok(result) = merge_patch(&json!({}), &patch) {
            prop_assert!(!has_null(&result));
        }
    }
}
