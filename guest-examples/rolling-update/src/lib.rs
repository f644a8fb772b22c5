//! A greeter in two versions: the modules `greeter-v1` and `greeter-v2` differ in what they say.
//!
//! It serves on `PORT` (default 8080): `GET /` greets with its version and its pod's name. When it is asked to end, it
//! answers whoever is still connected and returns: an update loses no request.

use std::io;

use kit::{Answer, Request};

/// Greets until the container is asked to end.
///
/// # Errors
/// If the port is taken.
pub fn run(version: &'static str) -> io::Result<()> {
    let pod = kit::pod();
    println!("{pod}: {version} is here");
    let greeting = format!("Hello from {version}, pod {pod}\n");
    kit::serve(kit::number("PORT", 8080) as u16, move |request: &Request| match request.path.as_str() {
        "/" => Answer::text(greeting.clone()).with("x-version", version),
        "/healthz" => Answer::text("ok\n"),
        _ => Answer::not_found(),
    })?;
    println!("{}: {version} ends as asked", kit::pod());
    Ok(())
}
