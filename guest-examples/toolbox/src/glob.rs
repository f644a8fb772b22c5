//! Patterns: `*`, `?` and `[a-z]` of file names, and the simple regular expressions of `grep`.

/// True if the file name pattern covers the whole text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Where to go on when the last `*` takes one character more.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            Some('[') => match Set::parse(&pattern, p + 1) {
                Some((set, end)) if set.contains(text[t]) => {
                    (p, t) = (end, t + 1);
                    continue;
                }
                // A bracket that nothing closes is a bracket.
                None if text[t] == '[' => {
                    (p, t) = (p + 1, t + 1);
                    continue;
                }
                _ => {}
            },
            Some('\\') if pattern.get(p + 1) == Some(&text[t]) => {
                (p, t) = (p + 2, t + 1);
                continue;
            }
            Some(c) if *c == text[t] => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        let Some((star_p, star_t)) = star else { return false };
        star = Some((star_p, star_t + 1));
        (p, t) = (star_p + 1, star_t + 1);
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// True if the text would be taken as a pattern.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// `[a-z]`, `[!a-z]`, `[^a-z]`.
#[derive(Debug, Clone, PartialEq)]
struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    /// Reads from behind the bracket; gives the set and the place behind its end.
    fn parse(pattern: &[char], mut at: usize) -> Option<(Set, usize)> {
        let negated = matches!(pattern.get(at), Some('!' | '^'));
        at += usize::from(negated);
        let mut ranges = Vec::new();
        loop {
            let from = *pattern.get(at)?;
            if from == ']' && !ranges.is_empty() {
                return Some((Set { negated, ranges }, at + 1));
            }
            match (pattern.get(at + 1), pattern.get(at + 2)) {
                (Some('-'), Some(to)) if *to != ']' => {
                    ranges.push((from, *to));
                    at += 3;
                }
                _ => {
                    ranges.push((from, from));
                    at += 1;
                }
            }
        }
    }

    fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != self.negated
    }
}

/// What `grep` looks for: alternatives of sequences of characters, `.`, `[…]`, each with `*`, `+` or `?`, and
/// the anchors `^` and `$`. There are no groups.
#[derive(Debug)]
pub struct Regex {
    alternatives: Vec<Sequence>,
    ignore_case: bool,
}

#[derive(Debug, Default)]
struct Sequence {
    from_start: bool,
    to_end: bool,
    items: Vec<(Item, Repeat)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Item {
    Any,
    One(char),
    Of(Set),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Repeat {
    least: usize,
    many: bool,
}

const ONCE: Repeat = Repeat { least: 1, many: false };

impl Regex {
    /// Reads a pattern; `fixed` takes every character as it is.
    pub fn new(pattern: &str, fixed: bool, ignore_case: bool) -> Regex {
        let folded = if ignore_case { pattern.to_lowercase() } else { pattern.to_owned() };
        let alternatives = if fixed {
            let items = folded.chars().map(|c| (Item::One(c), ONCE)).collect();
            vec![Sequence { items, ..Sequence::default() }]
        } else {
            folded.replace("\\|", "|").split('|').map(Sequence::parse).collect()
        };
        Regex { alternatives, ignore_case }
    }

    /// The first match in the line, as a range of characters' bytes.
    pub fn find(&self, line: &str) -> Option<(usize, usize)> {
        let folded = if self.ignore_case { line.to_lowercase() } else { line.to_owned() };
        let places: Vec<(usize, char)> = folded.char_indices().collect();
        let text: Vec<char> = places.iter().map(|(_, c)| *c).collect();
        let byte = |at: usize| places.get(at).map_or(folded.len(), |(byte, _)| *byte);
        (0..=text.len()).find_map(|start| {
            let ends = self.alternatives.iter().filter_map(|a| a.matches_at(&text, start));
            ends.max().map(|end| (byte(start), byte(end)))
        })
    }
}

impl Sequence {
    fn parse(pattern: &str) -> Sequence {
        let chars: Vec<char> = pattern.chars().collect();
        let mut sequence = Sequence::default();
        let mut at = 0;
        if chars.first() == Some(&'^') {
            sequence.from_start = true;
            at = 1;
        }
        while let Some(c) = chars.get(at).copied() {
            at += 1;
            let item = match c {
                '$' if at == chars.len() => {
                    sequence.to_end = true;
                    break;
                }
                '.' => Item::Any,
                '[' => match Set::parse(&chars, at) {
                    Some((set, end)) => {
                        at = end;
                        Item::Of(set)
                    }
                    None => Item::One('['),
                },
                '\\' if at < chars.len() => {
                    at += 1;
                    Item::One(chars[at - 1])
                }
                c => Item::One(c),
            };
            let repeat = match chars.get(at) {
                Some('*') => Repeat { least: 0, many: true },
                Some('+') => Repeat { least: 1, many: true },
                Some('?') => Repeat { least: 0, many: false },
                _ => ONCE,
            };
            at += usize::from(repeat != ONCE);
            sequence.items.push((item, repeat));
        }
        sequence
    }

    /// Where the longest match that starts here ends. All places are followed at once, so that no pattern
    /// takes more than its length times the line's.
    fn matches_at(&self, text: &[char], start: usize) -> Option<usize> {
        if self.from_start && start != 0 {
            return None;
        }
        let mut places = vec![false; text.len() + 1];
        places[start] = true;
        for (item, repeat) in &self.items {
            let mut next = vec![false; text.len() + 1];
            for at in 0..=text.len() {
                if places[at] && repeat.least == 0 {
                    next[at] = true;
                }
                let reached = places[at] || (repeat.many && next[at]);
                if reached && text.get(at).is_some_and(|c| item.covers(*c)) {
                    next[at + 1] = true;
                }
            }
            places = next;
        }
        let last = if self.to_end { text.len() } else { 0 };
        (last..=text.len()).rev().find(|at| places[*at])
    }
}

impl Item {
    fn covers(&self, c: char) -> bool {
        match self {
            Item::Any => true,
            Item::One(one) => *one == c,
            Item::Of(set) => set.contains(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt2", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("*a*b*", "xxaxxbxx", true),
            ("", "", true),
            ("*", "", true),
            ("[", "[", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(!matches("*a*a*a*a*a*a*a*a*b", &"a".repeat(2000)), "no explosion");
    }

    #[track_caller]
    fn check(pattern: &str, line: &str, expected: Option<&str>) {
        let found = Regex::new(pattern, false, false).find(line);
        assert_eq!(found.map(|(from, to)| &line[from..to]), expected, "{pattern} in {line}");
    }

    #[test]
    fn lines_match_as_grep_says() {
        check("b+", "abbbc", Some("bbb"));
        check("^b", "abc", None);
        check("c$", "abc", Some("c"));
        check("a.c", "xabcx", Some("abc"));
        check("ab*c", "ac", Some("ac"));
        check("colou?r", "color", Some("color"));
        check("[0-9]+ms", "took 25ms", Some("25ms"));
        check("err|warn", "a warning", Some("warn"));
        check("a\\.b", "axb", None);
        check("", "anything", Some(""));
        check("^$", "", Some(""));
        assert!(Regex::new("a.b", true, false).find("axb").is_none());
        assert!(Regex::new("HELLO", false, true).find("well, hello").is_some());
        check("a*a*a*a*a*a*a*a*a*b", &"a".repeat(2000), None);
    }
}
