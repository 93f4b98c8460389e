//! From the floats of a request to the model's `i16` inputs, eight at a time. The conversion is
//! [`quantize`](crate::spec::rounding::quantize)'s, bit for bit.

use core::arch::x86_64::*;

/// Elements at a time.
pub(crate) const WIDTH: usize = 8;

/// Converts the little-endian floats of `row` and multiplies each by its scale, a power of two; rounds to the nearest
/// integer, ties to even, and saturates to `bounds`. Stops before the group of [`WIDTH`] that holds a NaN or is not
/// whole, and returns how many elements it has converted.
///
/// # Panics
/// If `row`, `scales` and `slots` are not of one length.
#[target_feature(enable = "avx2")]
pub(crate) fn quantize_groups(
    row: &[[u8; 4]],
    scales: &[f64],
    bounds: (i16, i16),
    slots: &mut [i16],
) -> usize {
    assert!(row.len() == scales.len() && row.len() == slots.len(), "one scale and one slot for each element");
    let (minimum, maximum) = (_mm256_set1_pd(bounds.0.into()), _mm256_set1_pd(bounds.1.into()));
    let groups = row.as_chunks::<WIDTH>().0.iter().zip(scales.as_chunks::<WIDTH>().0);
    let mut converted = 0;
    for ((values, scales), slots) in groups.zip(slots.as_chunks_mut::<WIDTH>().0) {
        // SAFETY: a group is eight floats of four bytes, and the load asks for no alignment.
        let values = unsafe { _mm256_loadu_ps(values.as_ptr().cast()) };
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values)) != 0 {
            break;
        }
        // A float32 times a power of two is exact in float64. The bounds are integers, so it is the same whether the
        // rounding comes before them or after. The conversion rounds to even, as the processor does unless told not to.
        let integers = |half: __m128, scales: *const f64| {
            // SAFETY: the half's four scales are read.
            let scaled = _mm256_mul_pd(_mm256_cvtps_pd(half), unsafe { _mm256_loadu_pd(scales) });
            _mm256_cvtpd_epi32(_mm256_min_pd(_mm256_max_pd(scaled, minimum), maximum))
        };
        let low = integers(_mm256_castps256_ps128(values), scales.as_ptr());
        let high = integers(_mm256_extractf128_ps::<1>(values), scales[WIDTH / 2..].as_ptr());
        // SAFETY: eight elements of two bytes are written into as many.
        unsafe { _mm_storeu_si128(slots.as_mut_ptr().cast(), _mm_packs_epi32(low, high)) };
        converted += WIDTH;
    }
    converted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::rounding::{power_of_two, quantize};
    use proptest::prelude::*;

    /// Floats of every kind, and many that lie at or next to a tie.
    fn float() -> impl Strategy<Value = f32> {
        let tie = (-70_000i32..70_000, -1i32..=1)
            .prop_map(|(at, off)| f32::from_bits((at as f32 + 0.5).to_bits().wrapping_add_signed(off)));
        prop_oneof![any::<u32>().prop_map(f32::from_bits), tie]
    }

    proptest! {
        #[test]
        fn eight_at_a_time_is_one_at_a_time(
            row in prop::collection::vec((float(), -3i32..20), 0..40),
            bounds in prop_oneof![Just((i16::MIN, i16::MAX)), (-900i16..0, 0i16..900)],
        ) {
            if is_x86_feature_detected!("avx2") {
                let bytes: Vec<[u8; 4]> = row.iter().map(|(value, _)| value.to_le_bytes()).collect();
                let scales: Vec<f64> = row.iter().map(|(_, exponent)| power_of_two(*exponent)).collect();
                let mut slots = vec![0; row.len()];
                // SAFETY: the processor has AVX2.
                let converted = unsafe { quantize_groups(&bytes, &scales, bounds, &mut slots) };
                let nan = row.iter().position(|(value, _)| value.is_nan()).unwrap_or(row.len());
                prop_assert_eq!(converted, nan / WIDTH * WIDTH);
                for ((value, exponent), slot) in row.iter().zip(slots).take(converted) {
                    let expected = quantize(*value, *exponent, bounds.0.into(), bounds.1.into());
                    prop_assert_eq!(i64::from(slot), expected, "{} at 2^{}", value, exponent);
                }
            }
        }
    }
}
