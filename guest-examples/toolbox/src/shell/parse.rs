//! From text to commands.

/// How deep commands may be nested.
const MAX_DEPTH: usize = 40;

/// Commands in order.
pub type Script = Vec<Node>;

#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Simple {
        assignments: Vec<(String, Word)>,
        words: Vec<Word>,
        redirects: Vec<Redirect>,
    },
    Pipe(Vec<Node>),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If {
        branches: Vec<(Script, Script)>,
        otherwise: Script,
    },
    While {
        condition: Script,
        until: bool,
        body: Script,
    },
    For {
        name: String,
        words: Option<Vec<Word>>,
        body: Script,
    },
    /// Patterns with what is done for the first that fits.
    Case {
        word: Word,
        arms: Vec<(Vec<Word>, Script)>,
    },
    /// `{ … }`, or `( … )` that leaves variables and folder as they are; also gives redirects to other nodes.
    Group {
        body: Script,
        apart: bool,
        redirects: Vec<Redirect>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// 0, 1 or 2.
    pub stream: u8,
    pub to: Target,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Read(Word),
    Write(Word),
    Append(Word),
    /// `2>&1`
    Same(u8),
}

pub type Word = Vec<Piece>;

/// A part of a word; what is quoted is neither split nor taken as a pattern.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Text { text: String, quoted: bool },
    Variable { name: String, default: Option<(Default, Word)>, quoted: bool },
    Length(String),
    Command { script: Script, quoted: bool },
    Arithmetic { expression: Word, quoted: bool },
}

/// What `${NAME:-WORD}` and its like do if the variable is empty, or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Default {
    Use,
    Assign,
    Fail,
    Instead,
}

/// Reads a whole script.
///
/// # Errors
/// What is wrong, in a shell's words.
pub fn script(text: &str) -> Result<Script, String> {
    nested_script(text, 0)
}

/// True if more text could make it a script.
pub fn is_unfinished(text: &str) -> bool {
    matches!(script(text), Err(message) if message.starts_with(UNFINISHED))
}

const UNFINISHED: &str = "syntax error: unexpected end of file";

fn nested_script(text: &str, depth: usize) -> Result<Script, String> {
    if depth > MAX_DEPTH {
        return Err("syntax error: nested too deeply".to_owned());
    }
    let tokens = Lexer { chars: text.chars().collect(), at: 0, depth }.tokens()?;
    let mut parser = Parser { tokens, at: 0, depth };
    let script = parser.list(&[])?;
    match parser.tokens.get(parser.at) {
        None => Ok(script),
        Some(token) => Err(unexpected(token)),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(Word),
    /// An operator; a line end is `\n`.
    Op(&'static str),
    /// The number in front of a redirect.
    Stream(u8),
}

fn unexpected(token: &Token) -> String {
    let text = match token {
        Token::Word(word) => plain(word).unwrap_or_else(|| "word".to_owned()),
        Token::Op("\n") => "newline".to_owned(),
        Token::Op(op) => (*op).to_owned(),
        Token::Stream(n) => n.to_string(),
    };
    format!("syntax error: unexpected \"{text}\"")
}

/// The text of a word that has nothing quoted and nothing to expand: keywords, names.
fn plain(word: &Word) -> Option<String> {
    match word.as_slice() {
        [Piece::Text { text, quoted: false }] => Some(text.clone()),
        _ => None,
    }
}

const OPERATORS: [&str; 13] = ["&&", "||", ">>", ">&", ";;", "|", "&", ";", "<", ">", "(", ")", "\n"];

struct Lexer {
    chars: Vec<char>,
    at: usize,
    depth: usize,
}

impl Lexer {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    fn tokens(mut self) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        while let Some(c) = self.peek() {
            if c == ' ' || c == '\t' || c == '\r' {
                self.at += 1;
            } else if c == '\\' && self.chars.get(self.at + 1) == Some(&'\n') {
                self.at += 2;
            } else if c == '#' {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else if let Some(op) = self.operator() {
                tokens.push(Token::Op(op));
            } else if c.is_ascii_digit() && matches!(self.chars.get(self.at + 1), Some('<' | '>')) {
                self.at += 1;
                tokens.push(Token::Stream(c as u8 - b'0'));
            } else {
                tokens.push(Token::Word(self.word()?));
            }
        }
        Ok(tokens)
    }

    fn operator(&mut self) -> Option<&'static str> {
        let rest = &self.chars[self.at..];
        let op = OPERATORS.iter().find(|op| op.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c)))?;
        self.at += op.len();
        Some(op)
    }

    fn word(&mut self) -> Result<Word, String> {
        let mut word = Word::new();
        while let Some(c) = self.peek() {
            if " \t\r\n;&|<>()".contains(c) {
                break;
            }
            self.at += 1;
            match c {
                '\'' => {
                    let text = self.until('\'')?;
                    word.push(Piece::Text { text, quoted: true });
                }
                '"' => self.double_quoted(&mut word)?,
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(c) => push(&mut word, c, true),
                    None => return Err(UNFINISHED.to_owned()),
                },
                '$' => self.dollar(&mut word, false)?,
                '`' => {
                    let script = nested_script(&self.until('`')?, self.depth + 1)?;
                    word.push(Piece::Command { script, quoted: false });
                }
                c => push(&mut word, c, false),
            }
        }
        Ok(word)
    }

    fn until(&mut self, end: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some(c) if c == end => return Ok(text),
                Some(c) => text.push(c),
                None => return Err(format!("{UNFINISHED} (looking for {end})")),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word) -> Result<(), String> {
        // Even an empty pair of quotes is a word.
        word.push(Piece::Text { text: String::new(), quoted: true });
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.next() {
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '$' | '`')) => push(word, c, true),
                    Some(c) => {
                        push(word, '\\', true);
                        push(word, c, true);
                    }
                    None => return Err(UNFINISHED.to_owned()),
                },
                Some('$') => self.dollar(word, true)?,
                Some('`') => {
                    let script = nested_script(&self.until('`')?, self.depth + 1)?;
                    word.push(Piece::Command { script, quoted: true });
                }
                Some(c) => push(word, c, true),
                None => return Err(format!("{UNFINISHED} (looking for \")")),
            }
        }
    }

    fn dollar(&mut self, word: &mut Word, quoted: bool) -> Result<(), String> {
        match self.peek() {
            Some('{') => {
                self.at += 1;
                let text = self.balanced('{', '}')?;
                word.push(self.braces(&text, quoted)?);
            }
            Some('(') => {
                self.at += 1;
                let text = self.balanced('(', ')')?;
                if let Some(expression) = expression(&text) {
                    let expression = self.expression(expression)?;
                    word.push(Piece::Arithmetic { expression, quoted });
                    return Ok(());
                }
                let script = nested_script(&text, self.depth + 1)?;
                word.push(Piece::Command { script, quoted });
            }
            Some(c) if "?#@*$!-".contains(c) || c.is_ascii_digit() => {
                self.at += 1;
                word.push(Piece::Variable { name: c.to_string(), default: None, quoted });
            }
            Some(c) if is_name_char(c) => {
                let mut name = String::new();
                while let Some(c) = self.peek().filter(|c| is_name_char(*c)) {
                    name.push(c);
                    self.at += 1;
                }
                word.push(Piece::Variable { name, default: None, quoted });
            }
            _ => push(word, '$', true),
        }
        Ok(())
    }

    /// What is between the brackets of `$((…))`, where everything but variables and commands stays as it is.
    fn expression(&self, text: &str) -> Result<Word, String> {
        if self.depth >= MAX_DEPTH {
            return Err("syntax error: nested too deeply".to_owned());
        }
        let mut inner = Lexer { chars: text.chars().collect(), at: 0, depth: self.depth + 1 };
        let mut word = Word::new();
        while let Some(c) = inner.next() {
            match c {
                '$' => inner.dollar(&mut word, true)?,
                c => push(&mut word, c, true),
            }
        }
        Ok(word)
    }

    /// The text up to the bracket that closes, quotes and inner pairs skipped.
    fn balanced(&mut self, open: char, close: char) -> Result<String, String> {
        let (mut text, mut depth, mut quote) = (String::new(), 1, None);
        loop {
            let Some(c) = self.next() else { return Err(format!("{UNFINISHED} (looking for {close})")) };
            match quote {
                Some(q) if q == c => quote = None,
                None if c == '\'' || c == '"' => quote = Some(c),
                None if c == open => depth += 1,
                None if c == close => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(text);
                    }
                }
                _ => {}
            }
            text.push(c);
            if c == '\\' && quote != Some('\'') {
                text.extend(self.next());
            }
        }
    }

    fn braces(&self, text: &str, quoted: bool) -> Result<Piece, String> {
        let bad = || "bad substitution".to_owned();
        if let Some(name) = text.strip_prefix('#').filter(|n| !n.is_empty()) {
            return if is_name(name) { Ok(Piece::Length(name.to_owned())) } else { Err(bad()) };
        }
        let end = text.find(|c| !is_name_char(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end.max(usize::from(text.starts_with(['?', '#', '@', '*']))));
        if name.is_empty() {
            return Err(bad());
        }
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        let how = match rest.chars().next() {
            None => return Ok(Piece::Variable { name: name.to_owned(), default: None, quoted }),
            Some('-') => Default::Use,
            Some('=') => Default::Assign,
            Some('?') => Default::Fail,
            Some('+') => Default::Instead,
            Some(_) => return Err(bad()),
        };
        if self.depth >= MAX_DEPTH {
            return Err("syntax error: nested too deeply".to_owned());
        }
        let mut inner = Lexer { chars: rest[1..].chars().collect(), at: 0, depth: self.depth + 1 };
        let mut word = Word::new();
        // Blanks belong to the default.
        while let Some(c) = inner.peek() {
            if " \t\r\n;&|<>()".contains(c) {
                push(&mut word, c, quoted);
                inner.at += 1;
            } else {
                word.extend(inner.word()?);
            }
        }
        Ok(Piece::Variable { name: name.to_owned(), default: Some((how, word)), quoted })
    }
}

/// The expression in `(…)`; `None` for commands that begin and end with brackets of their own.
fn expression(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let mut depth = 0_usize;
    for c in inner.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    Some(inner)
}

fn push(word: &mut Word, c: char, quote: bool) {
    match word.last_mut() {
        Some(Piece::Text { text, quoted }) if *quoted == quote => text.push(c),
        _ => word.push(Piece::Text { text: c.to_string(), quoted: quote }),
    }
}

fn is_name_char(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// True for what a variable can be called.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_name_char) && !text.starts_with(|c: char| c.is_ascii_digit())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

/// Words that end a list where a command would begin.
const CLOSERS: [&str; 9] = ["then", "else", "elif", "fi", "do", "done", "esac", "}", "in"];

impl Parser {
    fn op(&self) -> Option<&'static str> {
        match self.tokens.get(self.at) {
            Some(Token::Op(op)) => Some(op),
            _ => None,
        }
    }

    fn keyword(&self) -> Option<String> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => plain(word),
            _ => None,
        }
    }

    fn take_op(&mut self, op: &str) -> bool {
        let found = self.op() == Some(op);
        self.at += usize::from(found);
        found
    }

    fn newlines(&mut self) {
        while self.take_op("\n") {}
    }

    fn fail<T>(&self) -> Result<T, String> {
        Err(self.tokens.get(self.at).map_or_else(|| UNFINISHED.to_owned(), unexpected))
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.keyword().as_deref() == Some(word) {
            self.at += 1;
            return Ok(());
        }
        self.fail()
    }

    /// Commands until one of the words (which stays), a closing parenthesis or the end.
    fn list(&mut self, ends: &[&str]) -> Result<Script, String> {
        let mut script = Script::new();
        loop {
            while self.take_op("\n") {}
            if self.at >= self.tokens.len() || matches!(self.op(), Some(")" | ";;")) {
                return Ok(script);
            }
            if self.keyword().is_some_and(|word| ends.contains(&word.as_str())) {
                return Ok(script);
            }
            script.push(self.and_or()?);
            match self.op() {
                Some(";" | "\n") => self.at += 1,
                Some("&") => return Err("jobs (&) are not supported here".to_owned()),
                Some(")" | ";;") | None if self.at >= self.tokens.len() || self.op().is_some() => {
                    return Ok(script);
                }
                _ => return self.fail(),
            }
        }
    }

    /// A list that must end with one of the words and must not be empty.
    fn block(&mut self, ends: &[&str]) -> Result<Script, String> {
        let script = self.list(ends)?;
        if script.is_empty() || !self.keyword().is_some_and(|word| ends.contains(&word.as_str())) {
            return self.fail();
        }
        Ok(script)
    }

    fn and_or(&mut self) -> Result<Node, String> {
        let mut node = self.pipeline()?;
        loop {
            let and = match self.op() {
                Some("&&") => true,
                Some("||") => false,
                _ => return Ok(node),
            };
            self.at += 1;
            self.newlines();
            let (left, right) = (Box::new(node), Box::new(self.pipeline()?));
            node = if and { Node::And(left, right) } else { Node::Or(left, right) };
        }
    }

    fn pipeline(&mut self) -> Result<Node, String> {
        if self.keyword().as_deref() == Some("!") {
            self.at += 1;
            return Ok(Node::Not(Box::new(self.deeper(Parser::pipeline)?)));
        }
        let mut parts = vec![self.deeper(Parser::command)?];
        while self.take_op("|") {
            self.newlines();
            parts.push(self.deeper(Parser::command)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Pipe(parts) })
    }

    fn deeper(&mut self, read: fn(&mut Parser) -> Result<Node, String>) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("syntax error: nested too deeply".to_owned());
        }
        let node = read(self);
        self.depth -= 1;
        node
    }

    fn command(&mut self) -> Result<Node, String> {
        let keyword = self.keyword();
        let compound = match keyword.as_deref() {
            Some("if") => self.conditional()?,
            Some(word @ ("while" | "until")) => {
                self.at += 1;
                let condition = self.block(&["do"])?;
                let body = self.loop_body()?;
                Node::While { condition, until: word == "until", body }
            }
            Some("for") => self.for_loop()?,
            Some("case") => self.case()?,
            Some("{") => {
                self.at += 1;
                let body = self.block(&["}"])?;
                self.at += 1;
                Node::Group { body, apart: false, redirects: Vec::new() }
            }
            Some(word) if CLOSERS.contains(&word) && word != "in" => return self.fail(),
            _ if self.take_op("(") => {
                let body = self.list(&[])?;
                if body.is_empty() || !self.take_op(")") {
                    return self.fail();
                }
                Node::Group { body, apart: true, redirects: Vec::new() }
            }
            _ => return self.simple(),
        };
        let mut redirects = Vec::new();
        while let Some(redirect) = self.redirect()? {
            redirects.push(redirect);
        }
        Ok(match compound {
            node if redirects.is_empty() => node,
            Node::Group { body, apart, .. } => Node::Group { body, apart, redirects },
            node => Node::Group { body: vec![node], apart: false, redirects },
        })
    }

    fn conditional(&mut self) -> Result<Node, String> {
        let (mut branches, mut otherwise) = (Vec::new(), Script::new());
        self.at += 1;
        loop {
            let condition = self.block(&["then"])?;
            self.at += 1;
            let body = self.block(&["elif", "else", "fi"])?;
            branches.push((condition, body));
            match self.keyword().as_deref() {
                Some("elif") => self.at += 1,
                Some("else") => {
                    self.at += 1;
                    otherwise = self.block(&["fi"])?;
                    break;
                }
                _ => break,
            }
        }
        self.expect("fi")?;
        Ok(Node::If { branches, otherwise })
    }

    fn for_loop(&mut self) -> Result<Node, String> {
        self.at += 1;
        let Some(name) = self.keyword().filter(|name| is_name(name)) else { return self.fail() };
        self.at += 1;
        self.newlines();
        let mut words = None;
        if self.keyword().as_deref() == Some("in") {
            self.at += 1;
            let mut list = Vec::new();
            while let Some(Token::Word(word)) = self.tokens.get(self.at) {
                list.push(word.clone());
                self.at += 1;
            }
            words = Some(list);
        }
        self.take_op(";");
        self.newlines();
        let body = self.loop_body()?;
        Ok(Node::For { name, words, body })
    }

    fn case(&mut self) -> Result<Node, String> {
        self.at += 1;
        let word = self.take_word()?;
        self.newlines();
        self.expect("in")?;
        let mut arms = Vec::new();
        loop {
            self.newlines();
            if self.keyword().as_deref() == Some("esac") {
                break;
            }
            self.take_op("(");
            let mut patterns = vec![self.take_word()?];
            while self.take_op("|") {
                patterns.push(self.take_word()?);
            }
            if !self.take_op(")") {
                return self.fail();
            }
            arms.push((patterns, self.list(&["esac"])?));
            if !self.take_op(";;") {
                break;
            }
        }
        self.expect("esac")?;
        Ok(Node::Case { word, arms })
    }

    fn take_word(&mut self) -> Result<Word, String> {
        let Some(Token::Word(word)) = self.tokens.get(self.at) else { return self.fail() };
        self.at += 1;
        Ok(word.clone())
    }

    fn loop_body(&mut self) -> Result<Script, String> {
        self.expect("do")?;
        let body = self.block(&["done"])?;
        self.expect("done")?;
        Ok(body)
    }

    fn redirect(&mut self) -> Result<Option<Redirect>, String> {
        let start = self.at;
        let stream = match self.tokens.get(self.at) {
            Some(Token::Stream(n)) => {
                self.at += 1;
                Some(*n)
            }
            _ => None,
        };
        let op = match self.op() {
            Some(op @ ("<" | ">" | ">>" | ">&")) => op,
            _ if stream.is_some() => return self.fail(),
            _ => {
                self.at = start;
                return Ok(None);
            }
        };
        self.at += 1;
        let word = self.take_word()?;
        let stream = stream.unwrap_or(u8::from(op != "<"));
        let to = match op {
            "<" => Target::Read(word),
            ">" => Target::Write(word),
            ">>" => Target::Append(word),
            _ => match plain(&word).and_then(|n| n.parse().ok()) {
                Some(n @ 1..=2) => Target::Same(n),
                _ => return Err("bad file descriptor".to_owned()),
            },
        };
        if stream > 2 || (op == "<") != (stream == 0) {
            return Err("bad file descriptor".to_owned());
        }
        Ok(Some(Redirect { stream, to }))
    }

    fn simple(&mut self) -> Result<Node, String> {
        let (mut assignments, mut words, mut redirects) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            if let Some(redirect) = self.redirect()? {
                redirects.push(redirect);
                continue;
            }
            let Some(Token::Word(word)) = self.tokens.get(self.at) else { break };
            match assignment(word).filter(|_| words.is_empty()) {
                Some(assignment) => assignments.push(assignment),
                None => words.push(word.clone()),
            }
            self.at += 1;
        }
        if assignments.is_empty() && words.is_empty() && redirects.is_empty() {
            return self.fail();
        }
        if self.op() == Some("(") {
            return Err("functions are not supported here".to_owned());
        }
        Ok(Node::Simple { assignments, words, redirects })
    }
}

/// `NAME=value`
fn assignment(word: &Word) -> Option<(String, Word)> {
    let Some(Piece::Text { text, quoted: false }) = word.first() else { return None };
    let (name, value) = text.split_once('=')?;
    if !is_name(name) {
        return None;
    }
    let mut rest = word[1..].to_vec();
    if !value.is_empty() {
        rest.insert(0, Piece::Text { text: value.to_owned(), quoted: false });
    }
    Some((name.to_owned(), rest))
}
