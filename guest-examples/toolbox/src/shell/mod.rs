//! `sh`: enough of a shell for `kubectl exec POD -- sh -c '…'` and for looking around.
//!
//! Lists with `;`, `&&`, `||`, `!` and newlines; `|`; `<`, `>`, `>>`, `2>`, `2>&1`; quotes, `$VAR`, `${VAR:-default}`, `$?`, `$1`,
//! `$(command)`, `$((1 + 2))`, file name patterns; `if`, `case`, `while`, `until`, `for`, `{ … }`, `( … )`; `cd`, `export`, `unset`,
//! `read`, `set -e`, `exit`, `break`, `continue`, `:`, `.`.
//!
//! A module is one thread: commands run inside it, one after the other. So the left side of a pipe ends before its
//! right side begins, and what it prints must fit into [`MAX_PIPE`]; there are no jobs (`&`), no signals and no
//! functions. Only the commands of this toolbox can be run.

mod arithmetic;
mod expand;
mod parse;
mod run;
#[cfg(test)]
mod tests;

use std::{fs, io::IsTerminal, io::Write};

use crate::call::{Call, Failure, Outcome};
use run::{Flow, Shell, Streams};

/// What the left side of a pipe, or `$(…)`, may print.
pub const MAX_PIPE: usize = 16 << 20;

/// `sh -c COMMANDS [NAME [ARG…]]`, `sh FILE [ARG…]`, or `sh`, which reads commands.
pub fn sh(call: &mut Call) -> Outcome {
    let mut words = call.operands();
    let mut shell = Shell::new(call.env.clone());
    let mut commands = false;
    while let Some((first, rest)) = words.split_first() {
        let Some(letters) = first.strip_prefix(['-', '+']).filter(|l| !l.is_empty()) else { break };
        words = rest;
        for letter in letters.chars() {
            match letter {
                'c' => commands = true,
                'e' => shell.exit_on_error = first.starts_with('-'),
                'i' | 'l' | 'u' | 'x' | 's' | '-' => {}
                _ => return Err(Failure::usage("sh [-e] [-c COMMANDS | FILE] [ARG...]")),
            }
        }
    }
    let streams = Streams { stdin: call.stdin.clone(), out: call.out.clone(), err: call.err.clone() };
    let text = match (commands, words.first()) {
        (true, None) => {
            return Err(Failure { code: 2, message: "-c: option requires an argument".to_owned() });
        }
        (true, Some(text)) => {
            shell.parameters = words.get(1..).unwrap_or_default().to_vec();
            text.clone()
        }
        (false, Some(file)) => {
            shell.parameters = words.to_vec();
            fs::read_to_string(call.path(file)).map_err(|e| Failure {
                code: 127,
                ..Failure::about(format_args!("can't open '{file}'"), &e)
            })?
        }
        (false, None) => return interact(call, &mut shell, &streams),
    };
    if shell.parameters.is_empty() {
        shell.parameters.push("sh".to_owned());
    }
    let script = parse::script(&text).map_err(|message| Failure { code: 2, message })?;
    Ok(match shell.run(&script, &streams) {
        Flow::Exit(code) => code,
        _ => shell.last,
    })
}

/// Reads commands until the input ends; asks with a prompt where a person types.
fn interact(call: &mut Call, shell: &mut Shell, streams: &Streams) -> Outcome {
    let prompts = call.stdin.is_own && std::io::stdin().is_terminal();
    shell.parameters.push("sh".to_owned());
    let mut pending = String::new();
    loop {
        if prompts {
            let prompt = match (pending.is_empty(), shell.env.get("PS1")) {
                (false, _) => "> ".to_owned(),
                (true, Some(own)) => own.to_owned(),
                (true, None) => format!("{} # ", shell.env.cwd.display()),
            };
            write!(call.out, "{prompt}")?;
            call.out.flush()?;
        }
        let mut line = Vec::new();
        let ended = call.stdin.read_line(&mut line)? == 0;
        pending.push_str(String::from_utf8_lossy(&line).trim_end_matches('\r'));
        if pending.ends_with("\r\n") {
            pending.truncate(pending.len() - 2);
            pending.push('\n');
        }
        match parse::script(&pending) {
            // A quote or a loop goes on in the next line.
            Err(_) if !ended && parse::is_unfinished(&pending) => continue,
            Err(message) => {
                shell.last = 2;
                writeln!(call.err, "sh: {message}")?;
            }
            Ok(script) => {
                if let Flow::Exit(code) = shell.run(&script, streams) {
                    return Ok(code);
                }
            }
        }
        call.out.flush()?;
        pending.clear();
        if ended {
            return Ok(shell.last);
        }
    }
}
