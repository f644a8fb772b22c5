//! A guestbook: front end, cache, and a store with a leader and followers, in one module.
//!
//! ```text
//!   browser ─▶ front ─ reads ─▶ cache ─▶ store follower ─ copies ─▶ store leader
//!                └──── writes ─────────────────────────────────────────▲
//! ```
//!
//! The first argument is the role: `front`, `cache`, `leader` or `follower`. They find each other by the names of
//! their services: `CACHE`, `LEADER` and `FOLLOWERS` (default `guestbook-cache`, `guestbook-leader`,
//! `guestbook-followers`). All listen on `PORT` (default 8080).

mod front;
mod store;

use std::{env, io, process::ExitCode, time::Duration, time::Instant};

use kit::{Answer, Request};

/// How old a page of the cache may be.
const FRESH: Duration = Duration::from_millis(300);

fn main() -> io::Result<ExitCode> {
    let role = env::args().nth(1).unwrap_or_default();
    let port = kit::number("PORT", 8080) as u16;
    println!("{}: {role} on port {port}", kit::pod());
    match role.as_str() {
        "front" => front::run(port)?,
        "cache" => cache(port)?,
        "leader" => store::lead(port)?,
        "follower" => store::follow(port)?,
        _ => {
            eprintln!("usage: guestbook front|cache|leader|follower");
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{}: ends as asked", kit::pod());
    Ok(ExitCode::SUCCESS)
}

/// Keeps the entries for a moment, so that many readers are one reader of the store.
fn cache(port: u16) -> io::Result<()> {
    let followers = kit::var("FOLLOWERS", "guestbook-followers");
    let mut kept: Option<(Instant, String)> = None;
    kit::serve(port, move |request: &Request| {
        if request.path == "/healthz" {
            return Answer::text("ok\n");
        }
        if request.path != "/entries" {
            return Answer::not_found();
        }
        if let Some((at, entries)) = &kept
            && at.elapsed() < FRESH
        {
            return Answer::json(entries.clone()).with("x-cache", "hit");
        }
        match (kit::get(&followers, "/entries"), &kept) {
            (Ok(entries), _) => {
                kept = Some((Instant::now(), entries.clone()));
                Answer::json(entries).with("x-cache", "miss")
            }
            // Old entries are better than none.
            (Err(error), Some((_, entries))) => {
                eprintln!("{followers}: {error}");
                Answer::json(entries.clone()).with("x-cache", "stale")
            }
            (Err(error), None) => Answer::error(502, format!("{followers}: {error}")),
        }
    })
}
