//! Names: completed as Docker does, and refused when they are none.

use super::*;
use crate::reference::{is_repository, is_tag};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn names_are_completed_as_docker_does() {
    #[track_caller]
    fn check(input: &str, full: &str) {
        let parsed = reference(input);
        assert_eq!(parsed.to_string(), full);
        assert_eq!(reference(full), parsed, "the full name means the same");
    }
    check("web", "docker.io/library/web:latest");
    check("web:1.2", "docker.io/library/web:1.2");
    check("team/web", "docker.io/team/web:latest");
    check("index.docker.io/web", "docker.io/library/web:latest");
    check("localhost/web", "localhost/web:latest");
    check("localhost:5000/web:x", "localhost:5000/web:x");
    check("registry.example.org/team/app/web", "registry.example.org/team/app/web:latest");
    check("registry.local/web", "registry.local/web:latest");
    check(&format!("web@{DIGEST}"), &format!("docker.io/library/web@{DIGEST}"));
    check(&format!("registry.example.org/a/b:1@{DIGEST}"), &format!("registry.example.org/a/b:1@{DIGEST}"));
}

#[test]
fn only_registry_local_is_local() {
    assert!(reference("registry.local/web").is_local());
    assert!(!reference("registry.local:80/web").is_local());
    assert!(!reference("docker.io/registry.local/web").is_local());
    assert!(!reference("web").is_local());
}

#[test]
fn what_is_no_name_is_refused() {
    for input in [
        "",
        "Web",
        "web:",
        "web:a b",
        "a//b",
        "../b",
        "web@sha256:12",
        "http://host/web",
        "web:-x",
        "UPPER/x",
    ] {
        let error = Reference::parse(input).unwrap_err();
        assert_eq!(error.to_string(), format!("couldn't parse image name {input:?}"));
    }
    for digest in [DIGEST.to_uppercase().replace("SHA", "sha"), format!("sha384:{}", "0".repeat(96))] {
        let error = Reference::parse(&format!("web@{digest}")).unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "only sha256 and sha512 digests in lower case are supported");
    }
    let long = format!("web@sha512:{}", "0".repeat(128));
    assert_eq!(reference(&long).to_string(), format!("docker.io/library/{long}"));
}

#[test]
fn repositories_and_tags_of_the_registry() {
    for name in ["web", "a/b", "a.b/c-d/e_f/g__h", "a--b", "0"] {
        assert!(is_repository(name), "{name}");
    }
    for name in
        ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "_tags", "..", "a/../b", "a b"]
    {
        assert!(!is_repository(name), "{name}");
    }
    assert!(!is_repository(&"a".repeat(256)));
    for tag in ["1", "v1.2-x", "_x", "A"] {
        assert!(is_tag(tag), "{tag}");
    }
    for tag in ["", ".x", "-x", "a/b", "a:b", &"a".repeat(129)] {
        assert!(!is_tag(tag), "{tag}");
    }
}
