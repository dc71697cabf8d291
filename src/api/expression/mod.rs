//! Resource expressions: `cpu * 50%`, `max(memory / 4, 64Mi)`. Validation and injection use this one parser and this
//! one evaluator, so what is accepted can be evaluated, for any pod.
//!
//! | Written | Is |
//! |---|---|
//! | `cpu`, `memory` | an amount: what the application's containers have of the resource that is computed; upper case is read alike |
//! | `100m`, `64Mi`, `1Gi` | an amount, as Kubernetes writes quantities |
//! | `2`, `0.5`, `1e2` | a number: an amount in cores or bytes where one is added or compared, else a factor |
//! | `50%` | a factor, and so is every number computed with one |
//! | `a + b`, `a - b`, `-a` | of two amounts (or numbers), or of two factors; `cpu + 50%` is refused: it says neither `cpu * 150%` nor `cpu + 500m` |
//! | `a * b` | at most one of them an amount |
//! | `a / b` | `b` a number or factor that is not 0, so that no division can fail later |
//! | `max(a, …)`, `min(a, …)` | of amounts and numbers, or of factors |
//!
//! Arithmetic is exact; the result is rounded up to 1m of cpu or one byte of memory. Beyond 2⁶³ − 1, the largest
//! quantity of Kubernetes, it saturates.

mod parse;
mod ratio;
#[cfg(test)]
mod tests;

use std::fmt;

use ratio::Ratio;
use regex::{Regex, RegexBuilder};

use super::quantity::{Quantity, Resource};

/// The longest expression; about ten times what people write.
pub(crate) const MAX_LENGTH: usize = 256;

/// Compiled size of a pattern: thousands of sets may have one, and a container name has at most 63 characters.
const MAX_PATTERN_BYTES: usize = 1 << 18;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {position}: {message}")]
pub(crate) struct ExpressionError {
    /// Byte of the text that it is about, counted from 0.
    pub(crate) position: usize,
    /// What is wrong and what to write instead.
    pub(crate) message: String,
}

/// An expression that has been checked: evaluating it cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expression {
    resource: Resource,
    amount: Amount,
    /// What every value must be multiplied by to become a whole number of 10⁻⁹.
    denominator: i128,
}

/// The amounts of an expression. Numbers and factors are gone: the parser computes them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Amount {
    /// `cpu` or `memory`.
    Available,
    /// In units of 10⁻⁹.
    Fixed(Ratio),
    Sum(Box<Amount>, Box<Amount>),
    Scaled(Box<Amount>, Ratio),
    Largest(Vec<Amount>),
    Smallest(Vec<Amount>),
}

impl Expression {
    /// Parses and checks an expression for `resource`, whose name is the only variable.
    pub(crate) fn parse(text: &str, resource: Resource) -> Result<Self, ExpressionError> {
        let amount = parse::amount(text, resource)?;
        let error = |message: String| Err(ExpressionError { position: 0, message });
        let Some(denominator) = amount.denominator() else {
            return error("divides too finely: use fewer decimals, or divide by smaller numbers".to_owned());
        };
        let expression = Self { resource, amount, denominator };
        let name = resource.name();
        match expression.evaluate(None) {
            Some(result) if result.is_negative() => {
                error(format!("is always negative: write an amount such as 100m, or a share such as {name} * 50%"))
            }
            _ => Ok(expression),
        }
    }

    /// The amount, rounded up; negative if the expression is. `available` is what the variable stands for, `None` for
    /// unlimited. Whatever is computed from an unlimited amount is unlimited (`None`), but the `min` of it and a limited
    /// one, so `min(cpu * 50%, 1)` is 1.
    pub(crate) fn evaluate(&self, available: Option<Quantity>) -> Option<Quantity> {
        let scaled = self.amount.evaluate(available.map(Quantity::nanos), self.denominator)?;
        let whole = scaled.div_euclid(self.denominator) + i128::from(scaled.rem_euclid(self.denominator) != 0);
        Some(Quantity::from_nanos(whole).rounded_up(self.resource))
    }
}

/// What it computes, in one form: equal texts mean the same for every pod.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.amount.fmt(f)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut function = |name: &str, all: &[Self]| {
            let all: Vec<String> = all.iter().map(Self::to_string).collect();
            write!(f, "{name}({})", all.join(", "))
        };
        match self {
            Self::Available => f.write_str("available"),
            Self::Fixed(ratio) => write!(f, "{ratio}n"),
            Self::Sum(a, b) => write!(f, "({a} + {b})"),
            Self::Scaled(amount, factor) => write!(f, "{amount} * {factor}"),
            Self::Largest(all) => function("max", all),
            Self::Smallest(all) => function("min", all),
        }
    }
}

/// Times this, the largest quantity is still far from the largest `i128`.
const MAX_DENOMINATOR: i128 = 10_000_000_000;

impl Amount {
    /// The least number that makes every value whole; `None` if it is too large to compute with.
    fn denominator(&self) -> Option<i128> {
        let denominator = match self {
            Self::Available => 1,
            Self::Fixed(ratio) => ratio.denominator(),
            Self::Sum(a, b) => ratio::common(a.denominator()?, b.denominator()?)?,
            Self::Scaled(amount, factor) => amount.denominator()?.checked_mul(factor.denominator())?,
            Self::Largest(all) | Self::Smallest(all) => {
                all.iter().try_fold(1, |common, amount| ratio::common(common, amount.denominator()?))?
            }
        };
        (denominator <= MAX_DENOMINATOR).then_some(denominator)
    }

    /// The value times `multiplier`, which is a multiple of the denominator, at most the largest quantity times it.
    fn evaluate(&self, available: Option<i128>, multiplier: i128) -> Option<i128> {
        let value = match self {
            Self::Available => available?.saturating_mul(multiplier),
            Self::Fixed(ratio) => ratio.numerator().saturating_mul(multiplier / ratio.denominator()),
            Self::Sum(a, b) => a.evaluate(available, multiplier)?.saturating_add(b.evaluate(available, multiplier)?),
            Self::Scaled(amount, factor) => {
                let share = amount.evaluate(available, multiplier / factor.denominator())?;
                share.saturating_mul(factor.numerator())
            }
            Self::Largest(all) => {
                let values: Option<Vec<i128>> = all.iter().map(|a| a.evaluate(available, multiplier)).collect();
                values?.into_iter().max()?
            }
            Self::Smallest(all) => all.iter().filter_map(|a| a.evaluate(available, multiplier)).min()?,
        };
        let most = Quantity::MAX.nanos() * multiplier;
        Some(value.clamp(-most, most))
    }
}

/// Compiles a regular expression on container names. Like OpenKruise's it is not anchored: `app` also finds `my-app`.
pub(crate) fn name_pattern(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() {
        return Err("must not be empty: leave it out to mean every container of the application".to_owned());
    }
    let compiled = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "is too complex: name the containers with a simpler pattern".to_owned(),
        // The parser's error is a drawing of several lines; the last one says what is wrong.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("{pattern:?} is not a regular expression: {last}")
        }
    })
}
