//! Bodies are decoded as the same client would have sent them as JSON.

#![allow(clippy::needless_pass_by_value, reason = "tables of JSON literals read better without references")]

use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;

use super::*;
use crate::schema::{conform_message, message_for};

/// A body from JSON, as Go's marshaller would write it, driven by the same table.
mod encode {
    use base64::Engine;

    use super::*;

    pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push((value as u8) | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    pub(super) fn int(number: u32, value: i64, out: &mut Vec<u8>) {
        varint(u64::from(number) << 3, out);
        varint(value.cast_unsigned(), out);
    }

    pub(super) fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
        varint((u64::from(number) << 3) | 2, out);
        varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }

    pub(super) fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let (mut typemeta, mut out) = (Vec::new(), MAGIC.to_vec());
        bytes(1, api_version.as_bytes(), &mut typemeta);
        bytes(2, kind.as_bytes(), &mut typemeta);
        bytes(1, &typemeta, &mut out);
        bytes(2, raw, &mut out);
        bytes(3, b"", &mut out);
        bytes(4, b"", &mut out);
        out
    }

    pub(super) fn object(message: &Message, map: &Map<String, Value>) -> Vec<u8> {
        let mut out = Vec::new();
        for number in message.wire_numbers() {
            match message.on_wire(number).unwrap() {
                OnWire::Inline(inlined) => bytes(number, &object(inlined, map), &mut out),
                OnWire::Field(field) => {
                    let value = map.get(field.json).unwrap_or(&Value::Null);
                    match (&field.type_, value) {
                        (Type::List(item), Value::Array(items)) => {
                            items.iter().for_each(|value| self::value(number, item, value, &mut out));
                        }
                        (Type::Map(item), Value::Object(entries)) => {
                            for (key, value) in entries {
                                let mut entry = Vec::new();
                                bytes(1, key.as_bytes(), &mut entry);
                                self::value(2, item, value, &mut entry);
                                bytes(number, &entry, &mut out);
                            }
                        }
                        // Go writes the zero of what is no pointer.
                        (Type::String, Value::Null) if !field.keep_zero => bytes(number, b"", &mut out),
                        (Type::Bool | Type::Int32 | Type::Int64, Value::Null) if !field.keep_zero => {
                            int(number, 0, &mut out);
                        }
                        (Type::Time, Value::Null) => bytes(number, b"", &mut out),
                        (_, Value::Null) => {}
                        (type_, value) => self::value(number, type_, value, &mut out),
                    }
                }
            }
        }
        out
    }

    fn value(number: u32, type_: &Type, value: &Value, out: &mut Vec<u8>) {
        let text = || value.as_str().unwrap();
        let only = |payload: &[u8]| {
            let mut inner = Vec::new();
            bytes(1, payload, &mut inner);
            inner
        };
        match type_ {
            Type::String => bytes(number, text().as_bytes(), out),
            Type::Bool => int(number, value.as_bool().unwrap().into(), out),
            Type::Int32 | Type::Int64 => int(number, value.as_i64().unwrap(), out),
            Type::Double => {
                varint((u64::from(number) << 3) | 1, out);
                out.extend_from_slice(&value.as_f64().unwrap().to_le_bytes());
            }
            Type::Bytes => {
                bytes(number, &base64::engine::general_purpose::STANDARD.decode(text()).unwrap(), out);
            }
            Type::Quantity => bytes(number, &only(text().as_bytes()), out),
            Type::Json => bytes(number, &only(value.to_string().as_bytes()), out),
            Type::IntOrString => {
                let mut inner = Vec::new();
                int(1, value.is_string().into(), &mut inner);
                int(2, value.as_i64().unwrap_or(0), &mut inner);
                bytes(3, value.as_str().unwrap_or("").as_bytes(), &mut inner);
                bytes(number, &inner, out);
            }
            Type::Time | Type::MicroTime => {
                let time: jiff::Timestamp = text().parse().unwrap();
                let mut inner = Vec::new();
                int(1, time.as_second(), &mut inner);
                int(2, time.subsec_nanosecond().into(), &mut inner);
                bytes(number, &inner, out);
            }
            Type::StringList => {
                let mut inner = Vec::new();
                value
                    .as_array()
                    .unwrap()
                    .iter()
                    .for_each(|item| bytes(1, item.as_str().unwrap().as_bytes(), &mut inner));
                bytes(number, &inner, out);
            }
            Type::Message(message) => {
                bytes(number, &object(message.get(), value.as_object().unwrap()), out);
            }
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
                let props = message("apiextensions.v1.JSONSchemaProps").unwrap();
                let mut inner = Vec::new();
                match value {
                    Value::Bool(allows) => int(1, (*allows).into(), &mut inner),
                    Value::Object(map) if *type_ == Type::SchemaOrBool => {
                        int(1, 1, &mut inner);
                        bytes(2, &object(props, map), &mut inner);
                    }
                    Value::Object(map) => bytes(1, &object(props, map), &mut inner),
                    Value::Array(items) => items.iter().for_each(|item| match item {
                        Value::Object(map) => bytes(2, &object(props, map), &mut inner),
                        item => bytes(2, item.as_str().unwrap().as_bytes(), &mut inner),
                    }),
                    _ => unreachable!("no such schema"),
                }
                bytes(number, &inner, out);
            }
            Type::Duration | Type::List(_) | Type::Map(_) => unreachable!("in no object of the tests"),
        }
    }

    /// A whole body of an object with `apiVersion` and `kind`.
    pub(super) fn body(value: &Value) -> Vec<u8> {
        let (api_version, kind) = (value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap());
        let message = message_for(api_version, kind).unwrap();
        envelope(api_version, kind, &object(message, value.as_object().unwrap()))
    }
}

#[track_caller]
fn check(value: Value) {
    assert_eq!(decode(&encode::body(&value)).unwrap(), value);
    let message =
        message_for(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap()).unwrap();
    let mut conforming = value.clone();
    assert_eq!(conform_message(message, &mut conforming).unwrap(), []);
    assert_eq!(conforming, value, "nothing is left for conform to do");
}

#[test]
fn objects_survive() {
    check(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"x": "y", "e": ""}, "creationTimestamp": "2026-01-02T03:04:05Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}],
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {"f:x": {}}}}],
            "generation": 3, "deletionGracePeriodSeconds": 0, "finalizers": ["a/b"]},
        "spec": {
            "containers": [{"name": "c", "image": "i", "args": ["-x", ""],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k", "optional": false}}}],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 5},
                "readinessProbe": {"tcpSocket": {"port": 80}},
                "securityContext": {"runAsUser": 0, "privileged": false}}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "configMap": {"name": "n", "defaultMode": 420}}],
            "terminationGracePeriodSeconds": 0, "nodeSelector": {"a": "b"}, "securityContext": {"supplementalGroups": [1, 2]},
            "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": -1}],
        },
        "status": {},
    }));
    check(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"a": "ä"}, "binaryData": {"b": "/wA="}}),
    );
    check(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"empty": "", "b": "AQI="}, "type": "Opaque"}),
    );
    check(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
        "spec": {"holderIdentity": "h", "leaseDurationSeconds": 0, "renewTime": "2026-01-02T03:04:05.678901Z"}}));
    check(
        json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u"}, "dryRun": ["All"]}),
    );
    check(
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "status": {"allowed": false},
        "spec": {"user": "u", "extra": {"scopes": ["a", "b"]}, "nonResourceAttributes": {"path": "/", "verb": "get"}}}),
    );
    check(
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "w.e.x"},
        "spec": {"group": "e.x", "names": {"plural": "w", "kind": "W"}, "scope": "Cluster", "versions": [{"name": "v1",
            "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "maximum": 1.5, "default": {"a": [1]},
            "properties": {"p": {"items": {"type": "string"}, "additionalProperties": false, "dependencies": {"d": ["x"]}}},
            "additionalProperties": {"type": "integer"}, "enum": [1, "a"]}}}]},
        "status": {"acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"]}}),
    );
}

/// Bodies that kubectl 1.32.4 sent: `kubectl create configmap|deployment|secret|token|pdb|quota|cronjob`
/// and `kubectl auth can-i`.
#[test]
fn what_kubectl_sends_is_understood() {
    #[track_caller]
    fn check(body: &[u8], want: Value) {
        assert_eq!(decode(body).unwrap(), want);
    }
    check(
        include_bytes!("captured/configmap.bin"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}),
    );
    check(
        include_bytes!("captured/deployment.bin"),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "strategy": {},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                    {"name": "web", "image": "registry.local/web:1", "ports": [{"containerPort": 80}], "resources": {}}]}}},
            "status": {}}),
    );
    check(
        include_bytes!("captured/secret.bin"),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg=="}}),
    );
    check(
        include_bytes!("captured/token.bin"),
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": {"expirationSeconds": 600}, "status": {"token": ""}}),
    );
    check(
        include_bytes!("captured/pdb.bin"),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "p"},
            "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}}),
    );
    check(
        include_bytes!("captured/quota.bin"),
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
            "spec": {"hard": {"cpu": "1", "memory": "1Gi"}}, "status": {}}),
    );
    check(
        include_bytes!("captured/cronjob.bin"),
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"metadata": {"name": "c"}, "spec": {"template": {
                "metadata": {}, "spec": {"restartPolicy": "OnFailure", "containers": [
                    {"name": "c", "image": "i", "command": ["a", "b"], "resources": {}}]}}}}},
            "status": {}}),
    );
    check(
        include_bytes!("captured/review.bin"),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
            "spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}},
            "status": {"allowed": false}}),
    );
}

#[test]
fn zeros_that_go_writes_are_dropped() {
    // A pod spec with hostNetwork false (11), restartPolicy "" (3), and terminationGracePeriodSeconds 0 (4, a pointer).
    let mut spec = Vec::new();
    encode::int(11, 0, &mut spec);
    encode::bytes(3, b"", &mut spec);
    encode::int(4, 0, &mut spec);
    let message = message("core.v1.PodSpec").unwrap();
    assert_eq!(decode_message(message, &spec).unwrap(), json!({"terminationGracePeriodSeconds": 0}));
    // The last one counts.
    encode::bytes(3, b"Never", &mut spec);
    encode::int(4, -1, &mut spec);
    assert_eq!(
        decode_message(message, &spec).unwrap(),
        json!({"terminationGracePeriodSeconds": -1, "restartPolicy": "Never"})
    );
}

#[test]
fn unknown_fields_are_dropped_and_packed_lists_are_read() {
    let mut context = Vec::new();
    encode::bytes(4, &[1, 0x80, 0x01], &mut context);
    encode::int(4, 3, &mut context);
    encode::bytes(999, b"newer", &mut context);
    let message = message("core.v1.PodSecurityContext").unwrap();
    assert_eq!(decode_message(message, &context).unwrap(), json!({"supplementalGroups": [1, 128, 3]}));
}

#[test]
fn durations_are_written_as_go_does() {
    #[track_caller]
    fn check(nanos: i64, want: &str) {
        assert_eq!(go_duration(nanos), want);
    }
    check(0, "0s");
    check(5, "5ns");
    check(1_500, "1.5µs");
    check(2_000_000, "2ms");
    check(-1_500_000_000, "-1.5s");
    check(61_000_000_000, "1m1s");
    check(3_600_000_000_000, "1h0m0s");
}

#[test]
fn bad_bodies_are_refused() {
    #[track_caller]
    fn check(bytes: &[u8], want: &str) {
        assert_eq!(decode(bytes).unwrap_err().to_string(), want);
    }
    check(b"", "empty data");
    check(b"{}", "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]");
    check(b"k8s\0", "Object 'Kind' is missing in '{APIVersion: Kind:}'");
    check(b"k8s\0\x0a\x7f", "unexpected EOF");
    check(&encode::envelope("", "Pod", b""), "Object 'apiVersion' is missing in '{APIVersion: Kind:Pod}'");
    check(&encode::envelope("v1", "Nope", b""), "no kind \"Nope\" is registered for version \"v1\"");
    check(&encode::envelope("v1", "Pod", &[0x08, 0x01]), "proto: wrong wireType = 0");
    check(&encode::envelope("v1", "Pod", &[0x0b]), "proto: illegal wireType 3");
    check(&encode::envelope("v1", "Pod", &[0x02, 0x00]), "proto: illegal tag");
    check(&encode::envelope("v1", "Pod", &[0xff; 12]), "proto: integer overflow");
}

#[test]
fn depth_is_bounded() {
    let mut schema = Vec::new();
    for _ in 0..100_000 {
        // JSONSchemaProps.not
        let mut outer = Vec::with_capacity(schema.len() + 8);
        encode::bytes(28, &schema, &mut outer);
        if outer.len() > 4096 {
            break;
        }
        schema = outer;
    }
    let props = message("apiextensions.v1.JSONSchemaProps").unwrap();
    assert!(matches!(props.on_wire(28), Some(OnWire::Field(field)) if field.json == "not"));
    assert_eq!(decode_message(props, &schema), Err(ProtobufError::TooDeep));

    // JSON that is fine by itself but not at its place.
    let raw = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    let (mut inner, mut revision) = (Vec::new(), Vec::new());
    encode::bytes(1, raw.as_bytes(), &mut inner);
    encode::bytes(2, &inner, &mut revision);
    let message = message("apps.v1.ControllerRevision").unwrap();
    assert_eq!(decode_message(message, &revision), Err(ProtobufError::TooDeep));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..128), kind in prop_oneof![Just("Pod"), Just("Service"), Just("Node")]) {
        let _ = decode(&encode::envelope("v1", kind, &raw));
        let _ = decode(&raw);
    }

    #[test]
    fn damaged_bodies_do_not_panic(at in 0_usize..400, byte in any::<u8>()) {
        let mut body = encode::body(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}));
        let at = at % body.len();
        body[at] = byte;
        if let Ok(value) = decode(&body) {
            prop_assert!(value.is_object());
            prop_assert_eq!(serde_json::from_str::<Value>(&value.to_string()).unwrap(), value);
        }
    }
}
