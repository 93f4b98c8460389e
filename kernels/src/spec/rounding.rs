//! Conversions between floats, fixed point and keys, and the one rounding rule (SPEC.md, sections 2 to 4).

/// Exponents of tensors, weights and sums lie in this range, so that no conversion to `f32` overflows or becomes
/// subnormal.
pub const EXPONENTS: std::ops::RangeInclusive<i32> = -64..=96;

/// Largest rounding shift to the right.
pub const MAX_RIGHT_SHIFT: i32 = 62;

/// Largest exact shift to the left.
pub const MAX_LEFT_SHIFT: i32 = 31;

/// Rescales `value` by `2^-shift`: adds half, shifts right arithmetically (so ties go up), and saturates to
/// `minimum..=maximum`. A negative `shift` multiplies by a power of two exactly before saturating.
///
/// `shift` must lie in `-MAX_LEFT_SHIFT..=MAX_RIGHT_SHIFT`; the loader checks it for every node.
pub fn requantize(value: i64, shift: i32, minimum: i64, maximum: i64) -> i64 {
    let scaled = if shift > 0 {
        let half = 1i128 << (shift - 1);
        (i128::from(value) + half) >> shift
    } else {
        i128::from(value) << -shift
    };
    scaled.clamp(i128::from(minimum), i128::from(maximum)) as i64
}

/// Converts a float to the nearest multiple of `2^-exponent` (ties to even), saturating to `minimum..=maximum`.
/// Infinities saturate; the caller has refused NaN.
pub fn quantize(value: f32, exponent: i32, minimum: i64, maximum: i64) -> i64 {
    // A float32 times a power of two of at most 2^96 is exact in float64.
    let scaled = f64::from(value) * power_of_two(exponent);
    round_ties_even(scaled).clamp(minimum as f64, maximum as f64) as i64
}

/// `f64::round_ties_even`, without the library call that it is on x86-64 without SSE 4.1: every row of every request
/// comes through here. Adding 1.5 * 2^52 leaves no bit for a fraction, so the addition itself rounds, ties to even.
fn round_ties_even(value: f64) -> f64 {
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    if value.abs() < (1u64 << 51) as f64 { (value + ROUNDER) - ROUNDER } else { value.round_ties_even() }
}

/// The value `integer * 2^-exponent` as the nearest `f32` (ties to even).
pub fn to_f32(integer: i64, exponent: i32) -> f32 {
    // i64 to f32 rounds to nearest even; the power of two is then exact, because EXPONENTS keeps the result normal.
    integer as f32 * power_of_two(-exponent) as f32
}

/// `2^exponent`, exactly, for `-1022 <= exponent <= 1023`.
pub fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&exponent));
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The order-preserving integer of a float: `key(a) <= key(b)` exactly if `a <= b`, for all floats but NaN.
/// Both zeros have key 0, and infinities keep their places at the ends.
pub fn key(value: f32) -> i32 {
    let bits = value.to_bits();
    let magnitude = (bits & 0x7fff_ffff) as i32;
    if bits >> 31 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_by_addition_is_rounding(value: f64, small in -1e6..1e6f64, half in -1_000_000i32..1_000_000) {
            for value in [value, small, f64::from(half) + 0.5, f64::INFINITY, -0.5, 4_503_599_627_370_495.5] {
                let (got, expected) = (round_ties_even(value), value.round_ties_even());
                prop_assert!(got == expected || (got.is_nan() && expected.is_nan()), "{value}: {got} {expected}");
            }
        }
    }

    #[test]
    fn ties_round_up_and_results_saturate() {
        assert_eq!(requantize(5, 1, -100, 100), 3);
        assert_eq!(requantize(-5, 1, -100, 100), -2);
        assert_eq!(requantize(1000, 1, -100, 100), 100);
        assert_eq!(requantize(3, -2, -100, 100), 12);
        assert_eq!(requantize(i64::MAX, 62, i64::MIN, i64::MAX), 2);
        assert_eq!(requantize(i64::MIN, -31, -7, 7), -7);
    }

    #[test]
    fn infinities_saturate_and_ties_go_to_even() {
        assert_eq!(quantize(f32::INFINITY, 8, -32768, 32767), 32767);
        assert_eq!(quantize(f32::NEG_INFINITY, 8, -32768, 32767), -32768);
        assert_eq!(quantize(2.5, 0, -10, 10), 2);
        assert_eq!(quantize(-3.5, 0, -10, 10), -4);
        assert_eq!(quantize(f32::MAX, 96, i64::from(i32::MIN), i64::from(i32::MAX)), i64::from(i32::MAX));
    }

    #[test]
    fn output_floats_stay_normal_over_the_whole_exponent_range() {
        assert!(to_f32(1, 96).is_normal());
        assert!(to_f32(i64::MIN, *EXPONENTS.start()).is_finite());
    }

    proptest! {
        #[test]
        fn keys_order_as_floats_do(a: u32, b: u32) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(key(a) <= key(b), a <= b);
            prop_assert_eq!(key(a) == key(b), a == b);
        }

        #[test]
        fn quantize_inverts_to_f32_where_the_integer_fits_a_float(q in -32768i64..32768, exponent in EXPONENTS) {
            prop_assert_eq!(quantize(to_f32(q, exponent), exponent, -32768, 32767), q);
        }
    }
}
