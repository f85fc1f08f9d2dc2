//! Elementary arithmetic that the families share. What an answer rests on is computed twice by other means; only these
//! few functions stand on both sides, and each has tests of its own.

/// Greatest common divisor of non-negative numbers.
pub(super) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Least common multiple of positive numbers.
pub(super) fn lcm(a: i64, b: i64) -> i64 {
    a / gcd(a, b) * b
}

/// Binomial coefficient by the product formula; 0 outside the triangle. Exact while the result stays below 2^120 or so.
pub(super) fn binomial(n: i64, k: i64) -> i128 {
    if k < 0 || k > n {
        return 0;
    }
    let k = k.min(n - k);
    (1..=k).fold(1, |value, i| value * i128::from(n - k + i) / i128::from(i))
}

/// n!, up to 33.
pub(super) fn factorial(n: i64) -> i128 {
    (1..=i128::from(n)).product()
}

/// a^b mod m by repeated squaring.
pub(super) fn power_mod(a: i64, b: i64, m: i64) -> i64 {
    let (mut base, mut rest, m) = (i128::from(a % m), b, i128::from(m));
    let mut value = 1 % m;
    while rest > 0 {
        if rest & 1 == 1 {
            value = value * base % m;
        }
        base = base * base % m;
        rest >>= 1;
    }
    value as i64
}

/// Whether a number is prime, by trial division.
pub(super) fn is_prime(n: i64) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!((gcd(84, 36), gcd(7, 0), lcm(4, 6)), (12, 7, 12));
        assert_eq!(
            (
                binomial(52, 5),
                binomial(5, 6),
                binomial(5, 0) + binomial(5, 5)
            ),
            (2_598_960, 0, 2)
        );
        assert_eq!((factorial(0), factorial(10)), (1, 3_628_800));
        assert_eq!((power_mod(3, 200, 13), power_mod(2, 10, 1)), (9, 0));
        let primes: Vec<i64> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    }
}
