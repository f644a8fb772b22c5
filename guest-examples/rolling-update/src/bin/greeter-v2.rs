//! Version 2 of the greeter.

fn main() -> std::io::Result<()> {
    rolling_update::run("v2")
}
