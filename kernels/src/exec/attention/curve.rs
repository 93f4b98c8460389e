//! The functions of [`crate::spec::curve`] in 256-bit vectors of eight arguments.
//!
//! Every function needs a processor with AVX2.

use core::arch::x86_64::*;

use crate::spec::curve::{
    Curve, EXP2, EXP2_INPUT_EXPONENT, EXP2_OUTPUT_EXPONENT, GELU, GELU_INPUT_EXPONENT, GELU_MAXIMUM,
    GELU_TANH, SUM_EXPONENT,
};

/// `exp2` of arguments from 0 to its largest.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn exp2(argument: __m256i) -> __m256i {
    let column = |which: usize| {
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|segment| EXP2.coefficients[segment][which]);
        _mm256_setr_epi32(a, b, c, d, e, f, g, h)
    };
    const LOCAL: i32 = EXP2.local_bits as i32;
    // Eight segments: the low three bits of the index choose, and the others are not looked at.
    let segment = _mm256_srli_epi32::<LOCAL>(argument);
    let local = _mm256_and_si256(argument, _mm256_set1_epi32((1 << LOCAL) - 1));
    let [value, slope, curvature] =
        [0, 1, 2].map(|which| _mm256_permutevar8x32_epi32(column(which), segment));
    let bend = _mm256_srai_epi32::<{ EXP2.inner_shift as i32 }>(_mm256_mullo_epi32(curvature, local));
    let rise = _mm256_mullo_epi32(_mm256_add_epi32(slope, bend), local);
    let value = _mm256_add_epi32(value, _mm256_srai_epi32::<{ EXP2.outer_shift as i32 }>(rise));
    let whole = _mm256_srli_epi32::<EXP2_INPUT_EXPONENT>(argument);
    const SHIFT: i32 = SUM_EXPONENT - EXP2_OUTPUT_EXPONENT;
    let half = _mm256_sllv_epi32(_mm256_set1_epi32(1 << (SHIFT - 1)), whole);
    _mm256_srlv_epi32(_mm256_add_epi32(value, half), _mm256_add_epi32(whole, _mm256_set1_epi32(SHIFT)))
}

/// A table of 64 segments: a value, and a slope and a curvature of 16 bits in one word. Both words are read at once.
#[repr(align(64))]
struct Words([[i32; 2]; 64]);

impl Words {
    const fn new(curve: &Curve) -> Words {
        let mut words = [[0; 2]; 64];
        let mut segment = 0;
        while segment < 64 {
            let [value, slope, curvature] = curve.coefficients[segment];
            assert!(slope == slope as i16 as i32 && curvature == curvature as i16 as i32);
            words[segment] = [value, slope << 16 | curvature & 0xffff];
            segment += 1;
        }
        Words(words)
    }

    /// Both words of each lane's segment, whose low six bits count. Eight loads; gathers take three times as long.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn look_up(&self, segments: __m256i) -> [__m256i; 2] {
        let mut places = [0u32; 8];
        // SAFETY: eight lanes of 32 bits are written into as many.
        unsafe { _mm256_storeu_si256(places.as_mut_ptr().cast(), segments) };
        let two = |lane: usize| {
            let [low, high] = [lane, lane + 1].map(|lane| self.0[places[lane] as usize % 64].as_ptr());
            // SAFETY: each is the place of two words.
            unsafe { _mm_loadh_pd(_mm_castsi128_pd(_mm_loadl_epi64(low.cast())), high.cast()) }
        };
        let four = |lane: usize| _mm256_castpd_ps(_mm256_set_m128d(two(lane + 4), two(lane)));
        let (even, odd) = (four(0), four(2));
        [_mm256_shuffle_ps::<0b10_00_10_00>(even, odd), _mm256_shuffle_ps::<0b11_01_11_01>(even, odd)]
            .map(|words| _mm256_castps_si256(words))
    }
}

static GELU_WORDS: Words = Words::new(&GELU);
static GELU_TANH_WORDS: Words = Words::new(&GELU_TANH);

/// GELU, or its approximation by tanh, of arguments of 16 bits at an exponent, at that exponent.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn gelu(by_tanh: bool, exponent: i32, argument: __m256i) -> __m256i {
    let table = if by_tanh { &GELU_TANH_WORDS } else { &GELU_WORDS };
    let magnitude =
        _mm256_sll_epi32(_mm256_abs_epi32(argument), _mm_cvtsi32_si128(GELU_INPUT_EXPONENT - exponent));
    let magnitude = _mm256_min_epi32(magnitude, _mm256_set1_epi32(GELU_MAXIMUM));
    const LOCAL: i32 = GELU.local_bits as i32;
    let segment = _mm256_srli_epi32::<LOCAL>(magnitude);
    let local = _mm256_and_si256(magnitude, _mm256_set1_epi32((1 << LOCAL) - 1));
    let [value, others] = table.look_up(segment);
    let slope = _mm256_srai_epi32::<16>(others);
    let curvature = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(others));
    let bend = _mm256_srai_epi32::<{ GELU.inner_shift as i32 }>(_mm256_mullo_epi32(curvature, local));
    let rise = _mm256_mullo_epi32(_mm256_add_epi32(slope, bend), local);
    let value = _mm256_add_epi32(value, _mm256_srai_epi32::<{ GELU.outer_shift as i32 }>(rise));
    let shift = SUM_EXPONENT - exponent;
    let half = _mm256_set1_epi32(1 << (shift - 1));
    let below = _mm256_sra_epi32(_mm256_add_epi32(value, half), _mm_cvtsi32_si128(shift));
    _mm256_add_epi32(_mm256_max_epi32(argument, _mm256_setzero_si256()), below)
}
