//! Names: completed as Docker does, and refused when they are none.

use super::*;
use crate::reference::{is_plain, is_repository, is_tag};
use crate::registry_name;

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
fn a_registry_has_one_name_however_it_is_written() {
    #[track_caller]
    fn check(written: &str, name: Option<&str>) {
        assert_eq!(registry_name(written).as_deref(), name, "{written}");
        let Some(name) = name.filter(|_| !written.contains('*')) else { return };
        assert_eq!(reference(&format!("{written}/team/web")).to_string(), format!("{name}/team/web:latest"));
    }
    check("hub.test", Some("hub.test"));
    check("HUB.Test:443", Some("hub.test"));
    check("hub.test:00443", Some("hub.test"));
    check("hub.test:80", Some("hub.test:80"));
    check("hub.test:05000", Some("hub.test:5000"));
    // On this machine plain HTTP is meant.
    check("127.0.0.1:80", Some("127.0.0.1"));
    check("127.0.0.1:443", Some("127.0.0.1:443"));
    check("LOCALHOST:80", Some("localhost"));
    check("127.1", Some("127.0.0.1"));
    check("0x7f.1:5000", Some("127.0.0.1:5000"));
    check("10.010.1", Some("10.8.0.1"));
    check("Docker.IO", Some("docker.io"));
    check("INDEX.docker.io:443", Some("docker.io"));
    check("registry-1.docker.io", Some("docker.io"));
    check("*.Many.test:443", Some("*.many.test"));
    check("hub.test:65536", None);
    check("1.2.3.4.5", None);
    assert_eq!(reference("Docker.IO/web").to_string(), "docker.io/library/web:latest");
    assert!(Reference::parse("hub.test:65536/web").is_err());
    assert!(reference("REGISTRY.local:443/web").is_local());
}

#[test]
fn registries_without_tls_are_those_of_this_machine_and_the_configured() {
    let configured = ["hub.test".to_owned(), "other.test:80".to_owned(), "third.test:5000".to_owned()];
    for plain in [
        "127.0.0.1",
        "127.0.0.1:443",
        "localhost:5000",
        "hub.test",
        "hub.test:80",
        "other.test",
        "other.test:80",
        "third.test:5000",
    ] {
        assert!(is_plain(plain, &configured), "{plain}");
    }
    for secure in ["hub.test:5000", "third.test", "third.test:80", "a.hub.test", "docker.io"] {
        assert!(!is_plain(secure, &configured), "{secure}");
    }
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
