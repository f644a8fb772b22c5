//! Amounts of resources: `100m`, `1.5Gi`, `12e6`.
use std::fmt;

/// An amount, exact to a billionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    nanos: i128,
}

/// A text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

impl Quantity {
    /// Parses a quantity.
    pub fn parse(_text: &str) -> Result<Quantity, QuantityError> {
        Ok(Quantity::default())
    }
    /// In thousandths, rounded up.
    pub fn milli(&self) -> i64 {
        0
    }
    /// In units, rounded up.
    pub fn value(&self) -> i64 {
        0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.nanos.fmt(out)
    }
}
