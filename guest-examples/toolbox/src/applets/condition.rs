//! `test` and `[`.

use std::fs;

use crate::call::{Call, Failure, Outcome};

/// How deep parentheses and negations may be nested.
const MAX_DEPTH: usize = 64;

pub fn bracket(call: &mut Call) -> Outcome {
    match call.operands().split_last() {
        Some((last, words)) if last == "]" => evaluate(call, words),
        _ => Err(Failure { code: 2, message: "missing ]".to_owned() }),
    }
}

pub fn test(call: &mut Call) -> Outcome {
    evaluate(call, call.operands())
}

fn evaluate(call: &Call, words: &[String]) -> Outcome {
    let mut expression = Expression { call, words, at: 0, depth: 0 };
    let truth = if words.is_empty() { false } else { expression.or()? };
    match words.get(expression.at) {
        Some(word) => Err(Failure { code: 2, message: format!("{word}: unexpected operator") }),
        None => Ok(u8::from(!truth)),
    }
}

struct Expression<'a> {
    call: &'a Call<'a>,
    words: &'a [String],
    at: usize,
    depth: usize,
}

impl<'a> Expression<'a> {
    fn peek(&self, ahead: usize) -> Option<&'a str> {
        self.words.get(self.at + ahead).map(String::as_str)
    }

    fn next(&mut self) -> Result<&'a str, Failure> {
        let word = self.peek(0).ok_or(Failure { code: 2, message: "argument expected".to_owned() })?;
        self.at += 1;
        Ok(word)
    }

    fn or(&mut self) -> Result<bool, Failure> {
        let mut truth = self.and()?;
        while self.peek(0) == Some("-o") {
            self.at += 1;
            truth |= self.and()?;
        }
        Ok(truth)
    }

    fn and(&mut self) -> Result<bool, Failure> {
        let mut truth = self.primary()?;
        while self.peek(0) == Some("-a") {
            self.at += 1;
            truth &= self.primary()?;
        }
        Ok(truth)
    }

    fn primary(&mut self) -> Result<bool, Failure> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Failure { code: 2, message: "expression nested too deeply".to_owned() });
        }
        let truth = self.nested();
        self.depth -= 1;
        truth
    }

    fn nested(&mut self) -> Result<bool, Failure> {
        // Two operands with an operator between them come first: `test ! = !` compares.
        if let Some(operator) = self.peek(1)
            && self.peek(2).is_some()
            && let Some(compare) = binary(operator)
        {
            let left = self.next()?;
            self.at += 1;
            let right = self.next()?;
            return compare(left, right)
                .map_err(|bad| Failure { code: 2, message: format!("{bad}: bad number") });
        }
        let word = self.next()?;
        if word == "!" && self.peek(0).is_some() {
            return Ok(!self.primary()?);
        }
        if word == "(" && self.peek(0).is_some() {
            let truth = self.or()?;
            return match self.next()? {
                ")" => Ok(truth),
                other => Err(Failure { code: 2, message: format!("{other}: closing paren expected") }),
            };
        }
        match word.strip_prefix('-').and_then(|letter| letter.parse::<char>().ok()) {
            Some(letter) if "defhLrswxzn".contains(letter) && self.peek(0).is_some() => {
                let operand = self.next()?;
                Ok(self.unary(letter, operand))
            }
            _ => Ok(!word.is_empty()),
        }
    }

    fn unary(&self, letter: char, operand: &str) -> bool {
        let path = self.call.path(operand);
        let is =
            |f: fn(&fs::Metadata) -> bool| !operand.is_empty() && fs::metadata(&path).is_ok_and(|m| f(&m));
        match letter {
            'z' => operand.is_empty(),
            'n' => !operand.is_empty(),
            'd' => is(fs::Metadata::is_dir),
            'f' => is(fs::Metadata::is_file),
            's' => is(|m| m.len() > 0),
            'h' | 'L' => fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()),
            'x' => is(fs::Metadata::is_dir),
            // There are no permission bits: what is there can be read, and opening says whether it can be written.
            'w' => is(fs::Metadata::is_dir) || fs::OpenOptions::new().append(true).open(&path).is_ok(),
            _ => is(|_| true),
        }
    }
}

type Compare = fn(&str, &str) -> Result<bool, String>;

fn binary(operator: &str) -> Option<Compare> {
    Some(match operator {
        "=" | "==" => |a, b| Ok(a == b),
        "!=" => |a, b| Ok(a != b),
        "-eq" => |a, b| Ok(number(a)? == number(b)?),
        "-ne" => |a, b| Ok(number(a)? != number(b)?),
        "-lt" => |a, b| Ok(number(a)? < number(b)?),
        "-le" => |a, b| Ok(number(a)? <= number(b)?),
        "-gt" => |a, b| Ok(number(a)? > number(b)?),
        "-ge" => |a, b| Ok(number(a)? >= number(b)?),
        _ => return None,
    })
}

fn number(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| text.to_owned())
}
