//! Numbers that may be a percentage of another.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How a percentage becomes a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The number, or the percentage of `total`; `None` if it is neither.
pub(crate) fn scaled(value: &IntOrString, total: i32, round: Round) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let parts = percent.checked_mul(i64::from(total))?;
            let whole = parts.div_euclid(100);
            let more = i64::from(round == Round::Up && parts.rem_euclid(100) != 0);
            i32::try_from(whole.checked_add(more)?).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, total: i32, up: Option<i32>, down: Option<i32>) {
        let value = value.parse().map_or_else(|_| IntOrString::String(value.to_owned()), IntOrString::Int);
        assert_eq!((scaled(&value, total, Round::Up), scaled(&value, total, Round::Down)), (up, down));
    }

    #[test]
    fn numbers_and_percentages() {
        check("3", 10, Some(3), Some(3));
        check("25%", 10, Some(3), Some(2));
        check("50%", 10, Some(5), Some(5));
        check("0%", 10, Some(0), Some(0));
        check("100%", 7, Some(7), Some(7));
        check("25", 0, Some(25), Some(25));
        check("x%", 10, None, None);
        check("ten", 10, None, None);
        check("99999999999999999%", 2_000_000_000, None, None);
    }
}
