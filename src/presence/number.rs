//! Numbers of JSON, compared by their mathematical value: `1` is `1.0`, and 9007199254740993 is not
//! 9007199254740992.0, although as an `f64` it would be.

use std::cmp::Ordering;

/// From here on (2^64, either sign) a float stays a float: no integer of JSON reaches it.
const WHOLE_END: f64 = 18_446_744_073_709_551_616.0;

/// A finite number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(Form);

/// Each number has exactly one form, so that equality of forms is equality of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Whole(i128),
    /// Has a fraction, or lies beyond `WHOLE_END`. Never NaN.
    Float(f64),
}

impl Number {
    fn from_finite(float: f64) -> Self {
        if float.fract() == 0.0 && float.abs() < WHOLE_END {
            // In range and without a fraction: the conversion is exact.
            Self(Form::Whole(float as i128))
        } else {
            Self(Form::Float(float))
        }
    }
}

impl From<&serde_json::Number> for Number {
    fn from(number: &serde_json::Number) -> Self {
        if let Some(signed) = number.as_i64() {
            Self::from(signed)
        } else if let Some(unsigned) = number.as_u64() {
            Self::from(unsigned)
        } else {
            // Always there and finite: we do not use serde_json's `arbitrary_precision`.
            Self::from_finite(number.as_f64().unwrap_or_default())
        }
    }
}

impl From<i64> for Number {
    fn from(whole: i64) -> Self {
        Self(Form::Whole(whole.into()))
    }
}

impl From<u64> for Number {
    fn from(whole: u64) -> Self {
        Self(Form::Whole(whole.into()))
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Form::Whole(a), Form::Whole(b)) => a.cmp(&b),
            // Neither is NaN or a zero (that is `Whole`): the total order is the mathematical one.
            (Form::Float(a), Form::Float(b)) => a.total_cmp(&b),
            (Form::Whole(a), Form::Float(b)) => whole_to_float(a, b),
            (Form::Float(a), Form::Whole(b)) => whole_to_float(b, a).reverse(),
        }
    }
}

/// Compares a whole number with the value of a `Form::Float`; they are never equal.
fn whole_to_float(whole: i128, float: f64) -> Ordering {
    if float >= WHOLE_END {
        Ordering::Less
    } else if float <= -WHOLE_END {
        Ordering::Greater
    } else if whole <= float.floor() as i128 {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(json: &str) -> Number {
        Number::from(&serde_json::from_str::<serde_json::Number>(json).unwrap())
    }

    #[test]
    fn the_same_number_written_differently_is_equal() {
        for (a, b) in [
            ("1", "1.0"),
            ("0", "-0.0"),
            ("100", "1e2"),
            ("9007199254740992", "9007199254740992.0"),
        ] {
            assert_eq!(number(a), number(b), "{a} {b}");
            assert_eq!(number(a).cmp(&number(b)), Ordering::Equal, "{a} {b}");
        }
    }

    #[test]
    fn numbers_that_an_f64_cannot_tell_apart_are_ordered() {
        let ascending = [
            "-1e300",
            "-18446744073709551616.0",
            "-9223372036854775808",
            "-1.5",
            "-1",
            "-0.5",
            "0",
            "0.5",
            "1",
            "9007199254740992.0",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551614",
            "18446744073709551615",
            "18446744073709551616.0",
            "1e300",
        ];
        for pair in ascending.windows(2) {
            assert!(number(pair[0]) < number(pair[1]), "{pair:?}");
            assert!(number(pair[1]) > number(pair[0]), "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn floats_keep_their_order(
            a in prop::num::f64::NORMAL | prop::num::f64::ZERO,
            b in prop::num::f64::NORMAL,
        ) {
            let ordering = Number::from_finite(a).cmp(&Number::from_finite(b));
            prop_assert_eq!(Some(ordering), a.partial_cmp(&b));
        }

        #[test]
        fn a_small_integer_compares_with_a_float_as_f64_does(
            a in -1000i64..1000,
            b in -1000.0..1000.0f64,
        ) {
            let ordering = Number::from(a).cmp(&Number::from_finite(b));
            prop_assert_eq!(Some(ordering), (a as f64).partial_cmp(&b));
        }
    }
}
