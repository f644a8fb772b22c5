//! Sets of completion indexes as text, e.g. `1,3-5,7`.

/// One interval, both ends included.
type Interval = (i64, i64);

/// How many indexes the text names. Intervals must ascend, and lie below `completions`.
///
/// # Errors
/// Kubernetes' words about what is wrong.
pub(super) fn count(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut last: Option<i64> = None;
    let mut total = 0;
    for interval in text.split(',') {
        let (low, high) = parse(interval, completions)?;
        if let Some(last) = last
            && last >= low
        {
            return Err(descending(last, low));
        }
        total += high - low + 1;
        last = Some(high);
    }
    Ok(total)
}

/// The first index that both texts name. Intervals that cannot be read are passed over.
pub(super) fn overlap(left: &str, right: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<Interval> {
        text.split(',').filter_map(|interval| parse(interval, completions).ok()).collect()
    };
    let (left, right) = (read(left), read(right));
    let (mut i, mut j) = (0, 0);
    while let (Some(&(a, b)), Some(&(x, y))) = (left.get(i), right.get(j)) {
        if a <= y && x <= b {
            return Some(a.max(x));
        }
        if a <= x {
            i += 1;
        } else {
            j += 1;
        }
    }
    None
}

fn parse(interval: &str, completions: i64) -> Result<Interval, String> {
    let mut parts = interval.split('-');
    let low = parts.next().unwrap_or_default();
    let high = parts.next();
    if parts.next().is_some() {
        return Err(format!(
            "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let low = index(low, completions)?;
    let Some(high) = high else { return Ok((low, low)) };
    let high = index(high, completions)?;
    if low >= high {
        return Err(descending(low, high));
    }
    Ok((low, high))
}

fn index(text: &str, completions: i64) -> Result<i64, String> {
    let index: i64 =
        text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
    if index >= completions {
        return Err(format!("too large index: {text:?}"));
    }
    Ok(index)
}

fn descending(previous: i64, current: i64) -> String {
    format!("non-increasing order, previous: {previous}, current: {current}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_counted() {
        #[track_caller]
        fn check(text: &str, want: Result<i64, &str>) {
            assert_eq!(count(text, 10), want.map_err(str::to_owned));
        }
        check("", Ok(0));
        check("0", Ok(1));
        check("1,3-5,7", Ok(5));
        check("3,1", Err("non-increasing order, previous: 3, current: 1"));
        check("5-3", Err("non-increasing order, previous: 5, current: 3"));
        check("10", Err("too large index: \"10\""));
        check("x", Err("cannot convert string to integer for index: \"x\""));
        check(
            "1-2-3",
            Err(
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts \
                 separated by '-'",
            ),
        );
    }

    #[test]
    fn overlaps_are_found() {
        assert_eq!(overlap("1,3-5", "4-6", 10), Some(4));
        assert_eq!(overlap("1,3-5", "0,2,6-9", 10), None);
        assert_eq!(overlap("x,3", "3", 10), Some(3));
        assert_eq!(overlap("", "3", 10), None);
    }
}
