//! Kubernetes quantities, compared by value: the apiserver rewrites `0.5` as `500m`.

use serde_json::Value;

/// A resource that can be computed with, and that a pod-level budget can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    /// Counted in cores, in steps of 1m.
    Cpu,
    /// Counted in bytes.
    Memory,
}

impl Resource {
    pub(crate) const ALL: [Self; 2] = [Self::Cpu, Self::Memory];

    /// As it is called in `limits` and `requests`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// The smallest amount that Kubernetes tells apart, in units of 10⁻⁹.
    fn step(self) -> i128 {
        match self {
            Self::Cpu => 1_000_000,
            Self::Memory => NANOS,
        }
    }
}

/// A quantity in units of 10⁻⁹, so that every legal one is a whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Quantity(i128);

pub(super) const NANOS: i128 = 1_000_000_000;

/// Suffixes of whole numbers, largest first: the canonical form has the largest that leaves no fraction.
const BINARY: [(&str, i128); 6] =
    [("Ei", 1 << 60), ("Pi", 1 << 50), ("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
const DECIMAL: [(&str, i128); 10] = [
    ("E", NANOS * NANOS * NANOS),
    ("P", NANOS * NANOS * 1_000_000),
    ("T", NANOS * NANOS * 1_000),
    ("G", NANOS * NANOS),
    ("M", NANOS * 1_000_000),
    ("k", NANOS * 1_000),
    ("", NANOS),
    ("m", 1_000_000),
    ("u", 1_000),
    ("n", 1),
];

impl Quantity {
    pub(crate) const ZERO: Self = Self(0);

    /// The largest amount that Kubernetes knows, 2⁶³ − 1. Larger ones, and sums, end here.
    pub(crate) const MAX: Self = Self(i64::MAX as i128 * NANOS);

    /// Parses `1`, `0.5`, `500m`, `64Mi`, `1e3`; `None` for anything else.
    /// Source of the grammar: `k8s.io/apimachinery/pkg/api/resource.Quantity`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let nanos = decimal_nanos(number)?;
        let (multiply, divide) = scale(suffix)?;
        let scaled = nanos.saturating_mul(multiply);
        // What is smaller than 10⁻⁹ is rounded away from zero: who asks for something gets something.
        Some(Self::from_nanos((scaled + scaled.signum() * (divide - 1)) / divide))
    }

    /// As JSON has it: text, or a number.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => None,
        }
    }

    /// From units of 10⁻⁹, at most [`Self::MAX`] away from zero.
    pub(super) fn from_nanos(nanos: i128) -> Self {
        Self(nanos.clamp(-Self::MAX.0, Self::MAX.0))
    }

    /// In units of 10⁻⁹.
    pub(super) fn nanos(self) -> i128 {
        self.0
    }

    /// True below zero.
    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// True above zero: Kubernetes reads a request or limit of zero as none.
    pub(crate) fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// The sum, at most [`Self::MAX`].
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self::from_nanos(self.0.saturating_add(other.0))
    }

    /// The difference.
    #[must_use]
    pub(crate) fn minus(self, other: Self) -> Self {
        Self::from_nanos(self.0.saturating_sub(other.0))
    }

    /// Each of so many equal parts; all of it for no parts.
    #[must_use]
    pub(crate) fn split(self, parts: usize) -> Self {
        Self(self.0 / i128::try_from(parts).unwrap_or(1).max(1))
    }

    /// Whether it is more than `other` as many times as `ratio` says.
    pub(crate) fn exceeds(self, other: Self, ratio: Self) -> bool {
        // Milli units of both factors: no amount of Kubernetes overflows.
        self.0 > (other.0 / 1_000).saturating_mul(ratio.0 / 1_000) / (NANOS / 1_000_000)
    }

    /// Rounded up to what Kubernetes tells apart: 1m of cpu, one byte of memory.
    #[must_use]
    pub(crate) fn rounded_up(self, resource: Resource) -> Self {
        let step = resource.step();
        let whole = self.0.div_euclid(step) + i128::from(self.0.rem_euclid(step) != 0);
        Self::from_nanos(whole * step)
    }

    /// As the apiserver writes it back: `1500m`, `1536Mi`, `1k`. Memory has binary units where it has whole ones.
    pub(crate) fn canonical(self, resource: Resource) -> String {
        let whole = |unit: i128| self.0 % unit == 0 && self.0 != 0;
        if resource == Resource::Memory
            && let Some((suffix, unit)) = BINARY.into_iter().find(|(_, unit)| whole(unit * NANOS))
        {
            return format!("{}{suffix}", self.0 / (unit * NANOS));
        }
        match DECIMAL.into_iter().find(|(_, unit)| whole(*unit)) {
            Some((suffix, unit)) => format!("{}{suffix}", self.0 / unit),
            None => "0".to_owned(),
        }
    }
}

fn decimal_nanos(number: &str) -> Option<i128> {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !are_digits || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if fraction.len() > 9 || whole.len() > 28 {
        return None;
    }
    // Nine decimals of one core or byte are whole units of 10⁻⁹.
    format!("{whole}{fraction:0<9}").parse().ok().map(|nanos: i128| sign * nanos)
}

/// What a number with this suffix is to be multiplied and divided by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let find = |units: &[(&str, i128)]| units.iter().find(|(known, _)| *known == suffix).map(|(_, unit)| *unit);
    if let Some(unit) = find(&BINARY) {
        return Some((unit, 1));
    }
    if let Some(unit) = find(&DECIMAL) {
        return Some(if unit < NANOS { (1, NANOS / unit) } else { (unit / NANOS, 1) });
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_in_different_spellings_are_equal() {
        for (a, b) in [
            ("0.5", "500m"),
            ("1", "1000m"),
            ("1Gi", "1024Mi"),
            ("1e3", "1k"),
            ("1.5Gi", "1536Mi"),
            ("+2", "2."),
            ("01.50000000000", "1.5"),
            ("0.0", ".0"),
        ] {
            assert_eq!(Quantity::parse(a), Quantity::parse(b), "{a} {b}");
            assert!(Quantity::parse(a).is_some(), "{a}");
        }
        assert!(Quantity::parse("100m") < Quantity::parse("1"));
        assert!(Quantity::parse("1Mi") > Quantity::parse("1M"));
    }

    #[test]
    fn what_is_too_small_to_tell_is_not_nothing() {
        assert_eq!(Quantity::parse("0.1n"), Quantity::parse("1n"));
        assert_eq!(Quantity::parse("-0.1n"), Quantity::parse("-1n"));
    }

    /// Seen on a 1.36 apiserver: it keeps these as they are.
    #[test]
    fn the_canonical_form_is_that_of_the_apiserver() {
        let canonical = |text: &str, resource| Quantity::parse(text).unwrap().canonical(resource);
        for (text, cpu, memory) in [
            ("0", "0", "0"),
            ("1.5", "1500m", "1500m"),
            ("1000m", "1", "1"),
            ("1000", "1k", "1k"),
            ("1001", "1001", "1001"),
            ("1000k", "1M", "1M"),
            ("2048", "2048", "2Ki"),
            ("1.5Gi", "1610612736", "1536Mi"),
            ("1024000", "1024k", "1000Ki"),
            ("9223372036854775807", "9223372036854775807", "9223372036854775807"),
            ("7Ei", "8070450532247928832", "7Ei"),
            ("-1500m", "-1500m", "-1500m"),
            ("1n", "1n", "1n"),
        ] {
            assert_eq!(canonical(text, Resource::Cpu), cpu, "{text}");
            assert_eq!(canonical(text, Resource::Memory), memory, "{text}");
        }
    }

    #[test]
    fn amounts_are_rounded_up_to_what_kubernetes_tells_apart() {
        let rounded =
            |text: &str, resource: Resource| Quantity::parse(text).unwrap().rounded_up(resource).canonical(resource);
        for (text, cpu, memory) in
            [("1n", "1m", "1"), ("1.0001", "1001m", "2"), ("-1.5", "-1500m", "-1"), ("3", "3", "3")]
        {
            assert_eq!(rounded(text, Resource::Cpu), cpu, "{text}");
            assert_eq!(rounded(text, Resource::Memory), memory, "{text}");
        }
    }

    #[test]
    fn a_sum_ends_at_the_largest_amount() {
        let huge = Quantity::parse("10E").unwrap();
        assert_eq!(huge.plus(huge), Quantity::MAX);
        assert_eq!(
            Quantity::parse("1").unwrap().plus(Quantity::parse("500m").unwrap()),
            Quantity::parse("1.5").unwrap()
        );
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for text in ["", "x", "10foo", "1 Gi", "--1", "1..2", "Mi", "1KI", "1e99", "."] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}
