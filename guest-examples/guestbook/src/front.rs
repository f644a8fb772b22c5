//! The front end: a page, and the same as JSON.

use std::io;

use kit::{Answer, Request};

const PAGE: &str = include_str!("page.html");

/// Serves until the container is asked to end.
pub fn run(port: u16) -> io::Result<()> {
    let (cache, leader) = (kit::var("CACHE", "guestbook-cache"), kit::var("LEADER", "guestbook-leader"));
    kit::serve(port, move |request: &Request| match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/") => Answer::html(PAGE.replace("{pod}", &kit::html(&kit::pod()))),
        ("GET" | "HEAD", "/healthz") => Answer::text("ok\n"),
        ("GET" | "HEAD", "/entries") => match kit::get(&cache, "/entries") {
            Ok(entries) => Answer::json(entries),
            Err(error) => Answer::error(502, format!("{cache}: {error}")),
        },
        ("POST", "/entries") => match kit::post(&leader, "/entries", &request.body) {
            Ok(entry) => Answer { code: 201, ..Answer::json(entry) },
            Err(error) => Answer::error(502, format!("{leader}: {error}")),
        },
        _ => Answer::not_found(),
    })
}
