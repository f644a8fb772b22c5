//! The grammar of label selectors.
//!
//! ```text
//! selector    = [requirement {"," requirement}]
//! requirement = "!" key | key | key ("=" | "==" | "!=" | ">" | "<") [value]
//!             | key ("in" | "notin") "(" [value {"," [value]}] ")"
//! ```
//! Keys and values are runs of anything but white space and `=!(),><`; what they may be is checked
//! afterwards. `in` and `notin` are operators only where an operator can stand.

use super::{Operator, Requirement, SelectorError};
use crate::{field, names};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    End,
    Word(&'a str),
    Symbol(&'a str),
}

impl<'a> Token<'a> {
    fn literal(self) -> &'a str {
        match self {
            Token::End => "",
            Token::Word(text) | Token::Symbol(text) => text,
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { rest: text };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Symbol("!") => {
                let requirement = parser
                    .requirement()
                    .map_err(|error| SelectorError(format!("unable to parse requirement: {}", error.0)))?;
                requirements.push(requirement);
                match parser.next() {
                    Token::End => return Ok(requirements),
                    Token::Symbol(",") => match parser.peek() {
                        Token::Word(_) | Token::Symbol("!") => {}
                        other => return expected(other, ", expected: identifier after ','"),
                    },
                    other => return expected(other, ", expected: ',' or 'end of string'"),
                }
            }
            Token::End => return Ok(requirements),
            other => return expected(other, ", expected: !, identifier, or 'end of string'"),
        }
    }
}

fn expected<T>(found: Token<'_>, what: &str) -> Result<T, SelectorError> {
    Err(SelectorError(format!("found '{}'{what}", found.literal())))
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        Parser { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'a> {
        let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        // A zero byte ends the text, as in Kubernetes' lexer.
        if rest.is_empty() || rest.starts_with('\0') {
            self.rest = "";
            return Token::End;
        }
        let length = rest.find(|c| is_symbol(c) || matches!(c, ' ' | '\t' | '\r' | '\n' | '\0'));
        let length = length.unwrap_or(rest.len());
        if length > 0 {
            self.rest = &rest[length..];
            return Token::Word(&rest[..length]);
        }
        let length = if rest.starts_with("==") || rest.starts_with("!=") { 2 } else { 1 };
        self.rest = &rest[length..];
        Token::Symbol(&rest[..length])
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next();
        let negated = token == Token::Symbol("!");
        if negated {
            token = self.next();
        }
        let Token::Word(key) = token else {
            return expected(token, ", expected: identifier");
        };
        let wrong = names::qualified_name(key);
        if !wrong.is_empty() {
            // Kubernetes has no path here, and says so.
            let cause = field::invalid(&field::Path::new("<nil>"), key, &wrong.join("; "));
            return Err(SelectorError(format!("{}: {}", cause.field, cause.message)));
        }
        let key = key.to_owned();
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let token = self.next();
        let operator = match token {
            Token::Symbol("=" | "==") | Token::Word("in") => Operator::In,
            Token::Symbol("!=") | Token::Word("notin") => Operator::NotIn,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            _ => return expected(token, ", expected: in, notin, =, ==, !=, gt, lt"),
        };
        let mut values = if matches!(token, Token::Word(_)) { self.values()? } else { vec![self.value()?] };
        values.sort_unstable();
        values.dedup();
        Requirement::new(key, operator, values)
    }

    /// The one value after `=` and its like; may be empty.
    fn value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Word(value) => Ok(value.to_owned()),
            other => expected(other, ", expected: identifier"),
        }
    }

    /// `(a,b,)`: empty values count.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return expected(other, " expected: '('"),
        }
        let mut values = Vec::new();
        match self.peek() {
            Token::Symbol(")") => {
                self.next();
                return Ok(vec![String::new()]);
            }
            Token::Word(_) | Token::Symbol(",") => {}
            other => return expected(other, ", expected: ',', ')' or identifier"),
        }
        loop {
            match self.next() {
                Token::Word(value) => {
                    values.push(value.to_owned());
                    match self.peek() {
                        Token::Symbol(",") => {}
                        Token::Symbol(")") => break,
                        other => return expected(other, ", expected: ',' or ')'"),
                    }
                }
                Token::Symbol(",") => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek() {
                        Token::Symbol(")") => {
                            values.push(String::new());
                            break;
                        }
                        Token::Symbol(",") => {
                            self.next();
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                other => return expected(other, ", expected: ',', or identifier"),
            }
        }
        self.next();
        Ok(values)
    }
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}
