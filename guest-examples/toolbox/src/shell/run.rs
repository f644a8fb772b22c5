//! Runs commands.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufReader, BufWriter, Cursor, Write},
    rc::Rc,
};

use super::{
    MAX_PIPE,
    parse::{self, Node, Redirect, Script, Target},
};
use crate::{
    applets::{self, MAX_DEPTH},
    call::{Call, Env, In, Out, reason},
    glob,
    sink::Sink,
};

/// Standard input, output and error of a command.
#[derive(Clone)]
pub struct Streams {
    pub stdin: In,
    pub out: Out,
    pub err: Out,
}

/// What happens after a command.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flow {
    Next,
    Break,
    Continue,
    Exit(u8),
}

/// The state of a shell.
#[derive(Clone)]
pub struct Shell {
    pub env: Env,
    /// `$0`, `$1`, …
    pub parameters: Vec<String>,
    /// `$?`
    pub last: u8,
    pub exit_on_error: bool,
    /// Inside of a condition, where failing is an answer.
    asking: bool,
}

impl Shell {
    pub fn new(env: Env) -> Shell {
        Shell { env, parameters: Vec::new(), last: 0, exit_on_error: false, asking: false }
    }

    /// Runs commands in order, until one ends the loop or the shell.
    pub fn run(&mut self, script: &Script, streams: &Streams) -> Flow {
        for node in script {
            match self.node(node, streams) {
                Flow::Next => {}
                flow => return flow,
            }
        }
        Flow::Next
    }

    fn node(&mut self, node: &Node, streams: &Streams) -> Flow {
        if self.env.depth > MAX_DEPTH {
            return self.fails(streams, "nested too deeply");
        }
        self.env.depth += 1;
        let flow = self.dispatch(node, streams);
        self.env.depth -= 1;
        flow
    }

    fn dispatch(&mut self, node: &Node, streams: &Streams) -> Flow {
        match node {
            Node::Simple { assignments, words, redirects } => {
                let flow = self.simple(assignments, words, redirects, streams);
                if self.exit_on_error && !self.asking && self.last != 0 && flow == Flow::Next {
                    return Flow::Exit(self.last);
                }
                flow
            }
            Node::Pipe(parts) => self.pipe(parts, streams),
            Node::Not(node) => {
                let flow = self.ask(|shell| shell.node(node, streams));
                self.last = u8::from(self.last == 0);
                flow
            }
            Node::And(left, right) | Node::Or(left, right) => {
                let flow = self.ask(|shell| shell.node(left, streams));
                let goes_on = (self.last == 0) == matches!(node, Node::And(..));
                if flow == Flow::Next && goes_on { self.node(right, streams) } else { flow }
            }
            Node::If { branches, otherwise } => {
                for (condition, body) in branches {
                    let flow = self.ask(|shell| shell.run(condition, streams));
                    if flow != Flow::Next {
                        return flow;
                    }
                    if self.last == 0 {
                        return self.run(body, streams);
                    }
                }
                self.last = 0;
                self.run(otherwise, streams)
            }
            Node::While { condition, until, body } => {
                let mut code = 0;
                loop {
                    let flow = self.ask(|shell| shell.run(condition, streams));
                    if flow != Flow::Next {
                        return flow;
                    }
                    if (self.last == 0) == *until {
                        break;
                    }
                    match self.run(body, streams) {
                        Flow::Break => break,
                        Flow::Exit(code) => return Flow::Exit(code),
                        Flow::Next | Flow::Continue => code = self.last,
                    }
                }
                self.last = code;
                Flow::Next
            }
            Node::For { name, words, body } => {
                let values = match words {
                    Some(words) => match self.expand(words, streams) {
                        Ok(values) => values,
                        Err(message) => return self.fails(streams, &message),
                    },
                    None => self.parameters.get(1..).unwrap_or_default().to_vec(),
                };
                self.last = 0;
                for value in values {
                    self.env.vars.insert(name.clone(), value);
                    match self.run(body, streams) {
                        Flow::Break => break,
                        Flow::Exit(code) => return Flow::Exit(code),
                        Flow::Next | Flow::Continue => {}
                    }
                }
                Flow::Next
            }
            Node::Case { word, arms } => {
                let found = match self.arm(word, arms, streams) {
                    Ok(found) => found,
                    Err(message) => return self.fails(streams, &message),
                };
                self.last = 0;
                found.map_or(Flow::Next, |body| self.run(body, streams))
            }
            Node::Group { body, apart, redirects } => {
                let streams = match self.redirect(redirects, streams) {
                    Ok(streams) => streams,
                    Err(message) => return self.fails(streams, &message),
                };
                let flow = if *apart {
                    let mut child = self.clone();
                    let flow = child.run(body, &streams);
                    self.last = if let Flow::Exit(code) = flow { code } else { child.last };
                    Flow::Next
                } else {
                    self.run(body, &streams)
                };
                self.flushed(&streams, flow)
            }
        }
    }

    /// What is to be done in a `case`.
    fn arm<'a>(
        &mut self,
        word: &parse::Word,
        arms: &'a [(Vec<parse::Word>, Script)],
        streams: &Streams,
    ) -> Result<Option<&'a Script>, String> {
        let value = self.expand_one(word, streams)?;
        for (patterns, body) in arms {
            for pattern in patterns {
                if glob::matches(&self.pattern(pattern, streams)?, &value) {
                    return Ok(Some(body));
                }
            }
        }
        Ok(None)
    }

    /// Runs what may fail without ending the shell.
    fn ask(&mut self, run: impl FnOnce(&mut Shell) -> Flow) -> Flow {
        let before = std::mem::replace(&mut self.asking, true);
        let flow = run(self);
        self.asking = before;
        flow
    }

    fn fails(&mut self, streams: &Streams, message: &str) -> Flow {
        streams.out.flush_now().ok();
        writeln!(streams.err.clone(), "sh: {message}").ok();
        self.last = 2;
        Flow::Next
    }

    /// Files are written when their command ends, and what went wrong then is said.
    fn flushed(&mut self, streams: &Streams, flow: Flow) -> Flow {
        match streams.out.flush_now().and(streams.err.flush_now()) {
            Ok(()) => flow,
            Err(error) => {
                self.fails(streams, &format!("write error: {}", reason(&error)));
                self.last = 1;
                flow
            }
        }
    }

    /// The left side ends before the right side reads what it printed.
    fn pipe(&mut self, parts: &[Node], streams: &Streams) -> Flow {
        let mut stdin = streams.stdin.clone();
        let Some((last, firsts)) = parts.split_last() else { return Flow::Next };
        for part in firsts {
            let buffer = Rc::new(RefCell::new(Buffer::default()));
            let out = Out::shared(buffer.clone());
            let mut child = self.clone();
            child.node(part, &Streams { stdin, out, err: streams.err.clone() });
            stdin = In::new(Cursor::new(std::mem::take(&mut buffer.borrow_mut().bytes)));
        }
        let mut child = self.clone();
        let flow = child.node(last, &Streams { stdin, ..streams.clone() });
        self.last = if let Flow::Exit(code) = flow { code } else { child.last };
        if self.exit_on_error && !self.asking && self.last != 0 { Flow::Exit(self.last) } else { Flow::Next }
    }

    /// What a script prints, without the line ends at its end.
    pub fn capture(&mut self, script: &Script, streams: &Streams) -> Result<String, String> {
        if self.env.depth > MAX_DEPTH {
            return Err("nested too deeply".to_owned());
        }
        let buffer = Rc::new(RefCell::new(Buffer::default()));
        let mut child = self.clone();
        child.env.depth += 1;
        let flow = child.run(script, &Streams { out: Out::shared(buffer.clone()), ..streams.clone() });
        self.last = if let Flow::Exit(code) = flow { code } else { child.last };
        let text = String::from_utf8_lossy(&buffer.borrow().bytes).into_owned();
        Ok(text.trim_end_matches('\n').to_owned())
    }

    fn redirect(&mut self, redirects: &[Redirect], streams: &Streams) -> Result<Streams, String> {
        let mut streams = streams.clone();
        for Redirect { stream, to } in redirects {
            let out = match to {
                Target::Read(word) => {
                    let name = self.expand_one(word, &streams)?;
                    let file = File::open(self.env.cwd.join(&name));
                    let file = file.map_err(|e| format!("can't open {name}: {}", reason(&e)))?;
                    streams.stdin = In::new(BufReader::new(file));
                    continue;
                }
                Target::Same(1) => streams.out.clone(),
                Target::Same(_) => streams.err.clone(),
                Target::Write(word) | Target::Append(word) => {
                    let name = self.expand_one(word, &streams)?;
                    if name == "/dev/null" {
                        Out::new(io::sink())
                    } else {
                        let append = matches!(to, Target::Append(_));
                        let file = Sink::open(&self.env.cwd.join(&name), append);
                        let file = file.map_err(|e| format!("can't create {name}: {}", reason(&e)))?;
                        Out::new(BufWriter::new(file))
                    }
                }
            };
            match stream {
                1 => streams.out = out,
                _ => streams.err = out,
            }
        }
        Ok(streams)
    }

    fn simple(
        &mut self,
        assignments: &[(String, parse::Word)],
        words: &[parse::Word],
        redirects: &[Redirect],
        streams: &Streams,
    ) -> Flow {
        // A command substitution leaves its code if nothing else runs.
        let before = std::mem::take(&mut self.last);
        let mut prepare = || -> Result<_, String> {
            self.last = before;
            let args = self.expand(words, streams)?;
            if args.is_empty() {
                self.last = 0;
            }
            let mut values = Vec::new();
            for (name, word) in assignments {
                values.push((name.clone(), self.expand_one(word, streams)?));
            }
            Ok((args, values, self.redirect(redirects, streams)?))
        };
        let (args, values, streams) = match prepare() {
            Ok(prepared) => prepared,
            Err(message) => return self.fails(streams, &message),
        };
        let Some(name) = args.first() else {
            self.env.vars.extend(values);
            return Flow::Next;
        };
        if let Some(flow) = self.builtin(name, &args, &values, &streams) {
            return self.flushed(&streams, flow);
        }
        let mut env = self.env.clone();
        env.vars.extend(values);
        let Streams { stdin, out, err } = streams.clone();
        self.last = match applets::find(applets::base_name(name)) {
            Some(_) => applets::run(&mut Call { args: &args, stdin, out, err, env: &mut env }),
            None => {
                self.fails(&streams, &format!("{name}: not found"));
                127
            }
        };
        self.flushed(&streams, Flow::Next)
    }

    /// What changes the shell itself.
    fn builtin(
        &mut self,
        name: &str,
        args: &[String],
        values: &[(String, String)],
        streams: &Streams,
    ) -> Option<Flow> {
        let operand = args.get(1).map(String::as_str);
        let mut code = 0;
        match name {
            ":" => self.env.vars.extend(values.iter().cloned()),
            "cd" => {
                let home = self.env.get("HOME").unwrap_or("/").to_owned();
                let to = operand.unwrap_or(&home);
                let path = normal(&self.env.cwd.join(to));
                if path.is_dir() {
                    self.env.cwd = path;
                } else {
                    self.fails(streams, &format!("cd: can't cd to {to}: No such file or directory"));
                    code = 1;
                }
            }
            "export" => {
                for arg in &args[1..] {
                    if let Some((name, value)) = arg.split_once('=') {
                        self.env.vars.insert(name.to_owned(), value.to_owned());
                    }
                }
            }
            "unset" => args[1..].iter().for_each(|name| drop(self.env.vars.remove(name))),
            "set" => {
                for arg in &args[1..] {
                    match arg.as_str() {
                        "-e" | "-eu" | "-ex" | "-eux" => self.exit_on_error = true,
                        "+e" => self.exit_on_error = false,
                        _ => {}
                    }
                }
            }
            "shift" => {
                if self.parameters.len() > 1 {
                    self.parameters.remove(1);
                }
            }
            "break" => return Some(Flow::Break),
            "continue" => return Some(Flow::Continue),
            "exit" => {
                let code = operand.map_or(Ok(i64::from(self.last)), str::parse::<i64>);
                return Some(Flow::Exit(code.map_or(2, |code| code.rem_euclid(256) as u8)));
            }
            // Nothing can replace this instance: the command runs, and the shell ends with it.
            "exec" if operand.is_some() => {
                let Streams { stdin, out, err } = streams.clone();
                let code = applets::run(&mut Call { args: &args[1..], stdin, out, err, env: &mut self.env });
                return Some(Flow::Exit(code));
            }
            "exec" => {}
            "read" => {
                let mut line = Vec::new();
                let n = streams.stdin.read_line(&mut line).unwrap_or(0);
                let line = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                let names: Vec<&String> = args[1..].iter().filter(|a| !a.starts_with('-')).collect();
                let mut rest = line.trim();
                for (i, name) in names.iter().enumerate() {
                    let (first, others) = match rest.split_once(char::is_whitespace) {
                        Some((first, others)) if i + 1 < names.len() => (first, others.trim_start()),
                        _ => (rest, ""),
                    };
                    self.env.vars.insert((*name).clone(), first.to_owned());
                    rest = others;
                }
                code = u8::from(n == 0);
            }
            "." | "source" => {
                let file = operand.unwrap_or_default();
                let script = std::fs::read_to_string(self.env.cwd.join(file)).map_err(|e| reason(&e));
                return Some(match script.and_then(|text| parse::script(&text)) {
                    Ok(script) if self.env.depth < MAX_DEPTH => self.run(&script, streams),
                    Ok(_) => self.fails(streams, "nested too deeply"),
                    Err(message) => self.fails(streams, &format!("{file}: {message}")),
                });
            }
            "command" if operand == Some("-v") => {
                code = 1;
                if let Some(name) = args.get(2).filter(|name| applets::find(name).is_some()) {
                    writeln!(streams.out.clone(), "{name}").ok();
                    code = 0;
                }
            }
            _ => return None,
        }
        self.last = code;
        Some(Flow::Next)
    }
}

/// Without `.` and `..`.
fn normal(path: &std::path::Path) -> std::path::PathBuf {
    let mut normal = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(normal.pop()),
            std::path::Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// A pipe: holds what was printed.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_PIPE {
            return Err(io::Error::other("too much for a pipe of this shell"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
