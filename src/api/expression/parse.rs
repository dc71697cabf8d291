//! The grammar and the types of expressions: a recursive descent that computes numbers at once and keeps amounts.

use super::ratio::Ratio;
use super::{Amount, ExpressionError, MAX_LENGTH};
use crate::api::quantity::{NANOS, Quantity, Resource};

/// Parentheses, functions and signs inside each other.
const MAX_DEPTH: usize = 32;

const TOO_LARGE: &str = "the numbers are too large or too fine to compute with: use fewer digits";

type Parsed<T> = Result<T, ExpressionError>;

/// What a part of an expression is.
enum Term {
    /// True: a share, that is a percentage or what was computed with one, and so never an amount.
    Number(Ratio, bool),
    Amount(Amount),
}

pub(super) fn amount(text: &str, resource: Resource) -> Parsed<Amount> {
    let mut parser = Parser { text, position: 0, depth: 0, variable: resource.name() };
    if text.len() > MAX_LENGTH {
        let message = format!("is {} bytes long, {MAX_LENGTH} are allowed: write a shorter expression", text.len());
        return Err(error(MAX_LENGTH, message));
    }
    if text.trim().is_empty() {
        return Err(error(0, format!("is empty: write an expression such as {} * 50%", parser.variable)));
    }
    let term = parser.sum()?;
    if parser.peek().is_some() {
        return Err(parser.unexpected("one of + - * /"));
    }
    if matches!(term, Term::Number(_, true)) {
        return Err(error(0, format!("is a share, not an amount: write {} * 50%", parser.variable)));
    }
    term.into_amount(0, parser.variable)
}

fn error(position: usize, message: impl Into<String>) -> ExpressionError {
    ExpressionError { position, message: message.into() }
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
    variable: &'static str,
}

impl<'a> Parser<'a> {
    fn sum(&mut self) -> Parsed<Term> {
        let mut left = self.product()?;
        while let Some((at, operator)) = self.operator(['+', '-']) {
            let right = self.product()?;
            let right = if operator == '-' { right.negated(at)? } else { right };
            left = left.plus(right, at, self.variable)?;
        }
        Ok(left)
    }

    fn product(&mut self) -> Parsed<Term> {
        let mut left = self.signed()?;
        while let Some((at, operator)) = self.operator(['*', '/']) {
            let right = self.signed()?;
            left = if operator == '*' { left.times(right, at)? } else { left.divided_by(right, at, self.variable)? };
        }
        Ok(left)
    }

    fn signed(&mut self) -> Parsed<Term> {
        match self.operator(['-', '-']) {
            Some((at, _)) => self.nested(at, Self::signed)?.negated(at),
            None => self.value(),
        }
    }

    fn value(&mut self) -> Parsed<Term> {
        let at = self.skip_spaces();
        match self.peek() {
            Some('(') => {
                self.position += 1;
                let inner = self.nested(at, Self::sum)?;
                self.close(")")?;
                Ok(inner)
            }
            Some('0'..='9' | '.') => self.literal(),
            Some(c) if c.is_ascii_alphabetic() => self.name(),
            _ => Err(self
                .unexpected(&format!("a value: {}, a quantity such as 100m, or a share such as 50%", self.variable))),
        }
    }

    /// `2`, `1e3`, `64Mi`, `50%`.
    fn literal(&mut self) -> Parsed<Term> {
        let at = self.position;
        self.take(|c| c.is_ascii_digit() || c == '.');
        let unit_at = self.position;
        let unit = match exponent_length(&self.text[unit_at..]) {
            Some(length) => {
                self.position += length;
                ""
            }
            None => self.take(|c| c.is_ascii_alphanumeric()),
        };
        let text = &self.text[at..self.position];
        let Some(quantity) = Quantity::parse(text) else {
            return Err(if !unit.is_empty() && Quantity::parse(&format!("1{unit}")).is_none() {
                let message = format!("{unit:?} is no unit: write one of n u m k M G T P E Ki Mi Gi Ti Pi Ei");
                error(unit_at, message)
            } else {
                error(at, format!("{text:?} is no number: write digits, with at most 9 decimals, such as 1.5"))
            });
        };
        let nanos = quantity.nanos();
        if self.text[self.position..].starts_with('%') {
            if !unit.is_empty() {
                return Err(error(self.position, "a quantity with a unit has no percentage: write 50% or 50m"));
            }
            self.position += 1;
            return number(Ratio::new(nanos, NANOS * 100), true, at);
        }
        if unit.is_empty() {
            return number(Ratio::new(nanos, NANOS), false, at);
        }
        Ok(Term::Amount(Amount::Fixed(Ratio::whole(nanos))))
    }

    /// A variable or a function.
    fn name(&mut self) -> Parsed<Term> {
        let at = self.position;
        let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_').to_ascii_lowercase();
        match name.as_str() {
            "max" | "min" => self.function(at, name == "max"),
            name if name == self.variable => Ok(Term::Amount(Amount::Available)),
            _ => {
                let variable = self.variable;
                Err(error(at, format!("{name:?} is not known here: write {variable}, max(a, b) or min(a, b)")))
            }
        }
    }

    fn function(&mut self, at: usize, largest: bool) -> Parsed<Term> {
        self.skip_spaces();
        if self.peek() != Some('(') {
            return Err(self.unexpected("( after the name of a function"));
        }
        let mut terms = Vec::new();
        while terms.is_empty() || self.peek() == Some(',') {
            self.position += 1;
            terms.push(self.nested(at, Self::sum)?);
        }
        self.close(", or )")?;
        let numbers: Option<Vec<(Ratio, bool)>> = terms.iter().map(Term::as_number).collect();
        let Some(numbers) = numbers else {
            let amounts: Parsed<Vec<_>> = terms.into_iter().map(|term| term.into_amount(at, self.variable)).collect();
            return amounts.map(|all| Term::Amount(if largest { Amount::Largest(all) } else { Amount::Smallest(all) }));
        };
        let mut best = numbers[0];
        for &(value, is_share) in &numbers[1..] {
            let is_less = value.is_less_than(best.0).ok_or_else(|| error(at, TOO_LARGE))?;
            best = (if is_less == largest { best.0 } else { value }, best.1 || is_share);
        }
        Ok(Term::Number(best.0, best.1))
    }

    fn nested(&mut self, at: usize, parse: impl Fn(&mut Self) -> Parsed<Term>) -> Parsed<Term> {
        if self.depth == MAX_DEPTH {
            return Err(error(at, format!("is nested more than {MAX_DEPTH} times: write a simpler expression")));
        }
        self.depth += 1;
        let term = parse(self);
        self.depth -= 1;
        term
    }

    fn operator(&mut self, wanted: [char; 2]) -> Option<(usize, char)> {
        let at = self.skip_spaces();
        let found = self.peek().filter(|c| wanted.contains(c))?;
        self.position += 1;
        Some((at, found))
    }

    fn close(&mut self, expected: &str) -> Parsed<()> {
        if self.peek() != Some(')') {
            return Err(self.unexpected(expected));
        }
        self.position += 1;
        self.skip_spaces();
        Ok(())
    }

    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.position..];
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.position += end;
        &rest[..end]
    }

    fn skip_spaces(&mut self) -> usize {
        self.take(|c| c.is_ascii_whitespace());
        self.position
    }

    fn unexpected(&self, expected: &str) -> ExpressionError {
        let message = match self.peek() {
            None => format!("ends where it needs {expected}"),
            Some('×') => "× is not read: write *".to_owned(),
            Some('÷') => "÷ is not read: write /".to_owned(),
            Some(found) => format!("{found:?} is not expected here: write {expected}"),
        };
        error(self.position, message)
    }
}

/// Length of `e3`, `E-3`; an `E` without digits is the unit.
fn exponent_length(rest: &str) -> Option<usize> {
    let digits = rest.strip_prefix(['e', 'E'])?;
    let digits = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let after = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    (after.len() < digits.len()).then(|| rest.len() - after.len())
}

impl Term {
    fn as_number(&self) -> Option<(Ratio, bool)> {
        match self {
            Self::Number(value, is_share) => Some((*value, *is_share)),
            Self::Amount(_) => None,
        }
    }

    fn into_amount(self, at: usize, variable: &str) -> Parsed<Amount> {
        match self {
            Self::Amount(amount) => Ok(amount),
            Self::Number(value, false) => {
                value.times(Ratio::whole(NANOS)).map(Amount::Fixed).ok_or_else(|| error(at, TOO_LARGE))
            }
            Self::Number(_, true) => {
                let message =
                    format!("a percentage stands beside an amount: to take a share multiply, as in {variable} * 150%");
                Err(error(at, message))
            }
        }
    }

    fn negated(self, at: usize) -> Parsed<Self> {
        self.times(Self::Number(Ratio::whole(-1), false), at)
    }

    fn plus(self, other: Self, at: usize, variable: &str) -> Parsed<Self> {
        match (self, other) {
            (Self::Number(a, left), Self::Number(b, right)) => number(a.plus(b), left || right, at),
            (a, b) => {
                let (a, b) = (a.into_amount(at, variable)?, b.into_amount(at, variable)?);
                Ok(Self::Amount(Amount::Sum(Box::new(a), Box::new(b))))
            }
        }
    }

    fn times(self, other: Self, at: usize) -> Parsed<Self> {
        match (self, other) {
            (Self::Amount(_), Self::Amount(_)) => {
                let message = "an amount cannot be multiplied by an amount: write a number without a unit, such as 0.5";
                Err(error(at, message))
            }
            (Self::Amount(amount), Self::Number(value, _)) | (Self::Number(value, _), Self::Amount(amount)) => {
                Ok(Self::Amount(Amount::Scaled(Box::new(amount), value)))
            }
            (Self::Number(a, left), Self::Number(b, right)) => number(a.times(b), left || right, at),
        }
    }

    fn divided_by(self, divisor: Self, at: usize, variable: &str) -> Parsed<Self> {
        match divisor {
            Self::Amount(_) => {
                Err(error(at, format!("only a number can divide: write {variable} / 2, without a unit")))
            }
            Self::Number(value, _) if value.numerator() == 0 => Err(error(at, "divides by 0: write another number")),
            Self::Number(value, is_share) => self.times(number(value.inverse(), is_share, at)?, at),
        }
    }
}

fn number(value: Option<Ratio>, is_share: bool, at: usize) -> Parsed<Term> {
    value.map(|value| Term::Number(value, is_share)).ok_or_else(|| error(at, TOO_LARGE))
}
