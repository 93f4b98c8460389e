//! Sigmoid and tanh of recurrent layers, in 16-bit arithmetic throughout (SPEC.md, section 6.1).
//!
//! A recurrent step is a chain: what its gates cost cannot be hidden by other work. So these round three times to 16
//! bits, where [`super::activation`] rounds once from 64, and cost a third as much in vectors. The error stays below
//! that of the gate's argument.

use super::coefficients::GATE;

/// Exponent of the argument of [`sigmoid`]: it covers -16 to 16.
pub const SIGMOID_INPUT_EXPONENT: i32 = 11;
/// Exponent of the argument of [`tanh`]: it covers -8 to 8.
pub const TANH_INPUT_EXPONENT: i32 = 12;
/// Exponent of the results.
pub const OUTPUT_EXPONENT: i32 = 15;

/// Low bits of the argument that give the place within one of the 64 segments.
pub const LOCAL_BITS: u32 = 9;

/// Coefficients of the 64 segments: the first at scale `2^-15`, the others at `2^-17` for a place from 0 to 1.
pub const SEGMENTS: &[[i16; 3]; 64] = &GATE;

/// `tanh(z / 2)` for `z = x * 2^-11`, at exponent 15.
pub fn half_tanh(x: i16) -> i16 {
    let magnitude = x.unsigned_abs().min(i16::MAX as u16);
    let [c0, c1, c2] = GATE[usize::from(magnitude >> LOCAL_BITS)];
    let local = (magnitude & 0x1ff) as i16;
    let slope = c1 + high_product(c2, local << 6);
    let value = c0.saturating_add(high_product(slope, local << 4));
    if x < 0 { -value } else { value }
}

/// The product at exponent 15, rounded by adding half and shifting right.
fn high_product(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b) + (1 << 14)) >> 15) as i16
}

/// Sigmoid of `x * 2^-11`, at exponent 15, from 1 to 32767.
pub fn sigmoid(x: i16) -> i16 {
    ((i32::from(half_tanh(x)) + (1 << 15) + 1) >> 1).min(i32::from(i16::MAX)) as i16
}

/// Hyperbolic tangent of `x * 2^-12`, at exponent 15, from -32767 to 32767.
pub fn tanh(x: i16) -> i16 {
    half_tanh(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_accurate_monotone_to_a_unit_and_symmetric_over_every_argument() {
        let (mut before, mut worst) = ((0, -i16::MAX), [0f64; 2]);
        for x in i16::MIN..=i16::MAX {
            let z = f64::from(x);
            let (s, t) = (sigmoid(x), tanh(x));
            worst[0] = worst[0].max((f64::from(s) / 32768.0 - 1.0 / (1.0 + (-z / 2048.0).exp())).abs());
            worst[1] = worst[1].max((f64::from(t) / 32768.0 - (z / 4096.0).tanh()).abs());
            assert!(s >= 1 && s >= before.0 - 1 && t >= before.1 - 1, "falls at {x}");
            before = (s, t);
            assert_eq!(t, -tanh(x.saturating_neg()));
        }
        assert!(worst[0] < 4.5e-5 && worst[1] < 7.5e-5, "{worst:?}");
    }
}
