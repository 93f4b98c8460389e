//! Sixteen messages at a time: each 32-bit lane of the 512-bit vectors holds one message's word.

use super::Message;
use super::blocks::{BLOCK, Blocks};
use crate::ids::Digest;
use core::arch::x86_64::*;

/// Messages at a time.
pub(super) const LANES: usize = 16;

/// Whether this processor can.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// The hashes of up to sixteen messages; those of the lanes beyond them mean nothing.
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn digest_up_to_sixteen(messages: &[Message<'_>]) -> [Digest; LANES] {
    let mut lanes = [Blocks::NONE; LANES];
    for (lane, message) in lanes.iter_mut().zip(messages) {
        if !lane.set(*message) {
            // No head of ours is that long.
            return one_by_one(messages);
        }
    }
    let mut state = INITIAL.map(|word| _mm512_set1_epi32(word as i32));
    let counts = lanes.each_ref().map(Blocks::count);
    for index in 0..counts.into_iter().max().unwrap_or(0) {
        let mut words = load(&lanes, index);
        let unfinished = counts.iter().rev().fold(0, |mask, count| mask << 1 | u16::from(index < *count));
        compress(&mut state, &mut words, unfinished);
    }
    store(&state)
}

#[cold]
fn one_by_one(messages: &[Message<'_>]) -> [Digest; LANES] {
    let mut digests = [Digest::default(); LANES];
    for (digest, message) in digests.iter_mut().zip(messages) {
        *digest = message.digest();
    }
    digests
}

/// Block `index` of every lane as sixteen vectors of words, which are big-endian in the messages.
#[target_feature(enable = "avx512f,avx512bw")]
fn load(lanes: &[Blocks<'_>; LANES], index: usize) -> [__m512i; 16] {
    let swap = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    let mut rows = [_mm512_setzero_si512(); 16];
    for (row, lane) in rows.iter_mut().zip(lanes) {
        let block: &[u8; BLOCK] = lane.get(index);
        // SAFETY: a block is 64 bytes, and the load asks for no alignment.
        let bytes = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        *row = _mm512_shuffle_epi8(bytes, swap);
    }
    transpose(&rows)
}

/// Word `w` of lane `l` goes from vector `l`, place `w`, to vector `w`, place `l`.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = [_mm512_setzero_si512(); 16];
    for at in (0..16).step_by(2) {
        pairs[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        pairs[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    // Each vector now holds, in each of its quarters, one word of four lanes.
    let mut fours = [_mm512_setzero_si512(); 16];
    for at in (0..16).step_by(4) {
        fours[at] = _mm512_unpacklo_epi64(pairs[at], pairs[at + 2]);
        fours[at + 1] = _mm512_unpackhi_epi64(pairs[at], pairs[at + 2]);
        fours[at + 2] = _mm512_unpacklo_epi64(pairs[at + 1], pairs[at + 3]);
        fours[at + 3] = _mm512_unpackhi_epi64(pairs[at + 1], pairs[at + 3]);
    }
    // Quarter `q` of `fours[4 * g + w]` is word `4 * q + w` of lanes `4 * g` to `4 * g + 3`.
    let mut columns = [_mm512_setzero_si512(); 16];
    for word in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|group| fours[group + word]);
        let (even_ab, odd_ab) =
            (_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
        let (even_cd, odd_cd) =
            (_mm512_shuffle_i32x4::<0b10_00_10_00>(c, d), _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d));
        columns[word] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even_ab, even_cd);
        columns[word + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even_ab, even_cd);
        columns[word + 4] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd_ab, odd_cd);
        columns[word + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd_ab, odd_cd);
    }
    columns
}

/// Takes one block into the state of each lane that `unfinished` names.
#[target_feature(enable = "avx512f")]
#[inline]
fn compress(state: &mut [__m512i; 8], words: &mut [__m512i; 16], unfinished: u16) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // One round, written so that the letters turn instead of the values.
    macro_rules! round {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $word:expr, $constant:expr) => {
            let input = _mm512_add_epi32($word, _mm512_set1_epi32($constant as i32));
            let choice = _mm512_ternarylogic_epi32::<0xca>($e, $f, $g);
            let sum =
                _mm512_add_epi32(_mm512_add_epi32($h, input), _mm512_add_epi32(big_sigma_1($e), choice));
            let majority = _mm512_ternarylogic_epi32::<0xe8>($a, $b, $c);
            $d = _mm512_add_epi32($d, sum);
            $h = _mm512_add_epi32(sum, _mm512_add_epi32(big_sigma_0($a), majority));
        };
    }
    macro_rules! eight_rounds {
        ($at:literal, $constants:expr) => {
            round!(a b c d e f g h, words[$at], $constants[$at]);
            round!(h a b c d e f g, words[$at + 1], $constants[$at + 1]);
            round!(g h a b c d e f, words[$at + 2], $constants[$at + 2]);
            round!(f g h a b c d e, words[$at + 3], $constants[$at + 3]);
            round!(e f g h a b c d, words[$at + 4], $constants[$at + 4]);
            round!(d e f g h a b c, words[$at + 5], $constants[$at + 5]);
            round!(c d e f g h a b, words[$at + 6], $constants[$at + 6]);
            round!(b c d e f g h a, words[$at + 7], $constants[$at + 7]);
        };
    }
    for (turn, constants) in CONSTANTS.iter().enumerate() {
        if turn > 0 {
            extend(words);
        }
        eight_rounds!(0, constants);
        eight_rounds!(8, constants);
    }
    for (before, after) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *before = _mm512_mask_add_epi32(*before, unfinished, *before, after);
    }
}

/// Replaces the last sixteen words of the message schedule by the next sixteen.
#[target_feature(enable = "avx512f")]
#[inline]
fn extend(words: &mut [__m512i; 16]) {
    for at in 0..16 {
        let older = _mm512_add_epi32(words[at], small_sigma_0(words[(at + 1) % 16]));
        let newer = _mm512_add_epi32(words[(at + 9) % 16], small_sigma_1(words[(at + 14) % 16]));
        words[at] = _mm512_add_epi32(older, newer);
    }
}

// FIPS 180-4, section 4.1.2.

#[target_feature(enable = "avx512f")]
#[inline]
fn big_sigma_0(x: __m512i) -> __m512i {
    xor(_mm512_ror_epi32::<2>(x), _mm512_ror_epi32::<13>(x), _mm512_ror_epi32::<22>(x))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn big_sigma_1(x: __m512i) -> __m512i {
    xor(_mm512_ror_epi32::<6>(x), _mm512_ror_epi32::<11>(x), _mm512_ror_epi32::<25>(x))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn small_sigma_0(x: __m512i) -> __m512i {
    xor(_mm512_ror_epi32::<7>(x), _mm512_ror_epi32::<18>(x), _mm512_srli_epi32::<3>(x))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn small_sigma_1(x: __m512i) -> __m512i {
    xor(_mm512_ror_epi32::<17>(x), _mm512_ror_epi32::<19>(x), _mm512_srli_epi32::<10>(x))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(state: &[__m512i; 8]) -> [Digest; LANES] {
    let mut digests = [Digest::default(); LANES];
    for (word, vector) in state.iter().enumerate() {
        let mut lanes = [0u32; LANES];
        // SAFETY: sixteen 32-bit lanes are written into an array of sixteen.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), *vector) };
        for (digest, lane) in digests.iter_mut().zip(lanes) {
            digest.0[4 * word..4 * word + 4].copy_from_slice(&lane.to_be_bytes());
        }
    }
    digests
}

/// FIPS 180-4, section 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// FIPS 180-4, section 4.2.2: of the first 64 primes, the first 32 bits of the cube roots' fractions.
#[rustfmt::skip]
const CONSTANTS: [[u32; 16]; 4] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
     0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
     0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
     0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
     0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];
