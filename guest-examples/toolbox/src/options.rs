//! Options of a command line, as `getopt` reads them.

use crate::call::Failure;

/// What [`parse`] found.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    found: Vec<(char, String)>,
    /// What is no option.
    pub operands: Vec<String>,
}

impl Options {
    /// True if the option was given.
    pub fn has(&self, option: char) -> bool {
        self.found.iter().any(|(o, _)| *o == option)
    }

    /// The value of an option; the last one counts.
    pub fn value(&self, option: char) -> Option<&str> {
        self.found.iter().rev().find(|(o, _)| *o == option).map(|(_, v)| v.as_str())
    }

    /// The values of an option that may be given many times.
    pub fn values(&self, option: char) -> impl Iterator<Item = &str> {
        self.found.iter().filter(move |(o, _)| *o == option).map(|(_, v)| v.as_str())
    }
}

/// Reads options and operands in any order; after `--` there are only operands.
///
/// `short` lists the letters, each followed by `:` if it takes a value; `long` gives words for letters.
///
/// # Errors
/// An option that is not listed, or a value that is missing.
pub fn parse(args: &[String], short: &str, long: &[(&str, char)]) -> Result<Options, Failure> {
    let takes_value =
        |option: char| short.find(option).is_some_and(|at| short[at..].chars().nth(1) == Some(':'));
    let unknown = |option: &str| Failure { code: 2, message: format!("unrecognized option: {option}") };
    let missing =
        |option: &str| Failure { code: 2, message: format!("option requires an argument: {option}") };
    let mut options = Options::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            options.operands.extend(rest.cloned());
            break;
        }
        if let Some(word) = arg.strip_prefix("--") {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word, None),
            };
            let (_, option) = *long.iter().find(|(n, _)| *n == name).ok_or_else(|| unknown(arg))?;
            let value = match (takes_value(option), value) {
                (true, None) => rest.next().cloned().ok_or_else(|| missing(arg))?,
                (_, value) => value.unwrap_or_default(),
            };
            options.found.push((option, value));
        } else if let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            let mut letters = letters.chars();
            while let Some(option) = letters.next() {
                if option == ':' || !short.contains(option) {
                    return Err(unknown(&format!("-{option}")));
                }
                if !takes_value(option) {
                    options.found.push((option, String::new()));
                    continue;
                }
                let inline: String = letters.by_ref().collect();
                let value = if inline.is_empty() {
                    rest.next().cloned().ok_or_else(|| missing(&format!("-{option}")))?
                } else {
                    inline
                };
                options.found.push((option, value));
            }
        } else {
            options.operands.push(arg.clone());
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Result<(&str, &str), &str>) {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let got = parse(&args, "abn:", &[("all", 'a'), ("number", 'n')]);
        let got = got.map(|o| {
            let found: Vec<String> = o.found.iter().map(|(o, v)| format!("{o}{v}")).collect();
            (found.join(" "), o.operands.join(" "))
        });
        let expected = expected.map(|(f, o)| (f.to_owned(), o.to_owned())).map_err(str::to_owned);
        assert_eq!(got.map_err(|f| f.message), expected, "{line}");
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        check("-ab x y", Ok(("a b", "x y")));
        check("x -a y -b", Ok(("a b", "x y")));
        check("-an5 -n 6", Ok(("a n5 n6", "")));
        check("--all --number=7 --number 8 - -- -a", Ok(("a n7 n8", "- -a")));
        check("-c", Err("unrecognized option: -c"));
        check("-:", Err("unrecognized option: -:"));
        check("--none", Err("unrecognized option: --none"));
        check("-n", Err("option requires an argument: -n"));
    }
}
