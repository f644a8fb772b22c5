//! What names, labels, ports and keys may look like, and what Kubernetes says when they do not.
//!
//! Each check returns every message (none: the value is fine); a message starts after the field, e.g.
//! `must be no more than 63 characters`. Patterns are matched by hand: they run on every write, and no
//! pattern here needs more than one pass.

/// Longest DNS label, label value and unprefixed part of a qualified name.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain: names of most objects.
pub const SUBDOMAIN_MAX: usize = 253;
/// Random characters after a `generateName`.
pub const SUFFIX_LENGTH: usize = 5;
/// Most characters of `generateName` that are kept, so that the result is still a label.
const GENERATE_NAME_MAX: usize = LABEL_MAX - SUFFIX_LENGTH;
/// Kubernetes' alphabet for random names: no vowels (no words) and nothing that looks alike.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_WORDS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// A name for `generateName`: the prefix, shortened if need be, and five characters drawn from `random`.
pub fn generate(prefix: &str, random: u64) -> String {
    let mut end = prefix.len().min(GENERATE_NAME_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = String::with_capacity(end + SUFFIX_LENGTH);
    name.push_str(&prefix[..end]);
    let mut random = random;
    for _ in 0..SUFFIX_LENGTH {
        let letters = SUFFIX_ALPHABET.len() as u64;
        name.push(char::from(SUFFIX_ALPHABET[(random % letters) as usize]));
        random /= letters;
    }
    name
}

/// RFC 1123 label: names of services' pods, namespaces, containers, volumes.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut wrong = longer_than(value, LABEL_MAX);
    if !is_dns_label(value) {
        wrong.push(if is_dns_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    wrong
}

/// RFC 1123 subdomain: names of most objects.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut wrong = longer_than(value, SUBDOMAIN_MAX);
    if !is_dns_subdomain(value) {
        wrong.push(pattern(SUBDOMAIN_WORDS, SUBDOMAIN, &["example.com"]));
    }
    wrong
}

/// RFC 1035 label: names of services.
pub fn dns_1035_label(value: &str) -> Vec<String> {
    let mut wrong = longer_than(value, LABEL_MAX);
    if !(is_dns_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        wrong.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// `*.` followed by a subdomain: hosts of ingresses.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut wrong = longer_than(value, SUBDOMAIN_MAX);
    if !value.strip_prefix("*.").is_some_and(is_dns_subdomain) {
        wrong.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    wrong
}

/// A name that may have a DNS prefix: keys of labels and annotations, resources, taints, finalizers.
pub fn qualified_name(value: &str) -> Vec<String> {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut wrong = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern(QUALIFIED_WORDS, QUALIFIED, EXAMPLES)
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns_subdomain(prefix).into_iter().map(|text| format!("prefix part {text}")));
            }
            name
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    }
    wrong.extend(longer_than(name, LABEL_MAX).into_iter().map(|text| format!("name part {text}")));
    if !is_qualified(name) {
        wrong.push(format!("name part {}", pattern(QUALIFIED_WORDS, QUALIFIED, EXAMPLES)));
    }
    wrong
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = longer_than(value, LABEL_MAX);
    if !(value.is_empty() || is_qualified(value)) {
        wrong.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut wrong = longer_than(value, SUBDOMAIN_MAX);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        wrong.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    wrong.extend(parent_folder(value));
    wrong
}

/// The name of an environment variable, by the rule of Kubernetes 1.30 to 1.33 for containers' `env`
/// (relaxed: printable ASCII but `=`).
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.is_empty() {
        wrong.push("environment variable name must be non-empty".to_owned());
    }
    if !value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        wrong.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    wrong
}

/// The name of an environment variable, by the strict rule.
pub fn strict_env_var_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let first = value.bytes().next();
    if first.is_none_or(|b| b.is_ascii_digit())
        || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        wrong.push(pattern(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    wrong.extend(parent_folder(value));
    wrong
}

/// The name of a container's or service's port (IANA service name).
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong = longer_than(value, 15);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// A port number: 1 to 65535.
pub fn port_number(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

/// A number within bounds, both included.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) {
        Vec::new()
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// A whole percentage, e.g. `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![pattern(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// The name of an HTTP header (probes).
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![pattern(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// What a name may not be because it becomes a segment of URL paths (cluster roles, path segment names).
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|illegal| value.contains(illegal))
        .map(|illegal| format!("may not contain '{illegal}'"))
        .collect()
}

/// Kubernetes' sentence about a value that does not match a pattern.
fn pattern(words: &str, regex: &str, examples: &[&str]) -> String {
    let examples = examples.iter().map(|example| format!("'{example}', ")).collect::<Vec<_>>().join(" or ");
    format!("{words} (e.g. {examples}regex used for validation is '{regex}')")
}

fn longer_than(value: &str, max: usize) -> Vec<String> {
    if value.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

fn parent_folder(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

fn is_dns_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

fn is_dns_subdomain(value: &str) -> bool {
    value.split('.').all(is_dns_label)
}

fn is_qualified(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&str) -> Vec<String>, value: &str, want: &[&str]) {
        assert_eq!(rule(value), want, "{value:?}");
    }

    const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a1", "1-a", &"x".repeat(63)] {
            check(dns_label, good, &[]);
            check(dns_subdomain, good, &[]);
        }
        check(dns_subdomain, "a.b-c.1", &[]);
        check(dns_label, "a.b", &["must not contain dots"]);
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "ä"] {
            check(dns_label, bad, &[LABEL_MESSAGE]);
            check(dns_subdomain, bad, &[SUBDOMAIN_MESSAGE]);
        }
        for bad in ["a..b", ".a", "a.", "a.-b"] {
            check(dns_subdomain, bad, &[SUBDOMAIN_MESSAGE]);
        }
        check(dns_label, &"x".repeat(64), &["must be no more than 63 characters"]);
        check(dns_subdomain, &"x".repeat(254), &["must be no more than 253 characters"]);
        assert!(dns_1035_label("abc-1").is_empty());
        for bad in ["1a", "", "a.b"] {
            assert_eq!(dns_1035_label(bad).len(), 1, "{bad:?}");
        }
        assert!(wildcard_subdomain("*.a.b").is_empty());
        assert_eq!(wildcard_subdomain("*.").len(), 1);
    }

    #[test]
    fn qualified_names_and_label_values() {
        for good in ["a", "A_b.c-9", "example.com/Name"] {
            check(qualified_name, good, &[]);
        }
        let words = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        check(qualified_name, "a b", &[&format!("name part {words}")]);
        check(qualified_name, "", &["name part must be non-empty", &format!("name part {words}")]);
        check(qualified_name, "/a", &["prefix part must be non-empty"]);
        check(qualified_name, "A/a", &[&format!("prefix part {SUBDOMAIN_MESSAGE}")]);
        check(
            qualified_name,
            "a/b/c",
            &[&format!(
                "a qualified name {words} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )],
        );
        check(label_value, "", &[]);
        check(label_value, "a.b_C", &[]);
        check(
            label_value,
            "-a",
            &[
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        );
    }

    #[test]
    fn keys_ports_and_the_rest() {
        check(config_key, "a.b_C-1", &[]);
        check(config_key, "..", &["must not be '..'"]);
        check(config_key, "..a", &["must not start with '..'"]);
        assert_eq!(config_key("a/b").len(), 1);
        check(env_var_name, "a b", &[]);
        check(
            env_var_name,
            "a=b",
            &[
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
        );
        assert_eq!(strict_env_var_name("1a").len(), 1);
        check(strict_env_var_name, "_A.b", &[]);
        check(port_name, "http-2", &[]);
        check(port_name, "80", &["must contain at least one letter (a-z)"]);
        check(port_name, "a--b", &["must not contain consecutive hyphens"]);
        check(port_name, "-a", &["must not begin or end with a hyphen"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(port_number(65535).is_empty());
        check(percent, "25%", &[]);
        assert_eq!(percent("%").len(), 1);
        check(path_segment, "a/b%", &["may not contain '/'", "may not contain '%'"]);
        check(http_header_name, "X-A", &[]);
    }

    #[test]
    fn generated_names_are_labels() {
        assert_eq!(generate("web-", 0), "web-bbbbb");
        assert_ne!(generate("web-", 1), generate("web-", 2));
        let long = generate(&"x".repeat(200), u64::MAX);
        assert_eq!(long.len(), LABEL_MAX);
        assert!(dns_label(&long).is_empty());
        assert!(generate(&"ä".repeat(100), 7).starts_with("ää"));
    }
}
