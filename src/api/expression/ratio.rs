//! Exact fractions, for the numbers of an expression. Every operation says when its result is too large.

use std::fmt;

/// A reduced fraction; the denominator is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ratio {
    numerator: i128,
    denominator: i128,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

impl Ratio {
    /// `None` if the denominator is 0, or the result too large.
    pub(super) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        let divisor = greatest_divisor(numerator, denominator)?.checked_mul(denominator.signum())?;
        Some(Self { numerator: numerator.checked_div(divisor)?, denominator: denominator.checked_div(divisor)? })
    }

    pub(super) fn whole(numerator: i128) -> Self {
        Self { numerator, denominator: 1 }
    }

    pub(super) fn numerator(self) -> i128 {
        self.numerator
    }

    pub(super) fn denominator(self) -> i128 {
        self.denominator
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let (left, right, denominator) = self.aligned(other)?;
        Self::new(left.checked_add(right)?, denominator)
    }

    pub(super) fn times(self, other: Self) -> Option<Self> {
        let numerator = self.numerator.checked_mul(other.numerator)?;
        Self::new(numerator, self.denominator.checked_mul(other.denominator)?)
    }

    pub(super) fn inverse(self) -> Option<Self> {
        Self::new(self.denominator, self.numerator)
    }

    pub(super) fn is_less_than(self, other: Self) -> Option<bool> {
        let (left, right, _) = self.aligned(other)?;
        Some(left < right)
    }

    /// Both numerators over a common denominator.
    fn aligned(self, other: Self) -> Option<(i128, i128, i128)> {
        let denominator = common(self.denominator, other.denominator)?;
        let over = |ratio: Self| ratio.numerator.checked_mul(denominator / ratio.denominator);
        Some((over(self)?, over(other)?, denominator))
    }
}

/// The least common multiple of two positive numbers.
pub(super) fn common(a: i128, b: i128) -> Option<i128> {
    (a / greatest_divisor(a, b)?).checked_mul(b)
}

fn greatest_divisor(a: i128, b: i128) -> Option<i128> {
    let (mut a, mut b) = (a.checked_abs()?, b.checked_abs()?);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Some(a)
}
