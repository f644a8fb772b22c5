//! NetworkPolicies: defaults, rules and rows.

use super::{
    defaults::check as default,
    rules::{create, update},
    tables::{check as row, check_headings as headings},
    *,
};

const POLICIES: &str = "networking.k8s.io/networkpolicies";

#[test]
fn defaults_of_policies() {
    default(POLICIES, json!({}), "/spec/policyTypes", json!(["Ingress"]));
    default(POLICIES, json!({}), "/spec/ingress/0/ports/0/protocol", "TCP".into());
    let egress = |types: Value| json!({"spec": {"egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}], "policyTypes": types}});
    default(POLICIES, egress(json!([])), "/spec/policyTypes", json!(["Ingress", "Egress"]));
    default(POLICIES, egress(json!([])), "/spec/egress/0/ports/0/protocol", "UDP".into());
    default(POLICIES, egress(json!(["Egress"])), "/spec/policyTypes", json!(["Egress"]));
}

#[test]
fn rules_of_policies() {
    let spec = |patch: Value, want: &[&str]| create(POLICIES, json!({"spec": patch}), want);
    let ports = |ports: Value, want: &[&str]| spec(json!({"ingress": [{"ports": ports}]}), want);
    let peers = |peers: Value, want: &[&str]| spec(json!({"egress": [{"to": peers}]}), want);
    spec(
        json!({"podSelector": {"matchLabels": null}, "ingress": null, "policyTypes": ["Ingress", "Egress"]}),
        &[],
    );
    spec(
        json!({"podSelector": {"matchLabels": {"app": "a b"}}}),
        &[
            "spec.podSelector.matchLabels: Invalid value: \"a b\": a valid label must be an empty string or consist of \
           alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
           'MyValue',  or 'my_value',  or '12345', regex used for validation is \
           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ],
    );
    spec(
        json!({"policyTypes": ["Ingress", "Sideways"]}),
        &["spec.policyTypes[1]: Unsupported value: \"Sideways\": supported values: \"Ingress\", \"Egress\""],
    );
    spec(
        json!({"policyTypes": ["Ingress", "Egress", "Egress"]}),
        &[
            "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Egress\"]: may not specify more than two policyTypes",
        ],
    );

    ports(json!([{}, {"port": "http"}, {"port": 80, "endPort": 90, "protocol": "SCTP"}]), &[]);
    ports(
        json!([{"port": 0}, {"protocol": "ICMP"}]),
        &[
            "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ingress[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
        ],
    );
    ports(
        json!([{"port": "-"}]),
        &[
            "spec.ingress[0].ports[0].port: Invalid value: \"-\": must contain at least one letter (a-z)",
            "spec.ingress[0].ports[0].port: Invalid value: \"-\": must not begin or end with a hyphen",
        ],
    );
    ports(
        json!([{"endPort": 9}, {"port": "http", "endPort": 9}, {"port": 10, "endPort": 9}, {"port": 10, "endPort": 65536}]),
        &[
            "spec.ingress[0].ports[0].endPort: Invalid value: 9: may not be specified when `port` is not specified",
            "spec.ingress[0].ports[1].endPort: Invalid value: 9: may not be specified when `port` is non-numeric",
            "spec.ingress[0].ports[2].endPort: Invalid value: 10: must be greater than or equal to `port`",
            "spec.ingress[0].ports[3].endPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ],
    );

    peers(
        json!([{"podSelector": {}}, {"podSelector": {}, "namespaceSelector": {}}, {"namespaceSelector": {}}]),
        &[],
    );
    peers(
        json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"ipBlock": {"cidr": "::/0"}}]),
        &[],
    );
    peers(
        json!([{}, {"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {}}]),
        &[
            "spec.egress[0].to[0]: Required value: must specify a peer",
            "spec.egress[0].to[1]: Forbidden: may not specify both ipBlock and another peer",
            "spec.egress[0].to[2].ipBlock.cidr: Required value",
        ],
    );
    peers(
        json!([{"ipBlock": {"cidr": "10.0.0.0", "except": ["10.1.0.0/16"]}}]),
        &[
            "spec.egress[0].to[0].ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 \
           or 2001:db8::/64)",
        ],
    );
    peers(
        json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8", "x"]}}]),
        &[
            "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            "spec.egress[0].to[0].ipBlock.except[1]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            "spec.egress[0].to[0].ipBlock.except[2]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
             2001:db8::/64)",
        ],
    );
    update(POLICIES, json!({}), json!({"spec": {"podSelector": {"matchLabels": {"app": "db"}}}}), &[]);
}

#[test]
fn rows_of_policies() {
    headings(POLICIES, "Name | Pod-Selector | Age", "");
    row(POLICIES, json!({}), "web | app=web | 60m");
    row(POLICIES, json!({"spec": {"podSelector": {"matchLabels": null}}}), "web | <none> | 60m");
    let expressions = json!([{"key": "tier", "operator": "In", "values": ["b", "a"]}]);
    row(
        POLICIES,
        json!({"spec": {"podSelector": {"matchLabels": null, "matchExpressions": expressions}}}),
        "web | tier in (a,b) | 60m",
    );
}
