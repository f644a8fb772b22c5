//! From the words of a command to its arguments.

use std::{fs, path::Path};

use super::{
    arithmetic,
    parse::{Default, Piece, Word},
    run::{Shell, Streams},
};
use crate::glob;

/// What a word becomes in the end at most, so that no loop of doublings fills the memory.
const MAX_TEXT: usize = super::MAX_PIPE;

/// One argument in the making: its text, and the same with everything quoted escaped, for patterns.
#[derive(Default)]
struct Field {
    text: String,
    pattern: String,
    /// There was something, if only a pair of quotes.
    real: bool,
}

impl Field {
    fn push(&mut self, text: &str, quoted: bool) {
        self.real = true;
        self.text.push_str(text);
        for c in text.chars() {
            if quoted && "*?[\\".contains(c) {
                self.pattern.push('\\');
            }
            self.pattern.push(c);
        }
    }
}

impl Shell {
    /// The arguments of a command.
    pub fn expand(&mut self, words: &[Word], streams: &Streams) -> Result<Vec<String>, String> {
        let mut args = Vec::new();
        for word in words {
            for field in self.fields(word, streams)? {
                let quoted_only = !glob::is_pattern(
                    &field.pattern.replace("\\*", "").replace("\\?", "").replace("\\[", ""),
                );
                let mut found = if quoted_only { Vec::new() } else { self.paths(&field.pattern) };
                if found.is_empty() {
                    found.push(field.text);
                }
                args.extend(found);
            }
        }
        Ok(args)
    }

    /// The text of a word that stays one: what is assigned, where is redirected to.
    pub fn expand_one(&mut self, word: &Word, streams: &Streams) -> Result<String, String> {
        let mut text = String::new();
        for piece in word {
            text.push_str(&self.piece(piece, streams)?.0);
            if text.len() > MAX_TEXT {
                return Err("word too long".to_owned());
            }
        }
        Ok(text)
    }

    /// The text of a word as a pattern, where what is quoted stands for itself.
    pub fn pattern(&mut self, word: &Word, streams: &Streams) -> Result<String, String> {
        let mut field = Field::default();
        for piece in word {
            let (text, quoted, _) = self.piece(piece, streams)?;
            field.push(&text, quoted);
            if field.text.len() > MAX_TEXT {
                return Err("word too long".to_owned());
            }
        }
        Ok(field.pattern)
    }

    fn fields(&mut self, word: &Word, streams: &Streams) -> Result<Vec<Field>, String> {
        let (mut fields, mut field) = (Vec::new(), Field::default());
        for piece in word {
            // "$@" is as many arguments as there are.
            if let Piece::Variable { name, default: None, .. } = piece
                && name == "@"
            {
                for (i, parameter) in self.parameters.iter().skip(1).enumerate() {
                    if i > 0 {
                        fields.push(std::mem::take(&mut field));
                    }
                    field.push(parameter, true);
                }
                continue;
            }
            let (text, quoted, splits) = self.piece(piece, streams)?;
            if !splits {
                field.push(&text, quoted);
            } else {
                let starts = text.starts_with(|c: char| c.is_ascii_whitespace());
                for (i, part) in text.split_ascii_whitespace().enumerate() {
                    if (i > 0 || starts) && field.real {
                        fields.push(std::mem::take(&mut field));
                    }
                    field.push(part, false);
                }
                if text.ends_with(|c: char| c.is_ascii_whitespace()) && field.real {
                    fields.push(std::mem::take(&mut field));
                }
            }
            if field.text.len() > MAX_TEXT {
                return Err("word too long".to_owned());
            }
        }
        if field.real {
            fields.push(field);
        }
        Ok(fields)
    }

    /// Text, whether it is quoted, whether it is to be split.
    fn piece(&mut self, piece: &Piece, streams: &Streams) -> Result<(String, bool, bool), String> {
        Ok(match piece {
            Piece::Text { text, quoted } => (text.clone(), *quoted, false),
            Piece::Length(name) => {
                (self.variable(name).unwrap_or_default().chars().count().to_string(), true, false)
            }
            Piece::Command { script, quoted } => (self.capture(script, streams)?, *quoted, !quoted),
            Piece::Arithmetic { expression, quoted } => {
                let text = self.expand_one(expression, streams)?;
                let value = arithmetic::evaluate(&text, |name| self.variable(name))?;
                (value.to_string(), *quoted, !quoted)
            }
            Piece::Variable { name, default, quoted } => {
                let value = self.variable(name).filter(|value| default.is_none() || !value.is_empty());
                let text = match (value, default) {
                    (Some(_), Some((Default::Instead, word))) => self.expand_one(word, streams)?,
                    (None, Some((Default::Use, word))) => self.expand_one(word, streams)?,
                    (None, Some((Default::Assign, word))) => {
                        let text = self.expand_one(word, streams)?;
                        self.env.vars.insert(name.clone(), text.clone());
                        text
                    }
                    (None, Some((Default::Fail, word))) => {
                        let text = self.expand_one(word, streams)?;
                        let text = if text.is_empty() { "parameter not set".to_owned() } else { text };
                        return Err(format!("{name}: {text}"));
                    }
                    (value, _) => match default {
                        Some((Default::Instead, _)) => String::new(),
                        _ => value.unwrap_or_default(),
                    },
                };
                (text, *quoted, !quoted)
            }
        })
    }

    fn variable(&self, name: &str) -> Option<String> {
        if let Ok(number) = name.parse::<usize>() {
            return self.parameters.get(number).cloned();
        }
        match name {
            "?" => Some(self.last.to_string()),
            "#" => Some(self.parameters.len().saturating_sub(1).to_string()),
            "*" | "@" => Some(self.parameters.get(1..).unwrap_or_default().join(" ")),
            "$" => Some("1".to_owned()),
            "PWD" => Some(self.env.cwd.display().to_string()),
            name => self.env.get(name).map(str::to_owned),
        }
    }

    /// The paths that a pattern matches, in order.
    fn paths(&self, pattern: &str) -> Vec<String> {
        let absolute = pattern.starts_with('/');
        let mut found = vec![if absolute { "/".to_owned() } else { String::new() }];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for base in &found {
                let folder = self.env.cwd.join(Path::new(base));
                let join = |name: &str| match base.as_str() {
                    "" => name.to_owned(),
                    base => format!("{}/{name}", base.trim_end_matches('/')),
                };
                if !glob::is_pattern(part) {
                    let name = part.replace('\\', "");
                    if fs::symlink_metadata(folder.join(&name)).is_ok() {
                        next.push(join(&name));
                    }
                    continue;
                }
                let Ok(entries) = fs::read_dir(&folder) else { continue };
                let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
                let fits = |name: &String| {
                    name.starts_with('.') == part.starts_with('.') && glob::matches(part, name)
                };
                let mut names: Vec<String> = names.filter(fits).collect();
                names.sort();
                next.extend(names.iter().map(|name| join(name)));
            }
            found = next;
        }
        found
    }
}
