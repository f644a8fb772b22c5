//! Randomness through one seam: a generator per thread that a simulation may seed.

use std::{cell::RefCell, time::Duration};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

thread_local! {
    static GENERATOR: RefCell<StdRng> = RefCell::new(rand::make_rng());
}

/// Makes everything random on this thread follow from `seed`. For simulations on a current-thread
/// runtime.
pub fn seed(seed: u64) {
    GENERATOR.with_borrow_mut(|generator| *generator = StdRng::seed_from_u64(seed));
}

/// A random number.
pub fn number() -> u64 {
    GENERATOR.with_borrow_mut(Rng::next_u64)
}

/// A random number below `limit`; 0 if `limit` is 0.
pub fn below(limit: u64) -> u64 {
    if limit == 0 { 0 } else { GENERATOR.with_borrow_mut(|generator| generator.random_range(0..limit)) }
}

/// `duration` and up to `fraction` of it more.
pub fn jitter(duration: Duration, fraction: f64) -> Duration {
    let most = duration.mul_f64(fraction.max(0.0)).as_nanos();
    duration + Duration::from_nanos(below(u64::try_from(most).unwrap_or(u64::MAX)))
}
