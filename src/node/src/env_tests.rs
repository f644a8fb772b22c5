//! Tables of environments and argv.

use serde_json::{Value, json};

use super::*;

struct Objects;

impl Sources for Objects {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        let map = json!({"data": {"colour": "red", "shape": "round"}});
        (namespace == "n" && name == "map").then(|| Arc::new(serde_json::from_value(map).unwrap()))
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        let secret = json!({"data": {"token": "aHVzaA=="}});
        (namespace == "n" && name == "secret").then(|| Arc::new(serde_json::from_value(secret).unwrap()))
    }
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "web", "tier": "x\"y"}},
        "spec": {"nodeName": "node", "serviceAccountName": "default",
            "containers": [{"name": "other", "resources": {"limits": {"cpu": "123m"}}}],
            "initContainers": [{"name": "first", "resources": {"requests": {"memory": "9"}}}]},
    }))
    .unwrap()
}

fn environment(container: &Value) -> Result<Environment, EnvError> {
    let pod = pod();
    let allocatable = Allocatable { cpu_milli: 1500, memory: 1 << 30, ephemeral_storage: 0 };
    let facts = PodFacts {
        pod: &pod,
        pod_ip: Some("10.128.0.2".parse().unwrap()),
        pod_ip6: None,
        hostname: hostname(&pod),
        host_ip: "10.0.0.1".parse().unwrap(),
        allocatable,
    };
    let services = BTreeMap::from([("DB_SERVICE_HOST".to_owned(), "10.96.0.7".to_owned())]);
    let image = [("PATH".to_owned(), "/".to_owned())];
    let container = serde_json::from_value(container.clone()).unwrap();
    Environment::of(&facts, &container, &image, &services, &Objects)
}

/// The variables that a container's own spec adds.
#[track_caller]
fn check(container: &Value, expected: &[(&str, &str)]) {
    let env = environment(container).unwrap().into_vec();
    let own: Vec<_> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !["PATH", "HOSTNAME", "DB_SERVICE_HOST"].contains(name))
        .collect();
    assert_eq!(own, expected);
}

#[track_caller]
fn check_var(source: &Value, expected: Result<&str, &str>) {
    let container = json!({"name": "c", "env": [{"name": "X", "valueFrom": source}], "resources": {
        "limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"},
    }});
    let found = environment(&container).map(|env| env.get("X").unwrap_or("(none)").to_owned());
    assert_eq!(found.as_deref().map_err(ToString::to_string), expected.map_err(str::to_owned));
}

#[test]
fn image_host_name_and_services_come_first() {
    let env = environment(&json!({"name": "c", "env": [{"name": "PATH", "value": "/bin"}]})).unwrap();
    let expected = [("PATH", "/bin"), ("HOSTNAME", "p"), ("DB_SERVICE_HOST", "10.96.0.7")];
    assert_eq!(env.into_vec(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn later_definitions_see_earlier_ones() {
    check(
        &json!({"name": "c", "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(LATER)-$$(A)-$(DB_SERVICE_HOST)"},
            {"name": "LATER", "value": "2"},
            {"name": "A", "value": "3"},
        ]}),
        &[("A", "3"), ("B", "1-$(LATER)-$(A)-10.96.0.7"), ("LATER", "2")],
    );
}

#[test]
fn what_refers_to_itself_in_circles_of_two_does_not_grow_without_end() {
    let doubled =
        |n: usize| json!({"name": format!("A{n}"), "value": format!("$(A{0})$(A{0})", n.wrapping_sub(1))});
    let mut env = vec![json!({"name": "A0", "value": "0123456789"})];
    env.extend((1..60).map(doubled));
    let container = json!({"name": "c", "env": env});
    assert_eq!(environment(&container).unwrap_err().to_string(), "argument list too long");

    let args = vec!["$(A15)"; 100];
    let container = json!({"name": "c", "env": &env[..16], "args": args});
    let env = environment(&container).unwrap();
    let container = serde_json::from_value(container).unwrap();
    assert_eq!(arguments(&container, &[], &[], &env), Err(EnvError::TooLong));
}

#[test]
fn whole_objects() {
    check(
        &json!({"name": "c", "envFrom": [
            {"configMapRef": {"name": "map"}},
            {"prefix": "S_", "secretRef": {"name": "secret"}},
            {"configMapRef": {"name": "absent", "optional": true}},
        ], "env": [{"name": "colour", "value": "blue"}]}),
        &[("S_token", "hush"), ("colour", "blue"), ("shape", "round")],
    );
    let absent = json!({"name": "c", "envFrom": [{"secretRef": {"name": "absent"}}]});
    assert_eq!(environment(&absent).unwrap_err().to_string(), "secret \"absent\" not found");
}

#[test]
fn references() {
    check_var(&json!({"configMapKeyRef": {"name": "map", "key": "colour"}}), Ok("red"));
    check_var(&json!({"secretKeyRef": {"name": "secret", "key": "token"}}), Ok("hush"));
    check_var(&json!({"configMapKeyRef": {"name": "map", "key": "k", "optional": true}}), Ok("(none)"));
    check_var(
        &json!({"configMapKeyRef": {"name": "map", "key": "k"}}),
        Err("couldn't find key k in ConfigMap n/map"),
    );
    check_var(&json!({"configMapKeyRef": {"name": "m", "key": "k"}}), Err("configmap \"m\" not found"));
    check_var(&json!({"secretKeyRef": {"name": "s", "key": "k"}}), Err("secret \"s\" not found"));
}

#[test]
fn fields() {
    for (path, value) in [
        ("metadata.name", "p"),
        ("metadata.namespace", "n"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['none']", ""),
        ("metadata.labels", "app=\"web\"\ntier=\"x\\\"y\""),
        ("spec.nodeName", "node"),
        ("status.podIP", "10.128.0.2"),
        ("status.hostIP", "10.0.0.1"),
    ] {
        check_var(&json!({"fieldRef": {"fieldPath": path}}), Ok(value));
    }
    check_var(&json!({"fieldRef": {"fieldPath": "spec.x"}}), Err("unsupported fieldPath: spec.x"));
}

#[test]
fn resources() {
    for (resource, divisor, value) in [
        ("limits.memory", "0", "67108864"),
        ("limits.memory", "1Mi", "64"),
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.cpu", "1", "1"),
        ("requests.memory", "1", "0"),
    ] {
        check_var(&json!({"resourceFieldRef": {"resource": resource, "divisor": divisor}}), Ok(value));
    }
    for (container, resource, value) in [
        ("other", "limits.cpu", Ok("123")),
        ("other", "requests.cpu", Ok("0")),
        ("first", "requests.memory", Ok("1")),
        ("none", "limits.cpu", Err("container none not found")),
    ] {
        let divisor = if resource.ends_with("cpu") { "1m" } else { "1Ki" };
        let field = json!({"containerName": container, "resource": resource, "divisor": divisor});
        check_var(&json!({"resourceFieldRef": field}), value);
    }
}

#[test]
fn expansion() {
    let lookup = |name: &str| (name == "A").then_some("1");
    for (text, expected) in [
        ("$(A)", "1"),
        ("$(A)$(A)", "11"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B)", "$(B)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
    ] {
        assert_eq!(expand(text, lookup).unwrap(), expected, "{text}");
    }
}

#[test]
fn argv() {
    let mut env = Environment::default();
    env.set("X", "x".into()).unwrap();
    let list = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    #[track_caller]
    fn check(
        container: &Value,
        entrypoint: &[String],
        cmd: &[String],
        env: &Environment,
        expected: &[String],
    ) {
        let container = serde_json::from_value(container.clone()).unwrap();
        assert_eq!(arguments(&container, entrypoint, cmd, env).unwrap(), expected);
    }
    let (entrypoint, cmd) = (list(&["/app"]), list(&["serve"]));
    let plain = json!({"name": "c"});
    let args = json!({"name": "c", "args": ["$(X)", "y"]});
    let command = json!({"name": "c", "command": ["/other"]});
    check(&plain, &entrypoint, &cmd, &env, &list(&["/app", "serve"]));
    check(&args, &entrypoint, &cmd, &env, &list(&["/app", "x", "y"]));
    check(&command, &entrypoint, &cmd, &env, &list(&["/other"]));
    check(&plain, &[], &[], &env, &list(&["c"]));
    check(&plain, &[], &cmd, &env, &list(&["serve"]));
    check(&args, &[], &cmd, &env, &list(&["c", "x", "y"]));
}

#[test]
fn service_variables_of_the_namespace() {
    let service = |namespace: &str, name: &str, ip: &str| -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}, {"port": 53, "protocol": "UDP"}]},
        }))
        .unwrap()
    };
    let all = [
        service("default", "kubernetes", "10.96.0.1"),
        service("n", "my-db", "10.96.0.7"),
        service("n", "six", "fd00::7"),
        service("n", "headless", "None"),
        service("other", "x", "10.96.0.8"),
    ];
    let found = service_variables("n", true, all.iter());
    for (name, value) in [
        ("MY_DB_SERVICE_HOST", "10.96.0.7"),
        ("MY_DB_SERVICE_PORT", "80"),
        ("MY_DB_SERVICE_PORT_HTTP", "80"),
        ("MY_DB_PORT", "tcp://10.96.0.7:80"),
        ("MY_DB_PORT_80_TCP_ADDR", "10.96.0.7"),
        ("SIX_SERVICE_HOST", "fd00::7"),
        ("SIX_PORT", "tcp://[fd00::7]:80"),
        ("SIX_PORT_53_UDP", "udp://[fd00::7]:53"),
        ("SIX_PORT_80_TCP_ADDR", "fd00::7"),
        ("MY_DB_PORT_53_UDP_PROTO", "udp"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(found.keys().all(|name| !name.starts_with('X') && !name.starts_with("HEADLESS")));
    let bare = service_variables("n", false, all.iter());
    assert!(bare.keys().all(|name| name.starts_with("KUBERNETES_")) && !bare.is_empty());
}

#[test]
fn host_names_fit_a_label() {
    let mut pod = pod();
    pod.metadata.name = Some(format!("{}-x", "a".repeat(62)));
    assert_eq!(hostname(&pod), "a".repeat(62));
}

#[test]
fn programs_see_the_full_name_where_the_spec_says_so() {
    #[track_caller]
    fn check(spec: &Value, expected: Result<&str, &str>) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
                .unwrap();
        let cluster = ClusterNames { domain: "cluster.local".into(), server: "10.96.0.10".parse().unwrap() };
        let seen = check_hostname(&pod, &cluster).map(|()| seen_hostname(&pod, &cluster));
        assert_eq!(seen, expected.map(str::to_owned).map_err(str::to_owned));
    }
    check(&json!({"hostname": "h", "subdomain": "s", "containers": []}), Ok("h"));
    check(&json!({"setHostnameAsFQDN": true, "hostname": "h", "containers": []}), Ok("h"));
    let full = |subdomain: &str| json!({"setHostnameAsFQDN": true, "hostname": "h", "subdomain": subdomain, "containers": []});
    check(&full("s"), Ok("h.s.n.svc.cluster.local"));
    let most = "s".repeat(42);
    check(&full(&most), Ok(&format!("h.{most}.n.svc.cluster.local")));
    let long = "s".repeat(43);
    let why = format!(
        "Failed to construct FQDN from Pod hostname and cluster domain, FQDN h.{long}.n.svc.cluster.local is too \
         long (64 characters is the max, 65 characters requested)"
    );
    check(&full(&long), Err(&why));
}
