//! Amounts of resources: `100m`, `1.5Gi`, `12e6`.
//!
//! An amount is a whole number of billionths in 128 bits, which is exact for everything that
//! Kubernetes keeps exact; finer amounts are rounded away from zero, as there.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

const NANO: i128 = 1_000_000_000;
/// Largest amount with a binary suffix, in billionths: 2^63 - 1 units. Kubernetes caps there too.
const BINARY_MAX: i128 = (i64::MAX as i128) * NANO;
/// Largest amount at all: beyond it Kubernetes computes on, at any length, which no resource needs.
const DECIMAL_MAX: i128 = 10_i128.pow(36);
/// Longest text that is looked at: no amount worth parsing is longer.
const MAX_TEXT: usize = 128;

const DECIMAL_SUFFIXES: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY_SUFFIXES: &[(&str, u32)] =
    &[("", 0), ("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// How a quantity is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// With powers of a thousand: `12M`.
    #[default]
    DecimalSi,
    /// With powers of 1024: `12Mi`. Fractions, and amounts below 1024, are written as decimal.
    BinarySi,
    /// With an exponent: `12e6`.
    DecimalExponent,
}

/// An amount and the way it is written. Equality and order are those of the amount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text that is no quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text has not the shape of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Parses a quantity. Amounts beyond the largest are capped; no digits at all are nothing, as in
    /// Kubernetes.
    ///
    /// # Errors
    /// The text is no quantity.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(QuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(rest);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        if !suffix_shape(suffix) {
            return Err(QuantityError::Format);
        }
        let (scale, format) = read_suffix(suffix).ok_or(QuantityError::Suffix)?;
        let limit = if format == Format::BinarySi { BINARY_MAX } else { DECIMAL_MAX };
        let nanos = match scale {
            Scale::Two(shift) => {
                // A fraction of a binary unit: exact while 60 bits of unit and the digits fit.
                let digits = decimal(whole, fraction, 9);
                digits.scaled(1_i128 << shift, limit)
            }
            Scale::Ten(exponent) => decimal(whole, fraction, 9_i32.saturating_add(exponent)).scaled(1, limit),
        };
        let format =
            if format == Format::BinarySi && nanos > 0 && nanos < NANO { Format::DecimalSi } else { format };
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// That many units.
    pub const fn units(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * NANO, format }
    }

    /// That many thousandths.
    pub const fn milli_units(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * (NANO / 1000), format }
    }

    /// In thousandths, rounded away from zero; capped at the largest `i64`.
    pub fn milli(&self) -> i64 {
        saturate(divide_away(self.nanos, NANO / 1000))
    }

    /// In units, rounded away from zero; capped at the largest `i64`.
    pub fn value(&self) -> i64 {
        saturate(divide_away(self.nanos, NANO))
    }

    /// In units, nearly.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// True if it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// True if it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

/// The sum, written as the first that is not zero.
impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-DECIMAL_MAX, DECIMAL_MAX), format }
    }
}

/// The difference, written as the first that is not zero.
impl std::ops::Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + Quantity { nanos: -other.nanos, ..other }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(text)
    }
}

/// The canonical form: no fraction, and the largest suffix that needs none.
impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.nanos;
        if nanos == 0 {
            return out.write_str("0");
        }
        if self.format == Format::BinarySi && nanos.abs() >= 1024 * NANO && nanos % NANO == 0 {
            let mut amount = nanos / NANO;
            let mut suffix = 0;
            while amount % 1024 == 0 && suffix + 1 < BINARY_SUFFIXES.len() {
                amount /= 1024;
                suffix += 1;
            }
            return write!(out, "{amount}{}", BINARY_SUFFIXES[suffix].0);
        }
        let mut amount = nanos;
        let mut suffix = 0;
        while amount % 1000 == 0 && suffix + 1 < DECIMAL_SUFFIXES.len() {
            amount /= 1000;
            suffix += 1;
        }
        let (suffix, exponent) = DECIMAL_SUFFIXES[suffix];
        if self.format == Format::DecimalExponent && exponent != 0 {
            return write!(out, "{amount}e{exponent}");
        }
        let suffix = if self.format == Format::DecimalExponent { "" } else { suffix };
        write!(out, "{amount}{suffix}")
    }
}

enum Scale {
    Ten(i32),
    Two(u32),
}

fn read_suffix(suffix: &str) -> Option<(Scale, Format)> {
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some((Scale::Ten(*exponent), Format::DecimalSi));
    }
    if let Some((_, shift)) = BINARY_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some((Scale::Two(*shift), Format::BinarySi));
    }
    let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let exponent = i32::try_from(exponent).unwrap_or(if exponent < 0 { i32::MIN } else { i32::MAX });
    Some((Scale::Ten(exponent), Format::DecimalExponent))
}

/// Letters of known suffixes, then perhaps a sign and digits.
fn suffix_shape(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|byte| byte.is_ascii_digit())
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

/// A decimal number of at most 38 digits, and whether digits were cut off.
struct Decimal {
    value: i128,
    cut: bool,
    huge: bool,
}

/// `whole.fraction * 10^exponent` as a whole number.
fn decimal(whole: &str, fraction: &str, exponent: i32) -> Decimal {
    let mut result = Decimal { value: 0, cut: false, huge: false };
    let digits = whole.len() as i64 + i64::from(exponent);
    let mut position = 0_i64;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let digit = i128::from(digit - b'0');
        if position >= digits {
            result.cut |= digit != 0;
        } else {
            result.push(digit);
        }
        position += 1;
    }
    while position < digits && result.value != 0 && !result.huge {
        result.push(0);
        position += 1;
    }
    result
}

impl Decimal {
    fn push(&mut self, digit: i128) {
        match self.value.checked_mul(10).and_then(|value| value.checked_add(digit)) {
            Some(value) => self.value = value,
            None => self.huge = true,
        }
    }

    /// Times `factor`, rounded up, at most `limit`.
    fn scaled(&self, factor: i128, limit: i128) -> i128 {
        if self.huge {
            return limit;
        }
        let value = self.value.saturating_mul(factor);
        value.saturating_add(i128::from(self.cut)).min(limit)
    }
}

fn divide_away(value: i128, by: i128) -> i128 {
    let rest = value % by;
    value / by + if rest == 0 { 0 } else { rest.signum() }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        assert_eq!(
            Quantity::parse(text).map(|quantity| quantity.to_string()),
            Ok(canonical.to_owned()),
            "{text}"
        );
    }

    #[test]
    fn canonical_forms() {
        for same in
            ["0", "1", "100m", "1500m", "250M", "1Ki", "100Mi", "1536Mi", "3Gi", "12e6", "999", "7u", "9n"]
        {
            check(same, same);
        }
        check("1000m", "1");
        check("0.5", "500m");
        check(".5", "500m");
        check("5.", "5");
        check("1.5", "1500m");
        check("-1.5", "-1500m");
        check("+2", "2");
        check("007", "7");
        check("2000", "2k");
        check("1000000", "1M");
        check("1073741824", "1073741824");
        check("1024Mi", "1Gi");
        check("1000Ki", "1000Ki");
        check("1.5Gi", "1536Mi");
        check("0.5Ki", "512");
        check("0.1Ki", "102400m");
        check("0.5Mi", "512Ki");
        check("1.5005Ki", "1536512m");
        check("1e3", "1e3");
        check("1E3", "1e3");
        check("1500e-3", "1500e-3");
        check("1e2", "100");
        check("12345e-2", "123450e-3");
        check("0.1n", "1n");
        check("-0.1n", "-1n");
        check("1.0000000001", "1000000001n");
        check("1E", "1E");
        check("0Gi", "0");
        check("Gi", "0");
        check(".", "0");
        check("-", "0");
        check("8Ei", "9223372036854775807");
        check("99999Ei", "9223372036854775807");
        check("0e99999999999", "0");
        check("1e-99999999999", "1e-9");
        check(&"9".repeat(100), "1000000000E");
    }

    #[test]
    fn what_is_refused() {
        #[track_caller]
        fn check(text: &str, want: QuantityError) {
            assert_eq!(Quantity::parse(text), Err(want), "{text:?}");
        }
        for bad in ["", "x", "1 ", " 1", "1.2.3", "1Kib", "1e5x", "1ä", "ä", "true", &"1".repeat(1000)] {
            check(bad, QuantityError::Format);
        }
        check("1KB", QuantityError::Format);
        for bad in ["1K", "1mi", "1ee5", "1e", "1k5", "--1"] {
            check(bad, QuantityError::Suffix);
        }
    }

    #[test]
    fn amounts() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert_eq!((parse("100m").milli(), parse("100m").value()), (100, 1));
        assert_eq!((parse("-100m").milli(), parse("-100m").value()), (-100, -1));
        assert_eq!(parse("1Gi").value(), 1 << 30);
        assert_eq!(parse("1u").milli(), 1);
        assert_eq!(parse("1000E").milli(), i64::MAX);
        assert_eq!(parse("1"), parse("1000m"));
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!((parse("1Gi") + parse("1Gi")).to_string(), "2Gi");
        assert_eq!((Quantity::ZERO + parse("1Ki")).to_string(), "1Ki");
        assert_eq!((parse("1") - parse("1500m")).to_string(), "-500m");
        assert_eq!(Quantity::units(1 << 20, Format::BinarySi).to_string(), "1Mi");
        assert_eq!(Quantity::milli_units(250, Format::DecimalSi).to_string(), "250m");
    }

    proptest! {
        #[test]
        fn canonical_form_is_the_same_amount(text in "[+-]?[0-9]{0,12}(\\.[0-9]{0,12})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-?[0-9]{1,2})?") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let canonical = quantity.to_string();
                let again = Quantity::parse(&canonical).unwrap();
                prop_assert_eq!(again, quantity);
                prop_assert_eq!(again.to_string(), canonical);
            }
        }

        #[test]
        fn agrees_with_whole_numbers(value in any::<i32>()) {
            let quantity = Quantity::parse(&value.to_string()).unwrap();
            prop_assert_eq!(quantity.value(), i64::from(value));
            prop_assert_eq!(quantity.milli(), i64::from(value) * 1000);
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,20}", other in "[-+0-9.eEinumkKMGTP]{0,20}") {
            let _ = (Quantity::parse(&text), Quantity::parse(&other));
        }
    }
}
