use super::{body, start};
use crate::support::{eventually, http_post};

#[test]
fn entries_reach_the_followers_and_outlive_their_leader() {
    let Some(cluster) = start(&[("guestbook", "guestbook:1")], "guestbook/guestbook.yaml") else { return };
    cluster.kubectl("wait --for=condition=Available deployment --all --timeout=60s");
    let front = cluster.node_port("guestbook", "");
    assert!(body(&front, "/").unwrap().contains("<h1>Guestbook</h1>"));
    let sign = |name: &str| {
        eventually("somebody signs", || {
            match http_post(&front, "/entries", &format!("name={name}&message=was+here"))? {
                (head, _) if head.starts_with("HTTP/1.1 201") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    let shown = |names: &[&str]| {
        eventually("the entries are shown", || {
            let entries = body(&front, "/entries")?;
            let found: Vec<_> = serde_json::from_str::<Vec<serde_json::Value>>(&entries)
                .map_err(|e| format!("{e}: {entries}"))?
                .iter()
                .map(|entry| entry["name"].as_str().unwrap_or_default().to_owned())
                .collect();
            if found == names { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    sign("Ann");
    shown(&["Ann"]);
    // The next leader asks a follower what was.
    cluster.kubectl("delete pod -l role=leader --timeout=60s");
    cluster.kubectl("rollout status deployment/guestbook-leader --timeout=60s");
    sign("Bob");
    shown(&["Ann", "Bob"]);
}
