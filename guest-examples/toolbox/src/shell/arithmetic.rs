//! `$((…))`: whole numbers, variables by their names, and the operators that do not assign.

/// How deep an expression may be nested.
const MAX_DEPTH: usize = 40;

/// Binary operators, the ones that bind loosest first.
const LEVELS: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

/// All operators, so that none comes before a longer one that begins like it.
const OPERATORS: [&str; 22] = [
    "||", "&&", "==", "!=", "<=", ">=", "<<", ">>", "|", "^", "&", "<", ">", "+", "-", "*", "/", "%", "!",
    "~", "(", ")",
];

/// The value of an expression. Nothing at all is 0.
///
/// # Errors
/// What is wrong, in a shell's words.
pub fn evaluate(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<i64, String> {
    let tokens = tokens(text, lookup)?;
    if tokens.is_empty() {
        return Ok(0);
    }
    let mut reader = Reader { tokens: &tokens, depth: 0 };
    let value = reader.binary(0)?;
    if reader.tokens.is_empty() { Ok(value) } else { Err(wrong("syntax error")) }
}

fn wrong(what: &str) -> String {
    format!("arithmetic expression: {what}")
}

#[derive(Clone, Copy)]
enum Token {
    Number(i64),
    Op(&'static str),
}

fn tokens(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<Token>, String> {
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let length = if first == '_' || first.is_ascii_alphanumeric() {
            let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let word = &rest[..end];
            let value = match first.is_ascii_digit() {
                true => number(word),
                false => lookup(word).map_or(Some(0), |value| match value.trim() {
                    "" => Some(0),
                    value => value.strip_prefix('-').map_or_else(|| number(value), |v| number(v).map(|n| -n)),
                }),
            };
            tokens.push(Token::Number(value.ok_or_else(|| wrong(&format!("bad number: \"{word}\"")))?));
            end
        } else {
            let op =
                OPERATORS.iter().find(|op| rest.starts_with(**op)).ok_or_else(|| wrong("syntax error"))?;
            tokens.push(Token::Op(op));
            op.len()
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// Decimal, `0x` or octal.
fn number(word: &str) -> Option<i64> {
    match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None if word.len() > 1 && word.starts_with('0') => i64::from_str_radix(word, 8).ok(),
        None if word.starts_with(|c: char| c.is_ascii_digit()) => word.parse().ok(),
        None => None,
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    /// What the operators of a level and those that bind tighter make.
    fn binary(&mut self, level: usize) -> Result<i64, String> {
        let Some(ops) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(Token::Op(op)) =
            self.tokens.first().copied().filter(|t| matches!(t, Token::Op(op) if ops.contains(op)))
        {
            self.next();
            let right = self.binary(level + 1)?;
            left = apply(op, left, right)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<i64, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(wrong("nested too deeply"));
        }
        let value = match self.next() {
            Some(Token::Number(value)) => value,
            Some(Token::Op("-")) => self.unary()?.wrapping_neg(),
            Some(Token::Op("+")) => self.unary()?,
            Some(Token::Op("!")) => i64::from(self.unary()? == 0),
            Some(Token::Op("~")) => !self.unary()?,
            Some(Token::Op("(")) => {
                let value = self.binary(0)?;
                match self.next() {
                    Some(Token::Op(")")) => value,
                    _ => return Err(wrong("syntax error")),
                }
            }
            _ => return Err(wrong("syntax error")),
        };
        self.depth -= 1;
        Ok(value)
    }
}

fn apply(op: &str, left: i64, right: i64) -> Result<i64, String> {
    let truth = |value: bool| Ok(i64::from(value));
    match op {
        "||" => truth(left != 0 || right != 0),
        "&&" => truth(left != 0 && right != 0),
        "==" => truth(left == right),
        "!=" => truth(left != right),
        "<=" => truth(left <= right),
        ">=" => truth(left >= right),
        "<" => truth(left < right),
        ">" => truth(left > right),
        "|" => Ok(left | right),
        "^" => Ok(left ^ right),
        "&" => Ok(left & right),
        "<<" => Ok(left.wrapping_shl(right as u32)),
        ">>" => Ok(left.wrapping_shr(right as u32)),
        "+" => Ok(left.wrapping_add(right)),
        "-" => Ok(left.wrapping_sub(right)),
        "*" => Ok(left.wrapping_mul(right)),
        _ if right == 0 => Err(wrong("division by zero")),
        "/" => Ok(left.wrapping_div(right)),
        _ => Ok(left.wrapping_rem(right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        #[track_caller]
        fn check(text: &str, expected: Result<i64, &str>) {
            let lookup = |name: &str| match name {
                "N" => Some(" -7 ".to_owned()),
                "WORD" => Some("word".to_owned()),
                _ => None,
            };
            let expected = expected.map_err(|what| format!("arithmetic expression: {what}"));
            assert_eq!(evaluate(text, lookup), expected, "{text}");
        }
        check("", Ok(0));
        check("1 + 2 * 3 - 4", Ok(3));
        check("(1 + 2) * -3", Ok(-9));
        check("10 - 3 - 2", Ok(5));
        check("7 / 2 * 2 + 7 % 4", Ok(9));
        check("0x1f + 010 + NONE", Ok(39));
        check("N * N", Ok(49));
        check("1 << 4 | 3 ^ 1 & ~0", Ok(18));
        check("2 > 1 && 1 >= 1 && 1 != 2 || 0", Ok(1));
        check("!0 == 1 && !5 == 0", Ok(1));
        check("9223372036854775807 + 1", Ok(i64::MIN));
        check("-9223372036854775807 - 1", Ok(i64::MIN));
        check("(-9223372036854775807 - 1) / -1", Ok(i64::MIN));
        check("1 / 0", Err("division by zero"));
        check("1 +", Err("syntax error"));
        check("(1", Err("syntax error"));
        check("1 1", Err("syntax error"));
        check("i = 1", Err("syntax error"));
        check("WORD", Err("bad number: \"WORD\""));
        check("12ab", Err("bad number: \"12ab\""));
        check(&"(".repeat(10_000), Err("nested too deeply"));
        check(&"-".repeat(10_000), Err("nested too deeply"));
    }
}
