//! Numbers as people and models write them: read exactly, compared exactly.
//!
//! Signs, thousands separators, decimals, scientific notation, fractions, mixed numbers, currency and percent are read.
//! Integers and fractions are equal when their values are; a number written as a decimal on either side makes the
//! comparison one of ±0.001, computed in rationals where they fit.

use std::fmt;

/// A decimal counts as the same number up to this distance (the paper's tolerance), in thousandths.
const TOLERANCE_THOUSANDTHS: i128 = 1;
/// Longest run of digits held as a rational: `i128` has 38 whole digits.
const MOST_DIGITS: usize = 36;
/// Largest exponent read as an exact integer.
const MOST_EXPONENT: i64 = 4000;

/// A number with what its spelling says about how exact it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Numeric {
    value: Value,
    /// Written with a decimal point or an exponent: compared within the tolerance.
    decimal: bool,
    /// Written with a percent sign.
    percent: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// Reduced, the denominator positive.
    Ratio(i128, i128),
    /// An integer beyond `i128`: digits without leading zeros.
    Big { negative: bool, digits: String },
    /// What is neither.
    Float(f64),
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    // The greatest common divisor of a positive i128 with anything fits.
    a.min(i128::MAX as u128) as i128
}

impl Value {
    /// `None` for a zero denominator or where the sign cannot be moved.
    fn ratio(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 || numerator == i128::MIN || denominator == i128::MIN {
            return None;
        }
        let shared = gcd(numerator, denominator).max(1) * denominator.signum();
        Some(Self::Ratio(numerator / shared, denominator / shared))
    }

    fn float(&self) -> f64 {
        match self {
            Self::Ratio(n, d) => *n as f64 / *d as f64,
            Self::Big { negative, digits } => {
                let size: f64 = digits.parse().unwrap_or(f64::INFINITY);
                if *negative { -size } else { size }
            }
            Self::Float(value) => *value,
        }
    }

    fn negated(self) -> Self {
        match self {
            Self::Ratio(n, d) => Self::Ratio(-n, d),
            Self::Big { negative, digits } => Self::Big {
                negative: !negative,
                digits,
            },
            Self::Float(value) => Self::Float(-value),
        }
    }

    fn divided(&self, by: &Self) -> Option<Self> {
        if by.float() == 0.0 {
            return None;
        }
        let exact = match (self, by) {
            (Self::Ratio(a, b), Self::Ratio(c, d)) => a
                .checked_mul(*d)
                .zip(b.checked_mul(*c))
                .and_then(|(n, d)| Self::ratio(n, d)),
            _ => None,
        };
        exact.or_else(|| Some(Self::Float(self.float() / by.float())))
    }

    fn plus(&self, other: &Self) -> Option<Self> {
        let (Self::Ratio(a, b), Self::Ratio(c, d)) = (self, other) else {
            return None;
        };
        let numerator = a.checked_mul(*d)?.checked_add(c.checked_mul(*b)?)?;
        Self::ratio(numerator, b.checked_mul(*d)?)
    }

    fn within_tolerance(&self, other: &Self) -> bool {
        if let (Self::Ratio(a, b), Self::Ratio(c, d)) = (self, other) {
            let exact = || {
                let gap = a
                    .checked_mul(*d)?
                    .checked_sub(c.checked_mul(*b)?)?
                    .checked_abs()?;
                Some(
                    gap.checked_mul(1000)?
                        <= b.checked_mul(*d)?.checked_mul(TOLERANCE_THOUSANDTHS)?,
                )
            };
            if let Some(near) = exact() {
                return near;
            }
        }
        self == other
            || (self.float() - other.float()).abs() <= TOLERANCE_THOUSANDTHS as f64 / 1000.0
    }
}

impl Numeric {
    /// An integer.
    pub fn integer(value: i128) -> Self {
        Self::exact(Value::Ratio(value, 1))
    }

    /// A fraction, reduced; `None` for a zero denominator.
    pub fn fraction(numerator: i128, denominator: i128) -> Option<Self> {
        Some(Self::exact(Value::ratio(numerator, denominator)?))
    }

    fn exact(value: Value) -> Self {
        Self {
            value,
            decimal: false,
            percent: false,
        }
    }

    /// The whole text as one number, `None` where anything else stands beside it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = super::notation::normalise(text.trim());
        let (number, end) = super::notation::scan(text.as_bytes(), 0)?;
        text[end..].trim().is_empty().then_some(number)
    }

    /// From the parts of a spelling: whole digits, decimal digits, exponent. Digits are ASCII and without separators.
    pub(super) fn from_parts(whole: &str, decimals: &str, exponent: Option<i64>) -> Self {
        let shift = exponent.unwrap_or(0);
        let decimal = exponent.is_some() || !decimals.is_empty();
        let mut digits = String::with_capacity(whole.len() + decimals.len());
        digits.push_str(whole);
        digits.push_str(decimals);
        // The value is `digits` · 10^-scale.
        let mut scale = decimals.len() as i64 - shift;
        let kept = digits.trim_start_matches('0').to_owned();
        let value = if kept.is_empty() {
            Value::Ratio(0, 1)
        } else if scale <= 0 && -scale <= MOST_EXPONENT {
            integer(kept + &"0".repeat((-scale) as usize))
        } else {
            let stripped = kept.trim_end_matches('0');
            scale -= (kept.len() - stripped.len()) as i64;
            let exact = if scale <= 0 && -scale <= MOST_EXPONENT {
                Some(integer(
                    stripped.to_owned() + &"0".repeat((-scale) as usize),
                ))
            } else if stripped.len() <= MOST_DIGITS && (0..=MOST_DIGITS as i64).contains(&scale) {
                stripped
                    .parse()
                    .ok()
                    .and_then(|n| Value::ratio(n, 10_i128.pow(scale as u32)))
            } else {
                None
            };
            exact.unwrap_or_else(|| {
                let text = format!("{stripped}e{}", -scale);
                Value::Float(text.parse().unwrap_or(f64::NAN))
            })
        };
        Self {
            value,
            decimal,
            percent: false,
        }
    }

    pub(super) fn negated(self) -> Self {
        Self {
            value: self.value.negated(),
            ..self
        }
    }

    pub(super) fn with_percent(self) -> Self {
        Self {
            percent: true,
            ..self
        }
    }

    /// A quotient of two spelled numbers; `None` for a zero divisor.
    pub(super) fn over(&self, divisor: &Self) -> Option<Self> {
        Some(Self {
            value: self.value.divided(&divisor.value)?,
            decimal: self.decimal || divisor.decimal,
            percent: false,
        })
    }

    /// A sum, where it can be held exactly.
    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        Some(Self {
            value: self.value.plus(&other.value)?,
            decimal: self.decimal || other.decimal,
            percent: false,
        })
    }

    /// Written without decimal point and exponent, and whole.
    pub fn is_integer(&self) -> bool {
        !self.decimal && matches!(self.value, Value::Ratio(_, 1) | Value::Big { .. })
    }

    /// Numerator and denominator in lowest terms, where both fit.
    pub fn as_ratio(&self) -> Option<(i128, i128)> {
        match self.value {
            Value::Ratio(n, d) => Some((n, d)),
            _ => None,
        }
    }

    /// The nearest float; a percent sign does not count.
    pub fn to_f64(&self) -> f64 {
        self.value.float()
    }

    /// Whether two spellings give the same answer.
    ///
    /// Integers and fractions are compared exactly, those beyond exact arithmetic as floats; where either is a decimal,
    /// within ±0.001. A percent sign on one side
    /// alone is read both ways: `25%` is the answer where 25 is right (the question asked for percent) and where 1/4 is.
    pub fn matches(&self, other: &Self) -> bool {
        let same = |a: &Value, b: &Value| {
            let inexact = |value: &Value| matches!(value, Value::Float(_));
            if self.decimal || other.decimal {
                a.within_tolerance(b)
            } else if inexact(a) || inexact(b) {
                a.float() == b.float()
            } else {
                a == b
            }
        };
        if same(&self.value, &other.value) {
            return true;
        }
        if self.percent == other.percent {
            return false;
        }
        let hundred = Value::Ratio(100, 1);
        let (percent, plain) = if self.percent {
            (&self.value, &other.value)
        } else {
            (&other.value, &self.value)
        };
        percent
            .divided(&hundred)
            .is_some_and(|part| same(&part, plain))
    }
}

/// An integer of any length; no leading zeros.
fn integer(digits: String) -> Value {
    match digits.len() <= MOST_DIGITS {
        true => match digits.parse() {
            Ok(value) => Value::Ratio(value, 1),
            Err(_) => Value::Float(f64::NAN),
        },
        false => Value::Big {
            negative: false,
            digits,
        },
    }
}

impl fmt::Display for Numeric {
    /// The canonical text: `-12`, `3/4`, or the shortest decimal where it was written as one and ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Ratio(n, 1) => write!(f, "{n}")?,
            Value::Ratio(n, d) => match decimal(*n, *d).filter(|_| self.decimal) {
                Some(text) => f.write_str(&text)?,
                None => write!(f, "{n}/{d}")?,
            },
            Value::Big { negative, digits } => {
                write!(f, "{}{digits}", if *negative { "-" } else { "" })?
            }
            Value::Float(value) => write!(f, "{value}")?,
        }
        f.write_str(if self.percent { "%" } else { "" })
    }
}

/// A fraction as a decimal, where that ends.
pub(super) fn decimal(numerator: i128, denominator: i128) -> Option<String> {
    let (mut rest, mut places) = (denominator, 0);
    let mut scale: i128 = 1;
    while rest % 10 == 0 || rest % 2 == 0 || rest % 5 == 0 {
        // Each step multiplies by 10 and takes a factor of 2 or 5 (or both) out of the denominator.
        let factor = gcd(rest, 10);
        rest /= factor;
        scale = scale.checked_mul(10)?;
        places += 1;
    }
    if rest != 1 {
        return None;
    }
    let scaled = numerator.checked_mul(scale)? / denominator;
    if places == 0 {
        return Some(scaled.to_string());
    }
    let size = scaled.unsigned_abs();
    let unit = scale.unsigned_abs();
    let sign = if numerator < 0 { "-" } else { "" };
    Some(format!("{sign}{}.{:0places$}", size / unit, size % unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Numeric {
        Numeric::parse(text).unwrap_or_else(|| panic!("`{text}` is no number"))
    }

    #[test]
    fn canonical_texts() {
        for (text, expected) in [
            ("0042", "42"),
            ("-0", "0"),
            ("6/4", "3/2"),
            ("8/4", "2"),
            ("12.50", "12.5"),
            ("0.125", "0.125"),
            ("1.20e3", "1200"),
            ("25%", "25%"),
            ("-.5", "-0.5"),
            (
                "123456789012345678901234567890123456789012",
                "123456789012345678901234567890123456789012",
            ),
        ] {
            assert_eq!(number(text).to_string(), expected, "{text}");
        }
        assert_eq!(Numeric::fraction(10, -4).unwrap().to_string(), "-5/2");
        assert_eq!(Numeric::fraction(1, 0), None);
        assert_eq!(decimal(1, 3), None);
    }

    #[test]
    fn comparison_is_exact_or_within_a_thousandth() {
        for (a, b, same) in [
            ("42", "42.0", true),
            ("42", "42.001", true),
            ("42", "42.0010001", false),
            ("42", "41.999", true),
            ("42", "43", false),
            ("1/3", "0.333", true),
            ("1/3", "0.332", false),
            ("1/3", "2/6", true),
            ("1/3", "333/1000", false),
            ("1000000007", "1.000000007e9", true),
            ("25%", "25", true),
            ("25%", "1/4", true),
            ("25%", "0.25", true),
            ("25%", "0.2", false),
            ("25%", "25%", true),
            ("25%", "0.25%", false),
            (
                "170141183460469231731687303715884105727",
                "170141183460469231731687303715884105728",
                false,
            ),
            ("10000000000000000000000000000000000000000", "1e40", true),
            (
                "10000000000000000000000000000000000000000",
                "10000000000000000000000000000000000000001",
                false,
            ),
            ("0.00000000000000000000000000000000000000000001", "0", true),
            ("-5", "5", false),
        ] {
            assert_eq!(number(a).matches(&number(b)), same, "{a} against {b}");
            assert_eq!(number(b).matches(&number(a)), same, "{b} against {a}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_not_read() {
        for text in [
            "", "-", "1/0", "abc", "1.2.3", "4 5", "1e", "e5", "0x10", "--5", "%",
        ] {
            assert_eq!(Numeric::parse(text), None, "{text}");
        }
    }
}
