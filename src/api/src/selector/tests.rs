//! Selectors parse, print, match and fail as in Kubernetes.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn label_selectors_match() {
    let web = labels(&[("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")]);
    #[track_caller]
    fn check(selector: &str, labels: &BTreeMap<String, String>, want: bool) {
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(labels), want, "{selector}");
    }
    for yes in [
        "",
        "app=web",
        "app==web",
        "app = web , tier=front",
        "app!=db",
        "gone!=x",
        "app in (web,db)",
        "app notin (db)",
        "gone notin (x)",
        "app",
        "!gone",
        "n>4",
        "n<6",
        "empty=",
        "empty",
        "empty in ()",
        "empty in (,x)",
        "in notin (in)",
        "app in (web),!gone,tier!=back",
    ] {
        check(yes, &web, true);
    }
    for no in [
        "app=db",
        "app!=web",
        "gone=x",
        "gone",
        "!app",
        "app notin (web,db)",
        "n>5",
        "n<5",
        "app>1",
        "empty=x",
        "gone=",
        "gone>1",
    ] {
        check(no, &web, false);
    }
    let json = json!({"app": "web"});
    assert!(LabelSelector::parse("app=web").unwrap().matches(json.as_object().unwrap()));
    assert!(LabelSelector::parse("!app").unwrap().matches(&None::<BTreeMap<String, String>>));
}

#[test]
fn label_selectors_fail_in_kubernetes_words() {
    #[track_caller]
    fn check(selector: &str, want: &str) {
        assert_eq!(LabelSelector::parse(selector).unwrap_err().to_string(), want, "{selector}");
    }
    check("a=b,", "found '', expected: identifier after ','");
    check("a=b c", "found 'c', expected: ',' or 'end of string'");
    check("=a", "found '=', expected: !, identifier, or 'end of string'");
    check("!", "unable to parse requirement: found '', expected: identifier");
    check("!a=b", "found '=', expected: ',' or 'end of string'");
    check("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
    check("a in b", "unable to parse requirement: found 'b' expected: '('");
    check("a in (b", "unable to parse requirement: found '', expected: ',' or ')'");
    check("a in (b=c)", "unable to parse requirement: found '=', expected: ',' or ')'");
    check("a in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier");
    check("a in (b,=)", "unable to parse requirement: found '=', expected: ',', or identifier");
    check("a==(", "unable to parse requirement: found '(', expected: identifier");
    check(
        "a>x",
        "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
    );
    assert!(
        LabelSelector::parse("-a=b").unwrap_err().to_string().starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"
        )
    );
    assert!(LabelSelector::parse("a=-b").unwrap_err().to_string().starts_with(
        "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be"
    ));
}

#[test]
fn label_selectors_come_from_objects() {
    let selector = |value: Value| LabelSelector::from_value(&value);
    let all = selector(json!({"matchLabels": {"a": "b"}, "matchExpressions": [
        {"key": "c", "operator": "NotIn", "values": ["e", "d"]}, {"key": "f", "operator": "DoesNotExist"},
    ]}))
    .unwrap();
    assert_eq!(all.to_string(), "a=b,c notin (d,e),!f");
    assert!(all.matches(&labels(&[("a", "b"), ("c", "x")])));
    assert!(selector(json!({})).unwrap().is_empty());
    assert_eq!(
        selector(json!({"matchExpressions": [{"key": "a", "operator": "Maybe"}]})).unwrap_err().to_string(),
        "\"Maybe\" is not a valid label selector operator"
    );
    assert_eq!(
        selector(json!({"matchExpressions": [{"key": "a", "operator": "In"}]})).unwrap_err().to_string(),
        "values: Invalid value: []string(nil): for 'in', 'notin' operators, values set can't be empty"
    );
    assert_eq!(
        selector(json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}))
            .unwrap_err()
            .to_string(),
        "values: Invalid value: []string{\"b\"}: values set must be empty for exists and does not exist"
    );
    assert_eq!(LabelSelector::from_map(&labels(&[("b", "2"), ("a", "1")])).to_string(), "a=1,b=2");
}

#[test]
fn field_selectors() {
    let object = |field: &str| match field {
        "metadata.name" => Some("n"),
        "status.phase" => Some("Running"),
        "odd" => Some("a,b=c\\"),
        _ => None,
    };
    for yes in
        ["", "metadata.name=n", "metadata.name==n,status.phase!=Failed", "spec.nodeName=", r"odd=a\,b\=c\\"]
    {
        assert!(FieldSelector::parse(yes).unwrap().matches(object), "{yes}");
    }
    for no in ["metadata.name=m", "metadata.name!=n", "spec.nodeName=x", "spec.nodeName!="] {
        assert!(!FieldSelector::parse(no).unwrap().matches(object), "{no}");
    }
    #[track_caller]
    fn check(selector: &str, want: &str) {
        assert_eq!(FieldSelector::parse(selector).unwrap_err().to_string(), want);
    }
    check("a,b=c", "invalid selector: 'a,b=c'; can't understand 'a'");
    check("a=b=c", "invalid field selector: unescaped character in value: 61");
    check(r"a=\b", r"invalid field selector: invalid escape sequence: \b");
    check(r"a=b\", r"invalid field selector: invalid escape sequence: \");
    let selector = FieldSelector::parse("status.phase!=Failed,metadata.name=n").unwrap();
    assert_eq!(selector.exact("metadata.name"), Some("n"));
    assert_eq!(selector.exact("status.phase"), None);
    assert_eq!(selector.fields().collect::<Vec<_>>(), ["metadata.name", "status.phase"]);
}

proptest! {
    #[test]
    fn label_selectors_print_what_they_parse(text in "(!?[a-c]{1,2}( in | notin |=|==|!=|)(\\([a-d,]{0,4}\\)|[a-d]{0,2}),?){1,3}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
    }

    #[test]
    fn opposite_requirements_never_agree(value in "[a-c]", other in "[a-c]", there in any::<bool>()) {
        let labels = if there { labels(&[("k", &value)]) } else { labels(&[]) };
        for (one, opposite) in [("k={}", "k!={}"), ("k in ({},z)", "k notin ({},z)"), ("k", "!k")] {
            let parse = |text: &str| LabelSelector::parse(&text.replace("{}", &other)).unwrap();
            prop_assert_ne!(parse(one).matches(&labels), parse(opposite).matches(&labels));
        }
    }

    #[test]
    fn field_selectors_print_what_they_parse(fields in proptest::collection::btree_map("[a-z]{1,3}", "[a-z=,\\\\]{0,4}", 0..3)) {
        let selectors = fields.iter().map(|(field, value)| FieldSelector::equals(field, value).to_string());
        let text = selectors.collect::<Vec<_>>().join(",");
        let selector = FieldSelector::parse(&text).unwrap();
        prop_assert!(selector.matches(|field| fields.get(field).map(String::as_str)));
        prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,30}", other in "[a,=!()<> \\\\\u{0}in]{0,20}") {
        for text in [text, other] {
            let _ = (LabelSelector::parse(&text), FieldSelector::parse(&text));
        }
    }
}
