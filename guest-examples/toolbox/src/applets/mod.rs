//! The commands, one function each, by subject.

mod archive;
mod condition;
mod dns;
mod files;
mod listing;
mod network;
mod system;
mod text;

use std::io::Write;

use crate::{
    call::{Call, Failure, Out, Outcome},
    shell,
};

/// How many commands may run each other, and how deep a script may be nested: the stack is no larger.
pub const MAX_DEPTH: usize = 60;

type Applet = fn(&mut Call) -> Outcome;

/// Every command of the toolbox.
pub const ALL: &[(&str, Applet)] = &[
    ("[", condition::bracket),
    ("basename", text::basename),
    ("cat", text::cat),
    ("cp", files::cp),
    ("cut", text::cut),
    ("date", system::date),
    ("dirname", text::dirname),
    ("du", listing::du),
    ("echo", text::echo),
    ("env", system::env),
    ("false", |_| Ok(1)),
    ("find", listing::find),
    ("grep", text::grep),
    ("head", text::head),
    ("hostname", system::hostname),
    ("id", system::id),
    ("kill", system::kill),
    ("ln", files::ln),
    ("ls", listing::ls),
    ("mkdir", files::mkdir),
    ("mv", files::mv),
    ("nc", network::nc),
    ("nslookup", dns::nslookup),
    ("printenv", system::env),
    ("printf", text::printf),
    ("ps", system::ps),
    ("pwd", system::pwd),
    ("readlink", files::readlink),
    ("rm", files::rm),
    ("rmdir", files::rmdir),
    ("seq", text::seq),
    ("sh", shell::sh),
    ("sleep", system::sleep),
    ("sort", text::sort),
    ("stat", listing::stat),
    ("tail", text::tail),
    ("tar", archive::tar),
    ("tee", text::tee),
    ("test", condition::test),
    ("touch", files::touch),
    ("true", |_| Ok(0)),
    ("uname", system::uname),
    ("uniq", text::uniq),
    ("wc", text::wc),
    ("wget", network::wget),
    ("which", system::which),
    ("whoami", system::whoami),
];

/// The command of that name.
pub fn find(name: &str) -> Option<Applet> {
    ALL.binary_search_by(|(n, _)| (*n).cmp(name)).ok().map(|at| ALL[at].1)
}

/// The last part of a path.
pub fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// Runs the command that the first argument names, and reports how it failed.
pub fn run(call: &mut Call) -> u8 {
    let name = call.args.first().map(String::as_str).unwrap_or_default();
    let Some(applet) = find(base_name(name)) else {
        call.complain(&Failure::new("not found"));
        return 127;
    };
    if call.env.depth >= MAX_DEPTH {
        call.complain(&Failure::new("too many commands run each other"));
        return 1;
    }
    call.env.depth += 1;
    let outcome = applet(call);
    call.env.depth -= 1;
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            call.complain(&failure);
            failure.code
        }
    }
}

/// Prints the names of all commands.
pub fn list(out: &Out) -> u8 {
    let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    u8::from(writeln!(out.clone(), "{}", names.join(" ")).is_err())
}

#[cfg(test)]
pub mod tests;
