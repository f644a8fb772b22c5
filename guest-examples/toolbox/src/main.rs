//! The commands people expect in a container, in one module.
//!
//! `kubectl exec`, `kubectl cp` and `kubectl debug` run these where a container has no commands of its
//! own. The name the module is started under selects the command (`ls -la /tmp`), or its first argument
//! does (`toolbox ls -la /tmp`). Without any it is a shell for whoever sits at a terminal, and tells the list to
//! others: [`applets::ALL`].
//!
//! What a module cannot know it does not pretend: there are no users, no signals, no other processes to
//! see. `sh` runs its commands inside this instance, one after the other; see [`shell`] for its limits.

mod applets;
mod call;
mod glob;
mod options;
mod platform;
mod shell;
mod sink;
mod time;

use std::{
    env,
    io::{self, IsTerminal},
};

use call::{Call, Env, In, Out};

fn main() {
    let mut args: Vec<String> = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let name = args.first().map(|arg| applets::base_name(arg).trim_end_matches(".wasm").to_owned());
    match name {
        Some(name) if applets::find(&name).is_some() => args[0] = name,
        // Under any other name the first argument is the command.
        _ => {
            args.drain(..1.min(args.len()));
        }
    }
    if args.is_empty() && io::stdin().is_terminal() {
        args.push("sh".to_owned());
    }
    let (stdin, out, err) = (In::stdin(), Out::stdout(), Out::stderr());
    let mut env = Env::of_process();
    let code = if args.is_empty() {
        applets::list(&out)
    } else {
        applets::run(&mut Call { args: &args, stdin, out: out.clone(), err: err.clone(), env: &mut env })
    };
    // What cannot be written has no reader left.
    let flushed = out.flush_now().is_ok();
    platform::exit(if code == 0 && !flushed { 1 } else { code });
}
