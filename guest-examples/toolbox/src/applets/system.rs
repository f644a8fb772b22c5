//! Commands about the container itself: `env`, `date`, `hostname`, `id`, `ps`, `pwd`, `sleep`, `uname`, `which`,
//! `whoami`, and `kill`, which says why it cannot.

use std::{fs, io::Write, thread, time::Duration, time::SystemTime};

use crate::{
    call::{Call, Failure, Outcome},
    options::parse,
    time,
};

pub fn env(call: &mut Call) -> Outcome {
    let is_print = call.args.first().is_some_and(|name| name.ends_with("printenv"));
    let words = call.operands();
    if is_print && let Some(name) = words.first() {
        let Some(value) = call.env.get(name) else { return Ok(1) };
        writeln!(call.out.clone(), "{value}")?;
        return Ok(0);
    }
    let mut env = call.env.clone();
    let mut words = words.iter();
    let mut command = Vec::new();
    while let Some(word) = words.next() {
        match word.split_once('=') {
            _ if word == "-i" || word == "-" => env.vars.clear(),
            _ if word == "-u" => {
                let name = words
                    .next()
                    .ok_or_else(|| Failure::usage("env [-i] [-u NAME] [NAME=VALUE...] [COMMAND]"))?;
                env.vars.remove(name);
            }
            Some((name, value)) => {
                env.vars.insert(name.to_owned(), value.to_owned());
            }
            None => {
                command = std::iter::once(word).chain(words.by_ref()).cloned().collect();
            }
        }
    }
    if !command.is_empty() {
        let (stdin, out, err) = (call.stdin.clone(), call.out.clone(), call.err.clone());
        return Ok(super::run(&mut Call { args: &command, stdin, out, err, env: &mut env }));
    }
    for (name, value) in &env.vars {
        writeln!(call.out, "{name}={value}")?;
    }
    Ok(0)
}

pub fn date(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "uI:R", &[("utc", 'u')])?;
    let now = SystemTime::now();
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let format = match (options.operands.first(), options.value('I')) {
        (Some(format), _) => {
            format.strip_prefix('+').ok_or_else(|| Failure::new("the clock cannot be set"))?
        }
        (None, Some("seconds" | "s")) => "%FT%T+00:00",
        (None, Some(_)) => "%F",
        (None, None) => "%a %b %e %T %Z %Y",
    };
    writeln!(call.out, "{}", time::format(time::seconds(now), nanos, format))?;
    Ok(0)
}

pub fn hostname(call: &mut Call) -> Outcome {
    let named = call.env.get("HOSTNAME").map(str::to_owned);
    let name =
        named.or_else(|| fs::read_to_string("/etc/hostname").ok()).unwrap_or_else(|| "localhost".to_owned());
    writeln!(call.out, "{}", name.trim())?;
    Ok(0)
}

/// There are no users in a module: whoever runs it may do with its files what can be done with them.
pub fn id(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "ugn", &[("user", 'u'), ("group", 'g')])?;
    let text = match (options.has('u') || options.has('g'), options.has('n')) {
        (true, true) => "root",
        (true, false) => "0",
        (false, _) => "uid=0(root) gid=0(root) groups=0(root)",
    };
    writeln!(call.out, "{text}")?;
    Ok(0)
}

pub fn whoami(call: &mut Call) -> Outcome {
    writeln!(call.out, "root")?;
    Ok(0)
}

pub fn uname(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "asnrmpo", &[("all", 'a')])?;
    let host = call.env.get("HOSTNAME").unwrap_or("localhost").to_owned();
    let parts = [('s', "WASI"), ('n', host.as_str()), ('r', "0.2"), ('m', std::env::consts::ARCH)];
    let wanted = |o: &char| options.has('a') || options.has(*o);
    let mut shown: Vec<&str> = parts.iter().filter(|(o, _)| wanted(o)).map(|(_, text)| *text).collect();
    if shown.is_empty() {
        shown.push("WASI");
    }
    writeln!(call.out, "{}", shown.join(" "))?;
    Ok(0)
}

/// A module sees no other instance: this command is all there is.
pub fn ps(call: &mut Call) -> Outcome {
    let command = call.args.join(" ");
    writeln!(call.out, "PID   USER     TIME  COMMAND\n    1 root      0:00 {command}")?;
    Ok(0)
}

pub fn kill(_: &mut Call) -> Outcome {
    Err(Failure::new(
        "WebAssembly modules have no signals and see no other process; delete the pod, or end its container through its own interface",
    ))
}

pub fn pwd(call: &mut Call) -> Outcome {
    writeln!(call.out, "{}", call.env.cwd.display())?;
    Ok(0)
}

pub fn sleep(call: &mut Call) -> Outcome {
    if call.operands().is_empty() {
        return Err(Failure::usage("sleep NUMBER[s|m|h|d]..."));
    }
    let mut total = Duration::ZERO;
    for word in call.operands() {
        total = total
            .saturating_add(duration(word).ok_or_else(|| Failure::new(format!("invalid number '{word}'")))?);
    }
    call.out.flush_now()?;
    thread::sleep(total);
    Ok(0)
}

fn duration(word: &str) -> Option<Duration> {
    if word == "infinity" || word == "inf" {
        // Longer than any pod lives, and no clock overflows.
        return Some(Duration::from_secs(100 * 365 * 86_400));
    }
    let (number, unit) = match word.chars().last()? {
        's' => (&word[..word.len() - 1], 1.0),
        'm' => (&word[..word.len() - 1], 60.0),
        'h' => (&word[..word.len() - 1], 3600.0),
        'd' => (&word[..word.len() - 1], 86_400.0),
        _ => (word, 1.0),
    };
    let seconds = number.parse::<f64>().ok()? * unit;
    Duration::try_from_secs_f64(seconds.min(1e10)).ok()
}

pub fn which(call: &mut Call) -> Outcome {
    let mut code = 0;
    for name in call.operands() {
        match super::find(super::base_name(name)) {
            Some(_) => writeln!(call.out.clone(), "{name}: toolbox")?,
            None => code = 1,
        }
    }
    Ok(code)
}
