//! The table is whole, and objects are made to fit it as Kubernetes does.

#![allow(clippy::needless_pass_by_value, reason = "tables of JSON literals read better without references")]

use proptest::prelude::{
    BoxedStrategy, Just, Strategy as _, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::json;

use super::*;
use crate::testing::kind;

#[test]
fn the_table_is_whole() {
    for message in table::table().messages() {
        let names: Vec<_> = message.fields.iter().map(|field| field.json).collect();
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]), "{}", message.name);
        for field in &message.fields {
            let merges_messages = field.strategy.merge
                && matches!(&field.type_, Type::List(item) if matches!(**item, Type::Message(_)));
            assert_eq!(field.merge_key.is_some(), merges_messages, "{}.{}", message.name, field.json);
        }
    }
    assert!(table::table().messages().len() > 400);
}

#[test]
fn messages_are_found() {
    let pod = message("core.v1.Pod").unwrap();
    assert!(pod.object);
    assert_eq!(pod.short_name(), "Pod");
    assert_eq!(message_for("v1", "Pod").unwrap().name, "core.v1.Pod");
    assert_eq!(message_for("apps/v1", "Deployment").unwrap().name, "apps.v1.Deployment");
    assert_eq!(message_for("apps/v1", "DeleteOptions").unwrap().name, "meta.v1.DeleteOptions");
    assert!(message_for("apps/v1", "Pod").is_none());
    let spec = message("core.v1.PodSpec").unwrap();
    let containers = spec.field("containers").unwrap();
    assert_eq!((containers.number, containers.merge_key, containers.required), (2, Some("name"), true));
    assert!(containers.strategy.merge && !containers.strategy.retain_keys);
    assert_eq!(containers.topology, Topology::Map(vec!["name"]));
    let volume = message("core.v1.Volume").unwrap();
    assert_eq!(volume.field("emptyDir").unwrap().number, 0, "a field of the inlined VolumeSource");
    assert!(
        matches!(volume.on_wire(2), Some(OnWire::Inline(source)) if source.name == "core.v1.VolumeSource")
    );
}

#[track_caller]
fn check(message_name: &str, object: Value, want: Value, problems: &[&str]) {
    let mut object = object;
    let found = conform_message(message(message_name).unwrap(), &mut object).unwrap();
    assert_eq!(object, want);
    assert_eq!(found.iter().map(StrictProblem::to_string).collect::<Vec<_>>(), problems);
}

#[test]
fn objects_are_made_to_fit() {
    check(
        "core.v1.Pod",
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": null, "y": "z"}, "annotations": {}},
            "spec": {
                "hostNetwork": false, "hostname": "", "terminationGracePeriodSeconds": 0, "nodeSelector": {},
                "containers": [{"name": "c", "foo": 1, "resources": {"limits": {"cpu": "0.5", "memory": 1073741824}},
                    "ports": [{"containerPort": 80, "hostPort": 0}], "env": [{"name": "A", "value": ""}]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "bar": {"deep": true},
            },
            "status": {},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"x": "", "y": "z"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1073741824"}},
                    "ports": [{"containerPort": 80}], "env": [{"name": "A"}]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {},
        }),
        &[r#"unknown field "spec.bar""#, r#"unknown field "spec.containers[0].foo""#],
    );
    check(
        "core.v1.Service",
        json!({"spec": {"ports": [{"port": 0, "targetPort": "http"}, {"port": 1, "targetPort": 0}, null]}}),
        json!({"spec": {"ports": [{"port": 0, "targetPort": "http"}, {"port": 1}, {}]}}),
        &[],
    );
    check(
        "apps.v1.ControllerRevision",
        json!({"data": {"any": {"thing": null}}, "revision": 0}),
        json!({"data": {"any": {"thing": null}}, "revision": 0}),
        &[],
    );
    check(
        "coordination.v1.Lease",
        json!({"spec": {"renewTime": "2026-01-02T03:04:05.5Z", "leaseDurationSeconds": 0}}),
        json!({"spec": {"renewTime": "2026-01-02T03:04:05.500000Z", "leaseDurationSeconds": 0}}),
        &[],
    );
    check(
        "apiextensions.v1.JSONSchemaProps",
        json!({"items": {"type": "string", "x": 1}, "additionalProperties": false,
               "dependencies": {"a": ["b"], "c": {"type": ""}}, "default": 0, "enum": [null, 1]}),
        json!({"items": {"type": "string"}, "additionalProperties": false,
               "dependencies": {"a": ["b"], "c": {}}, "default": 0, "enum": [null, 1]}),
        &[r#"unknown field "items.x""#],
    );
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    #[track_caller]
    fn check(message_name: &str, object: Value, want: &str) {
        let mut object = object;
        let error = conform_message(message(message_name).unwrap(), &mut object).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
    check(
        "apps.v1.Deployment",
        json!({"spec": {"replicas": "2"}}),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check(
        "apps.v1.Deployment",
        json!({"spec": {"replicas": 1.5}}),
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check(
        "apps.v1.Deployment",
        json!({"spec": {"replicas": 3_000_000_000_u64}}),
        "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check(
        "core.v1.Pod",
        json!({"spec": {"containers": "x"}}),
        "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
    );
    check(
        "core.v1.Pod",
        json!({"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
    );
    check(
        "core.v1.Pod",
        json!({"spec": {"restartPolicy": 1}}),
        "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
    );
    check(
        "core.v1.Pod",
        json!({"metadata": {"labels": {"a": 1}}}),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
    );
    check(
        "core.v1.Pod",
        json!({"metadata": []}),
        "json: cannot unmarshal array into Go struct field Pod.metadata of type v1.ObjectMeta",
    );
    check("core.v1.Pod", json!([]), "json: cannot unmarshal array into Go value of type v1.Pod");
    check(
        "core.v1.Pod",
        json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    check("core.v1.Secret", json!({"data": {"a": "!"}}), "illegal base64 data at input byte 0");
    check(
        "core.v1.Service",
        json!({"spec": {"ports": [{"targetPort": true}]}}),
        "json: cannot unmarshal bool into Go value of type int32",
    );
}

#[test]
fn problems_are_capped() {
    let mut object: Value =
        (0..1000).map(|n| (format!("f{n}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let problems = conform_message(message("core.v1.Pod").unwrap(), &mut object).unwrap();
    assert_eq!((problems.len(), object), (MAX_PROBLEMS, json!({})));
}

#[test]
fn custom_objects_keep_everything_but_their_metadata_is_checked() {
    let kind = kind("example.com", "Widget", "widgets", "");
    let mut object = json!({"metadata": {"name": "w", "oops": 1}, "spec": {"a": null}});
    let problems = conform(&kind, &mut object).unwrap();
    assert_eq!(problems, [StrictProblem::UnknownField("metadata.oops".into())]);
    assert_eq!(object, json!({"metadata": {"name": "w"}, "spec": {"a": null}}));
    let error = conform(&kind, &mut json!({"metadata": {"name": 1}})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string"
    );
}

#[test]
fn duplicate_fields_are_reported() {
    #[track_caller]
    fn check(text: &str, want: Value, problems: &[&str]) {
        let (value, found) = parse_json(text.as_bytes()).unwrap();
        assert_eq!(value, want);
        assert_eq!(found.iter().map(StrictProblem::to_string).collect::<Vec<_>>(), problems);
    }
    check(
        r#"{"a": {"b": 1, "b": 2}, "a": 3}"#,
        json!({"a": 3}),
        &[r#"duplicate field "a.b""#, r#"duplicate field "a""#],
    );
    check(
        r#"[{"a": [{"b": 1, "b": 1.5}]}]"#,
        json!([{"a": [{"b": 1.5}]}]),
        &[r#"duplicate field "[0].a[0].b""#],
    );
    check(
        r#"{"a": -1, "b": null, "c": true, "d": "\u00e4"}"#,
        json!({"a": -1, "b": null, "c": true, "d": "ä"}),
        &[],
    );
}

#[test]
fn what_is_no_json_is_told_in_gos_words() {
    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(parse_json(text.as_bytes()).unwrap_err().to_string(), want, "{text}");
    }
    check("", "unexpected end of JSON input");
    check("{\"a\": ", "unexpected end of JSON input");
    check("x", "invalid character 'x' looking for beginning of value");
    check("{\"a\": }", "invalid character '}' looking for beginning of value");
    check("{\n  \"a\": 1 x}", "invalid character 'x' after object key:value pair");
    check("[1 2]", "invalid character '2' after array element");
    check("{a}", "invalid character 'a' looking for beginning of object key string");
    check("{\"a\" 1}", "invalid character '1' after object key");
    check("{} x", "invalid character 'x' after top-level value");
}

#[test]
fn depth_is_bounded() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let (value, _) = parse_json(deep(MAX_DEPTH).as_bytes()).unwrap();
    assert!(!is_too_deep(&value));
    let answer = json!({"items": [{"object": value}]}).to_string();
    assert!(serde_json::from_str::<Value>(&answer).is_ok(), "what is let in can be read back");
    for depth in [MAX_DEPTH + 1, 200, 1_000_000] {
        let error = parse_json(deep(depth).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "exceeded max depth");
    }
    assert!(is_too_deep(&json!([value])));
}

fn any_json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let field = prop_oneof![proptest::sample::select(FIELDS).prop_map(str::to_owned), "[a-z]{1,3}",];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(field, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}

const FIELDS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "containers",
    "volumes",
    "name",
    "labels",
    "ports",
    "containerPort",
    "env",
    "value",
    "resources",
    "limits",
    "cpu",
    "emptyDir",
    "hostNetwork",
    "ownerReferences",
    "creationTimestamp",
];

proptest! {
    #[test]
    fn what_fits_once_fits_for_good(mut object in any_json()) {
        let pod = message("core.v1.Pod").unwrap();
        if conform_message(pod, &mut object).is_ok() {
            let mut again = object.clone();
            prop_assert_eq!(conform_message(pod, &mut again).unwrap(), vec![]);
            prop_assert_eq!(again, object);
        }
    }

    #[test]
    fn parsing_agrees_with_serde(value in any_json()) {
        let text = value.to_string();
        let (parsed, problems) = parse_json(text.as_bytes()).unwrap();
        prop_assert_eq!(parsed, serde_json::from_str::<Value>(&text).unwrap());
        prop_assert!(problems.is_empty());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse_json(&bytes);
    }
}
