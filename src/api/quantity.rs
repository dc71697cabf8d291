//! Kubernetes quantities, compared by value: the apiserver rewrites `0.5` as `500m`.

/// A quantity in units of 10⁻⁹, so that every legal one is a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

const NANOS: i128 = 1_000_000_000;

impl Quantity {
    /// Parses `1`, `0.5`, `500m`, `64Mi`, `1e3`; `None` for anything else.
    /// Source of the grammar: `k8s.io/apimachinery/pkg/api/resource.Quantity`.
    pub fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let nanos = decimal_nanos(number)?;
        let (multiply, divide) = scale(suffix)?;
        Some(Self(nanos.checked_mul(multiply)? / divide))
    }

    /// True below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

fn decimal_nanos(number: &str) -> Option<i128> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 || whole.len() > 19 {
        return None;
    }
    let parse = |part: &str| if part.is_empty() { Some(0) } else { unsigned(part) };
    let scale = 10_i128.pow(9 - u32::try_from(fraction.len()).ok()?);
    let nanos = parse(whole)? * NANOS + parse(fraction)? * scale;
    Some(if negative { -nanos } else { nanos })
}

fn unsigned(digits: &str) -> Option<i128> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let decimal = |power: u32| Some((10_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANOS)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_in_different_spellings_are_equal() {
        for (a, b) in
            [("0.5", "500m"), ("1", "1000m"), ("1Gi", "1024Mi"), ("1e3", "1k"), ("1.5Gi", "1536Mi"), ("+2", "2.")]
        {
            assert_eq!(Quantity::parse(a), Quantity::parse(b), "{a} {b}");
            assert!(Quantity::parse(a).is_some(), "{a}");
        }
        assert!(Quantity::parse("100m") < Quantity::parse("1"));
        assert!(Quantity::parse("1Mi") > Quantity::parse("1M"));
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for text in ["", "x", "10foo", "1 Gi", "--1", "1..2", "Mi", "1KI", "1e99", "."] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}
