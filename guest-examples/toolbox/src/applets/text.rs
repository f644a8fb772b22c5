//! Commands on text: `cat`, `head`, `tail`, `wc`, `grep`, `sort`, `uniq`, `cut`, `tee`, `echo`, `printf`, `seq`,
//! `basename`, `dirname`.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    thread,
    time::Duration,
};

use crate::{
    call::{Call, Failure, In, Outcome},
    glob::Regex,
    options::parse,
    sink::Sink,
};

/// How often `tail -f` looks for more.
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);
/// What `sort` holds at most.
const MAX_SORTED: u64 = 64 << 20;
/// What `tail` holds of the end of a stream at most.
const MAX_TAIL: usize = 16 << 20;

/// The named file, or standard input for `-`.
fn open(call: &Call, name: &str) -> Result<In, Failure> {
    if name == "-" {
        return Ok(call.stdin.clone());
    }
    let path = call.path(name);
    if path.is_dir() {
        return Err(Failure::about(name, &io::ErrorKind::IsADirectory.into()));
    }
    let file = File::open(path).map_err(|e| Failure::about(format_args!("can't open '{name}'"), &e))?;
    Ok(In::new(BufReader::with_capacity(32 * 1024, file)))
}

/// Does it for every named file, or for standard input if none is named; goes on after a failure.
fn each(
    call: &mut Call,
    names: &[String],
    mut act: impl FnMut(&mut Call, &str, In) -> Result<(), Failure>,
) -> Outcome {
    let stdin = ["-".to_owned()];
    let mut code = 0;
    for name in if names.is_empty() { &stdin } else { names } {
        if let Err(failure) = open(call, name).and_then(|input| act(call, name, input)) {
            call.complain(&failure);
            code = 1;
        }
    }
    Ok(code)
}

pub fn cat(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "nu", &[("number", 'n')])?;
    let mut number = 0;
    each(call, &options.operands, |call, _, mut input| {
        if !options.has('n') {
            // As it comes: what is followed is shown at once.
            let mut buffer = [0; 16 * 1024];
            loop {
                match input.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => call.out.write_all(&buffer[..n])?,
                }
                if input.is_own {
                    call.out.flush()?;
                }
            }
        }
        lines(&input, |line| {
            number += 1;
            write!(call.out, "{number:6}\t")?;
            call.out.write_all(line)?;
            Ok(true)
        })
    })
}

/// Gives every line with its end, until the function has enough.
fn lines(input: &In, mut act: impl FnMut(&[u8]) -> io::Result<bool>) -> Result<(), Failure> {
    let mut line = Vec::new();
    while input.read_line(&mut line)? > 0 {
        if !act(&line)? {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// `-N` of old is `-n N`.
fn modern(args: &[String]) -> Vec<String> {
    let old = |arg: &String| match arg.strip_prefix('-') {
        Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => format!("-n{n}"),
        _ => arg.clone(),
    };
    args.iter().map(old).collect()
}

pub fn head(call: &mut Call) -> Outcome {
    const USAGE: &str = "head [-n LINES] [-c BYTES] [FILE...]";
    let options = parse(&modern(call.operands()), "n:c:q", &[("lines", 'n'), ("bytes", 'c')])?;
    let count = |text: &str| text.parse::<u64>().map_err(|_| Failure::usage(USAGE));
    let bytes = options.value('c').map(count).transpose()?;
    let wanted = options.value('n').map(count).transpose()?.unwrap_or(10);
    let titled = options.operands.len() > 1 && !options.has('q');
    each(call, &options.operands, |call, name, input| {
        if titled {
            writeln!(call.out, "==> {name} <==")?;
        }
        if let Some(bytes) = bytes {
            io::copy(&mut input.take(bytes), &mut call.out)?;
            return Ok(());
        }
        let mut left = wanted;
        if left == 0 {
            return Ok(());
        }
        lines(&input, |line| {
            call.out.write_all(line)?;
            left -= 1;
            Ok(left > 0)
        })
    })
}

pub fn tail(call: &mut Call) -> Outcome {
    const USAGE: &str = "tail [-f] [-n [+]LINES] [-c [+]BYTES] [FILE...]";
    let long = [("lines", 'n'), ("bytes", 'c'), ("follow", 'f')];
    let mut args = modern(call.operands());
    // `tail +N` of old is `tail -n +N`.
    if let Some(first) = args.first_mut()
        && first.strip_prefix('+').is_some_and(|n| n.parse::<u64>().is_ok())
    {
        *first = format!("-n{first}");
    }
    let options = parse(&args, "n:c:fFq", &long)?;
    let (by_bytes, amount) = match options.value('c') {
        Some(amount) => (true, amount),
        None => (false, options.value('n').unwrap_or("10")),
    };
    let number = amount.trim_start_matches(['+', '-']).parse::<u64>().map_err(|_| Failure::usage(USAGE))?;
    let start = match (by_bytes, amount.starts_with('+')) {
        (true, true) => Start::Byte(number.saturating_sub(1)),
        (true, false) => Start::LastBytes(number),
        (false, true) => Start::Line(number.saturating_sub(1)),
        (false, false) => Start::LastLines(number),
    };
    let titled = options.operands.len() > 1 && !options.has('q');
    let follow = options.has('f') || options.has('F');
    let code = each(call, &options.operands, |call, name, mut input| {
        if titled {
            writeln!(call.out, "==> {name} <==")?;
        }
        // A file's beginning need not be read to be skipped.
        if let (Start::Byte(skip), true) = (&start, name != "-") {
            let mut file = File::open(call.path(name))?;
            file.seek(SeekFrom::Start(*skip))?;
            io::copy(&mut file, &mut call.out)?;
            return Ok(());
        }
        start.copy(&mut input, call)?;
        Ok(())
    })?;
    if let (true, [name]) = (follow && code == 0, options.operands.as_slice()) {
        follow_file(call, name)?;
    }
    Ok(code)
}

/// Where `tail` begins.
enum Start {
    Byte(u64),
    Line(u64),
    LastBytes(u64),
    LastLines(u64),
}

impl Start {
    fn copy(&self, input: &mut In, call: &mut Call) -> io::Result<()> {
        match self {
            Start::Byte(skip) => {
                io::copy(&mut input.take(*skip), &mut io::sink())?;
            }
            Start::Line(skip) => {
                let mut line = Vec::new();
                for _ in 0..*skip {
                    line.clear();
                    if input.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                }
            }
            Start::LastBytes(count) => {
                let count = usize::try_from(*count).unwrap_or(MAX_TAIL).min(MAX_TAIL);
                let (mut kept, mut buffer) = (VecDeque::new(), [0; 16 * 1024]);
                loop {
                    match input.read(&mut buffer)? {
                        0 => break,
                        n => kept.extend(&buffer[..n]),
                    }
                    kept.drain(..kept.len().saturating_sub(count));
                }
                return call.out.write_all(kept.make_contiguous());
            }
            Start::LastLines(count) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                let (mut kept, mut size, mut line) = (VecDeque::new(), 0, Vec::new());
                while input.read_line(&mut line)? > 0 {
                    size += line.len();
                    kept.push_back(std::mem::take(&mut line));
                    while kept.len() > count || size > MAX_TAIL {
                        size -= kept.pop_front().map_or(size, |gone| gone.len());
                    }
                }
                return kept.iter().try_for_each(|line| call.out.write_all(line));
            }
        }
        io::copy(input, &mut call.out).map(drop)
    }
}

/// Shows what is added to a file, from its end now and for ever; begins anew when it was cut.
fn follow_file(call: &mut Call, name: &str) -> Result<(), Failure> {
    let path = call.path(name);
    let mut at = path.metadata()?.len();
    loop {
        call.out.flush()?;
        thread::sleep(FOLLOW_PAUSE);
        let Ok(mut file) = File::open(&path) else { continue };
        let len = file.metadata()?.len();
        if len < at {
            at = 0;
        }
        if len > at {
            file.seek(SeekFrom::Start(at))?;
            at += io::copy(&mut file, &mut call.out)?;
        }
    }
}

pub fn wc(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "lwcm", &[("lines", 'l'), ("words", 'w'), ("bytes", 'c')])?;
    let all = !['l', 'w', 'c', 'm'].iter().any(|o| options.has(*o));
    let shown =
        [all || options.has('l'), all || options.has('w'), all || options.has('c') || options.has('m')];
    let mut totals = [0u64; 3];
    let row = |counts: [u64; 3], name: &str| {
        let columns = counts.iter().zip(shown).filter(|(_, shown)| *shown).map(|(n, _)| n.to_string());
        let mut columns: Vec<String> = columns.collect();
        if columns.len() > 1 {
            columns = columns.iter().map(|c| format!("{c:>9}")).collect();
        }
        let name = if name == "-" { String::new() } else { format!(" {name}") };
        format!("{}{name}\n", columns.join(" "))
    };
    let code = each(call, &options.operands, |call, name, mut input| {
        let (mut counts, mut in_word, mut buffer) = ([0u64; 3], false, [0; 16 * 1024]);
        loop {
            let n = input.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            counts[2] += n as u64;
            for byte in &buffer[..n] {
                counts[0] += u64::from(*byte == b'\n');
                let space = byte.is_ascii_whitespace();
                counts[1] += u64::from(!space && !in_word);
                in_word = !space;
            }
        }
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        call.out.write_all(row(counts, name).as_bytes())?;
        Ok(())
    })?;
    if options.operands.len() > 1 {
        call.out.write_all(row(totals, "total").as_bytes())?;
    }
    Ok(code)
}

pub fn grep(call: &mut Call) -> Outcome {
    let mut options =
        parse(call.operands(), "ivncqElFhHowsre:", &[("ignore-case", 'i'), ("invert-match", 'v')])?;
    let mut patterns: Vec<String> = options.values('e').map(str::to_owned).collect();
    if patterns.is_empty() {
        if options.operands.is_empty() {
            return Err(Failure::usage("grep [-ivncqlohFE] PATTERN [FILE...]"));
        }
        patterns.push(options.operands.remove(0));
    }
    let regexes: Vec<Regex> =
        patterns.iter().map(|p| Regex::new(p, options.has('F'), options.has('i'))).collect();
    let titled = (options.operands.len() > 1 || options.has('H')) && !options.has('h');
    let mut found = false;
    let code = each(call, &options.operands, |call, name, input| {
        let (mut number, mut count) = (0u64, 0u64);
        let name = if name == "-" { "(standard input)" } else { name };
        let title = if titled { format!("{name}:") } else { String::new() };
        lines(&input, |line| {
            number += 1;
            let text = String::from_utf8_lossy(line);
            let text = text.trim_end_matches('\n');
            let hit = regexes.iter().find_map(|r| r.find(text));
            if hit.is_some() == options.has('v') {
                return Ok(true);
            }
            count += 1;
            found = true;
            if options.has('q') || options.has('l') {
                return Ok(false);
            }
            if !options.has('c') {
                let place = if options.has('n') { format!("{number}:") } else { String::new() };
                // Case folding may move places; then the whole line is shown.
                let part = hit.filter(|_| options.has('o')).and_then(|(from, to)| text.get(from..to));
                writeln!(call.out, "{title}{place}{}", part.unwrap_or(text))?;
            }
            Ok(true)
        })?;
        if options.has('c') {
            writeln!(call.out, "{title}{count}")?;
        } else if options.has('l') && count > 0 {
            writeln!(call.out, "{name}")?;
        }
        Ok(())
    })?;
    Ok(match (found, code) {
        (true, 0) => 0,
        (_, 0) => 1,
        _ => 2,
    })
}

pub fn sort(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "rnuk:", &[("reverse", 'r'), ("unique", 'u')])?;
    let column = match options
        .value('k')
        .map(|k| k.split([',', '.', 'n']).next().unwrap_or_default().parse::<usize>())
    {
        Some(Ok(column)) if column > 0 => column - 1,
        Some(_) => return Err(Failure::usage("sort [-rnu] [-k FIELD] [FILE...]")),
        None => 0,
    };
    let numeric = options.has('n') || options.value('k').is_some_and(|k| k.contains('n'));
    let mut sorted: Vec<String> = Vec::new();
    let mut room = MAX_SORTED;
    let code = each(call, &options.operands, |_, _, input| {
        let mut text = String::new();
        input.take(room + 1).read_to_string(&mut text)?;
        room = room.checked_sub(text.len() as u64).ok_or_else(|| Failure::new("too much to sort"))?;
        sorted.extend(text.lines().map(str::to_owned));
        Ok(())
    })?;
    let key = |line: &str| -> String {
        if options.has('k') {
            line.split_whitespace().skip(column).collect::<Vec<_>>().join(" ")
        } else {
            line.to_owned()
        }
    };
    let number = |text: &str| -> f64 {
        let text = text.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(text.len());
        text[..end].parse().unwrap_or(0.0)
    };
    sorted.sort_by(|a, b| {
        let (left, right) = (key(a), key(b));
        let by_number = if numeric { number(&left).total_cmp(&number(&right)) } else { left.cmp(&right) };
        by_number.then_with(|| a.cmp(b))
    });
    if options.has('r') {
        sorted.reverse();
    }
    if options.has('u') {
        sorted.dedup();
    }
    for line in sorted {
        writeln!(call.out, "{line}")?;
    }
    Ok(code)
}

pub fn uniq(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "cd", &[("count", 'c'), ("repeated", 'd')])?;
    let mut last: Option<(Vec<u8>, u64)> = None;
    let mut out = call.out.clone();
    let mut print = |entry: Option<(Vec<u8>, u64)>| -> io::Result<()> {
        let Some((line, count)) = entry.filter(|(_, count)| *count > 1 || !options.has('d')) else {
            return Ok(());
        };
        if options.has('c') {
            write!(out, "{count:7} ")?;
        }
        out.write_all(&line)
    };
    let code = each(call, &options.operands, |_, _, input| {
        lines(&input, |line| {
            match &mut last {
                Some((same, count)) if same == line => *count += 1,
                _ => print(last.replace((line.to_vec(), 1)))?,
            }
            Ok(true)
        })
    })?;
    print(last)?;
    Ok(code)
}

pub fn cut(call: &mut Call) -> Outcome {
    const USAGE: &str = "cut -f FIELDS [-d DELIMITER] [FILE...]";
    let options = parse(call.operands(), "d:f:s", &[("delimiter", 'd'), ("fields", 'f')])?;
    let delimiter = options.value('d').unwrap_or("\t").to_owned();
    let mut ranges = Vec::new();
    for part in options.value('f').ok_or_else(|| Failure::usage(USAGE))?.split(',') {
        let number = |text: &str, default: usize| {
            if text.is_empty() {
                Ok(default)
            } else {
                text.parse::<usize>().map_err(|_| Failure::usage(USAGE))
            }
        };
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        ranges.push(number(from, 1)?..=number(to, usize::MAX)?);
    }
    each(call, &options.operands, |call, _, input| {
        lines(&input, |line| {
            let text = String::from_utf8_lossy(line);
            let text = text.trim_end_matches('\n');
            if !text.contains(delimiter.as_str()) {
                if !options.has('s') {
                    writeln!(call.out, "{text}")?;
                }
                return Ok(true);
            }
            let fields = text.split(delimiter.as_str()).enumerate();
            let kept: Vec<&str> =
                fields.filter(|(i, _)| ranges.iter().any(|r| r.contains(&(i + 1)))).map(|(_, f)| f).collect();
            writeln!(call.out, "{}", kept.join(&delimiter))?;
            Ok(true)
        })
    })
}

pub fn tee(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "ai", &[("append", 'a')])?;
    let mut files = Vec::new();
    for name in &options.operands {
        let file = Sink::open(&call.path(name), options.has('a'));
        files.push(file.map_err(|e| Failure::about(name, &e))?);
    }
    let mut buffer = [0; 16 * 1024];
    loop {
        let n = call.stdin.read(&mut buffer)?;
        if n == 0 {
            return Ok(0);
        }
        call.out.write_all(&buffer[..n])?;
        call.out.flush()?;
        for file in &mut files {
            file.write_all(&buffer[..n])?;
        }
    }
}

pub fn echo(call: &mut Call) -> Outcome {
    let (mut newline, mut escapes) = (true, false);
    let mut words = call.operands();
    while let Some((first, rest)) = words.split_first() {
        let Some(letters) = first.strip_prefix('-').filter(|l| !l.is_empty()) else { break };
        if !letters.chars().all(|c| "neE".contains(c)) {
            break;
        }
        newline &= !letters.contains('n');
        escapes = letters.chars().fold(escapes, |now, c| if c == 'n' { now } else { c == 'e' });
        words = rest;
    }
    let mut text = words.join(" ");
    if escapes {
        text = unescape(&text);
    }
    if newline {
        text.push('\n');
    }
    call.out.write_all(text.as_bytes())?;
    Ok(0)
}

/// `\n` and its like.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some('t')) => plain.push('\t'),
            ('\\', Some('r')) => plain.push('\r'),
            ('\\', Some('0')) => plain.push('\0'),
            ('\\', Some('e')) => plain.push('\x1b'),
            ('\\', Some('\\')) => plain.push('\\'),
            ('\\', Some(other)) => plain.extend(['\\', other]),
            (c, _) => plain.push(c),
        }
    }
    plain
}

pub fn printf(call: &mut Call) -> Outcome {
    let Some((format, args)) = call.operands().split_first() else {
        return Err(Failure::usage("printf FORMAT [ARG...]"));
    };
    let format = unescape(format);
    let (mut args, mut text) = (args.iter(), String::new());
    // The format is used again as long as there are arguments.
    loop {
        let before = args.len();
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let (mut left, mut zero, mut width) = (false, false, 0usize);
            while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0')) {
                left |= flag == '-';
                zero |= flag == '0';
            }
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                width = (width * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(4096);
            }
            let value = match chars.next() {
                Some('%') => "%".to_owned(),
                Some('s') => args.next().cloned().unwrap_or_default(),
                Some('b') => unescape(args.next().map_or("", String::as_str)),
                Some('d' | 'i' | 'u') => {
                    let arg = args.next().map_or("0", String::as_str);
                    let number = arg.trim().parse::<i64>();
                    number.map_err(|_| Failure::new(format!("{arg}: invalid number")))?.to_string()
                }
                other => return Err(Failure::new(format!("%{}: invalid format", other.unwrap_or(' ')))),
            };
            text.push_str(&match (left, zero) {
                (true, _) => format!("{value:<width$}"),
                (false, true) => format!("{value:0>width$}"),
                (false, false) => format!("{value:>width$}"),
            });
        }
        if args.len() == 0 || args.len() == before {
            break;
        }
    }
    call.out.write_all(text.as_bytes())?;
    Ok(0)
}

pub fn seq(call: &mut Call) -> Outcome {
    let usage = || Failure::usage("seq [FIRST [STEP]] LAST");
    let numbers: Result<Vec<i64>, _> = call.operands().iter().map(|a| a.parse::<i64>()).collect();
    let (mut at, step, last) = match numbers.map_err(|_| usage())?.as_slice() {
        [last] => (1, 1, *last),
        [first, last] => (*first, 1, *last),
        [first, step, last] if *step != 0 => (*first, *step, *last),
        _ => return Err(usage()),
    };
    while (step > 0 && at <= last) || (step < 0 && at >= last) {
        writeln!(call.out, "{at}")?;
        at = at.saturating_add(step);
        if at == i64::MAX || at == i64::MIN {
            break;
        }
    }
    Ok(0)
}

pub fn basename(call: &mut Call) -> Outcome {
    let [path, suffix @ ..] = call.operands() else { return Err(Failure::usage("basename PATH [SUFFIX]")) };
    let name = super::base_name(path);
    let name =
        suffix.first().and_then(|s| name.strip_suffix(s.as_str())).filter(|n| !n.is_empty()).unwrap_or(name);
    writeln!(call.out.clone(), "{name}")?;
    Ok(0)
}

pub fn dirname(call: &mut Call) -> Outcome {
    let [path] = call.operands() else { return Err(Failure::usage("dirname PATH")) };
    let name = match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None if path.starts_with('/') => "/",
        None => ".",
    };
    writeln!(call.out.clone(), "{name}")?;
    Ok(0)
}
