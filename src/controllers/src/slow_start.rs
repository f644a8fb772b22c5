//! Many calls of one kind: one first, then two, four and so on, so that what fails for one is not tried
//! for all.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;

/// Calls under way at the same time. They share commits of the store, so that a thousand pods take about
/// thirty commits.
pub(crate) const IN_FLIGHT: usize = 32;

/// Makes `call` for each of `0..count` and tells `each` every answer. After a failure the calls under way
/// are awaited, but no further ones are begun. Returns true if nothing failed.
pub(crate) async fn slow_start<T, E, F>(
    count: usize,
    call: impl Fn(usize) -> F,
    mut each: impl FnMut(usize, Result<T, E>),
) -> bool
where
    F: Future<Output = Result<T, E>>,
{
    let call = &call;
    let failed = AtomicBool::new(false);
    let mut begun = 0;
    let mut width = 1;
    while begun < count && !failed.load(Ordering::Relaxed) {
        let left = count - begun;
        // At full width there is no use in waiting for a batch to end.
        let batch = if width < IN_FLIGHT { width.min(left) } else { left };
        let mut answers = futures::stream::iter(begun..begun + batch)
            .take_while(|_| futures::future::ready(!failed.load(Ordering::Relaxed)))
            .map(|index| async move { (index, call(index).await) })
            .buffer_unordered(width);
        while let Some((index, answer)) = answers.next().await {
            if answer.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            each(index, answer);
        }
        begun += batch;
        width = (width * 2).min(IN_FLIGHT);
    }
    !failed.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How many calls are made for `count` if those from `bad` on fail.
    #[track_caller]
    fn check(count: usize, bad: usize, made: usize) {
        let calls = Cell::new(0);
        let call = |index| {
            calls.set(calls.get() + 1);
            futures::future::ready(if index < bad { Ok(()) } else { Err(()) })
        };
        let mut answers = 0;
        let whole = futures::executor::block_on(slow_start(count, call, |_, _| answers += 1));
        assert_eq!((calls.get(), answers, whole), (made, made, count <= bad));
    }

    #[test]
    fn a_failure_ends_it() {
        check(0, 0, 0);
        check(1, 1, 1);
        check(1000, 1000, 1000);
        check(1000, 0, 1);
        check(1000, 1, 3);
        check(5, 3, 5);
    }
}
