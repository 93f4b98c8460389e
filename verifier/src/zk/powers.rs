//! Powers of 128 bits that cost half as much: `low + λ·high` with 64 bits each.
//!
//! The curve has a map `φ(x, y) = (βx, y)`, which multiplies the points of G1 by `λ = z² - 1`. So a product with
//! `low + λ·high` takes 64 doublings, one sum for both halves. Both halves are below λ, and `λ·2^64` is below the group's
//! order: powers of other halves are other numbers.

use blst::{blst_fp, blst_p1};
use blstrs::{G1Affine, G1Projective, Scalar};
use group::Group;
use group::prime::PrimeCurveAffine;
use rand_core::{OsRng, RngCore};

use super::coordinates::Coordinates;
use super::curve::{Curve, G1};
use super::field::{Field as _, Fp};

/// As blst has numbers.
const BETA: Fp = Fp(blst_fp {
    l: [
        0xcd03_c9e4_8671_f071,
        0x5dab_2246_1fcd_a5d2,
        0x5870_42af_d385_1b95,
        0x8eb6_0ebe_01ba_cb9e,
        0x03f9_7d6e_83d0_50d2,
        0x18f0_2065_5463_8741,
    ],
});
const LAMBDA: u128 = 0xac45_a401_0001_a402_0000_0000_ffff_ffff;

/// `low + λ·high`, not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Power {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Power {
    pub(super) const ONE: Power = Power { low: 1, high: 0 };

    /// Powers that nobody could foresee.
    pub(super) fn draw(count: usize) -> Vec<Power> {
        let mut bytes = vec![0; 16 * count];
        OsRng.fill_bytes(&mut bytes);
        let power = |bytes: &[u8; 16]| {
            let both = u128::from_le_bytes(*bytes);
            // A power of zero would leave its proof out.
            if both == 0 { Power::ONE } else { Power { low: both as u64, high: (both >> 64) as u64 } }
        };
        bytes.as_chunks().0.iter().map(power).collect()
    }

    pub(super) fn scalar(self) -> Scalar {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&LAMBDA.to_le_bytes());
        let lambda =
            Scalar::from_bytes_le(&bytes).into_option().expect("128 bits are below the group's order");
        Scalar::from(self.low) + lambda * Scalar::from(self.high)
    }
}

/// `λ` times a point of G1.
pub(super) fn times_lambda(point: &G1Affine) -> G1Affine {
    let Coordinates { x, y } = *G1::coordinates(point);
    G1::at(&Coordinates { x: x.times(&BETA), y })
}

/// Bits of a window: its digits are zero or odd, and below 8 in magnitude.
const WINDOW: u32 = 4;
/// Odd multiples of each point.
const MULTIPLES: usize = 1 << (WINDOW - 2);

/// Each point of G1 times its power.
pub(super) fn products(points: &[G1Affine], powers: &[Power]) -> Vec<G1Affine> {
    let mut odd = Vec::with_capacity(MULTIPLES * points.len());
    for point in points {
        let mut multiple = point.to_curve();
        let twice = multiple.double();
        odd.push(multiple);
        for _ in 1..MULTIPLES {
            multiple += twice;
            odd.push(multiple);
        }
    }
    let odd = G1::normalize(&odd);
    let products: Vec<G1Projective> =
        odd.as_chunks().0.iter().zip(powers).map(|(odd, power)| product(odd, *power)).collect();
    G1::normalize(&products)
}

fn product(odd: &[G1Affine; MULTIPLES], power: Power) -> G1Projective {
    let turned = odd.each_ref().map(times_lambda);
    let digits = [digits(power.low), digits(power.high)];
    let mut sum = G1Projective::identity();
    for place in (0..=64).rev() {
        double(sum.as_mut());
        for (digits, multiples) in digits.iter().zip([odd, &turned]) {
            let digit = digits[place];
            if digit != 0 {
                let point = multiples[usize::from(digit.unsigned_abs() / 2)];
                sum += if digit < 0 { -point } else { point };
            }
        }
    }
    sum
}

fn double(point: &mut blst_p1) {
    let whole = *point;
    // SAFETY: reads a point, writes one.
    unsafe { blst::blst_p1_double(point, &whole) };
}

/// Digits of a number, each odd or zero, with `WINDOW - 1` zeros after each that is not.
fn digits(number: u64) -> [i8; 65] {
    let (mut rest, mut digits) = (u128::from(number), [0; 65]);
    for digit in &mut digits {
        if rest & 1 == 1 {
            let low = (rest & ((1 << WINDOW) - 1)) as i8;
            *digit = if low < 1 << (WINDOW - 1) { low } else { low - (1 << WINDOW) };
            rest = rest.wrapping_sub_signed((*digit).into());
        }
        rest >>= 1;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use group::Curve as _;

    #[test]
    fn products_are_those_by_scalars() {
        let ends = [0, 1, 7, 8, 15, 1 << 63, u64::MAX - 7, u64::MAX];
        let mut powers: Vec<Power> =
            ends.iter().flat_map(|&low| ends.map(|high| Power { low, high })).skip(1).collect();
        powers.extend(Power::draw(50));
        let points: Vec<G1Affine> = (0..powers.len() as u64)
            .map(|index| (G1Affine::generator() * Scalar::from(index + 3)).to_affine())
            .collect();
        for ((point, power), product) in points.iter().zip(&powers).zip(products(&points, &powers)) {
            assert_eq!(product.to_curve(), point * power.scalar(), "{power:?}");
        }
        assert_eq!(times_lambda(&points[5]).to_curve(), points[5] * Power { low: 0, high: 1 }.scalar());
    }

    #[test]
    fn digits_are_odd_and_far_apart() {
        for Power { low, high } in Power::draw(100).into_iter().chain([Power { low: u64::MAX, high: 0 }]) {
            for number in [low, high] {
                let digits = digits(number);
                let sum = digits.iter().rev().fold(0i128, |sum, digit| 2 * sum + i128::from(*digit));
                assert_eq!(sum, number.into());
                let places: Vec<usize> = (0..65).filter(|place| digits[*place] != 0).collect();
                assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= WINDOW as usize));
                assert!(digits.iter().all(|digit| *digit == 0 || digit % 2 != 0 && digit.unsigned_abs() < 8));
            }
        }
    }
}
