//! Version 1 of the greeter.

fn main() -> std::io::Result<()> {
    rolling_update::run("v1")
}
