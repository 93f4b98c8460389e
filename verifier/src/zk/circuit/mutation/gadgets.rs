//! The gadgets, each small.

use haca_kernels::view::{Activation, LayerNorm, Requantize, Softmax};

use super::*;

fn rule(shift: i32, minimum: i64, maximum: i64) -> Requantize {
    Requantize { shift, minimum, maximum }
}

pub(super) fn none(_: &Fixed<'_>, _: usize) -> bool {
    false
}

/// Bits of numbers within a gadget that is made of others: the tests of ranges drop these. What one of them lets through may
/// be a fraction, which a rounding after it refuses; a forger would have to solve for all at once.
pub(super) fn bits(system: &Fixed<'_>, row: usize) -> bool {
    system.is_of_a_bit(row)
}

/// Of a gadget with one argument.
pub(super) fn of_one(
    gadget: impl Fn(&mut Builder, &Number) -> Number + Sync,
    arguments: &[i128],
    bounds: (i128, i128),
    skipped: fn(&Fixed<'_>, usize) -> bool,
) -> Found {
    let rows: Vec<&[i128]> = arguments.chunks(1).collect();
    mutate(&|builder, x| vec![gadget(builder, &x[0])], &rows, &[bounds], skipped)
}

pub(super) const NONE: Vec<usize> = Vec::new();

pub(super) fn all_needed(constraints: usize) -> Found {
    Found { constraints, redundant: NONE }
}

#[test]
fn every_constraint_of_a_rounding_shift_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.requantize(x, rule(2, -100, 100));
    assert_eq!(of_one(gadget, &[-30, 5, 6, 17, 32], (-60, 60), none), all_needed(8));
}

#[test]
fn every_constraint_of_relu_with_saturation_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.requantize(x, rule(2, 0, 7));
    assert_eq!(of_one(gadget, &[-30, -5, 6, 17, 24, 50, 61, 40], (-64, 255), none), all_needed(15));
}

#[test]
fn every_constraint_of_saturation_from_above_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.requantize(x, rule(2, 0, 7));
    assert_eq!(of_one(gadget, &[0, 6, 17, 24, 50, 61, 40, 200], (0, 255), none), all_needed(13));
}

#[test]
fn every_constraint_of_two_sided_saturation_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.requantize(x, rule(2, -7, 7));
    let arguments = [-50, -30, -5, 6, 9, 17, 24, 50, 61, 100];
    assert_eq!(of_one(gadget, &arguments, (-128, 124), none), all_needed(15));
}

#[test]
fn every_constraint_of_a_clamp_is_needed() {
    let upper = |builder: &mut Builder, x: &Number| builder.clamp(x, -100, 9);
    assert_eq!(of_one(upper, &[-12, 0, 3, 9, 10, 15], (-16, 15), none), all_needed(8));
    let lower = |builder: &mut Builder, x: &Number| builder.clamp(x, -5, 100);
    assert_eq!(of_one(lower, &[-12, -6, -5, 0, 3, 15], (-16, 15), none), all_needed(8));
}

#[test]
fn every_constraint_of_a_look_up_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| {
        let bits = builder.bits(x, 0, 4);
        let [entry] = builder.look_up(&bits, [(0..16).map(|index| index * index % 11).collect()]);
        entry
    };
    assert_eq!(of_one(gadget, &[0, 3, 6, 9, 12, 15, 5, 10], (0, 15), none), all_needed(10));
}

#[test]
fn every_constraint_of_the_largest_and_its_index_is_needed() {
    let rows: [&[i128]; 6] = [&[3, -7, 5], &[5, 5, 2], &[-8, 7, 7], &[2, 1, 0], &[0, 1, 2], &[4, 4, 4]];
    let bounds = [(-8, 7); 3];
    let largest: Gadget<'_> = &|builder, x| vec![builder.largest(x)];
    assert_eq!(mutate(largest, &rows, &bounds, none), all_needed(13));
    let index: Gadget<'_> = &|builder, x| largest::indices(builder, x, 3, 1);
    assert_eq!(mutate(index, &rows, &bounds, none), all_needed(13));
}

#[test]
fn every_constraint_of_products_is_needed() {
    let dot: Gadget<'_> = &|builder, x| {
        let own = builder.pairs(&x[..2]).plus(&builder.pairs(&x[3..5]));
        vec![builder.dot(&x[..3], &x[3..], 2, &own)]
    };
    let rows: [&[i128]; 2] = [&[3, -7, 5, 2, 6, -1], &[0, 1, 2, 3, 0, 7]];
    assert_eq!(mutate(dot, &rows, &[(-8, 7); 6], none), all_needed(5));
}

#[test]
fn every_constraint_of_leaky_beyond_bits_is_needed() {
    let leaky = |builder: &mut Builder, x: &Number| {
        builder.activate(x, rule(1, -100, 100), Activation::Leaky(12_345))
    };
    assert_eq!(of_one(leaky, &[-90, -7, 0, 5, 80], (-100, 100), bits).redundant, NONE);
}

fn curved(function: Activation) {
    let gadget = |builder: &mut Builder, x: &Number| {
        builder.activate(x, rule(1, i16::MIN.into(), i16::MAX.into()), function)
    };
    let arguments = [-70_001, -3, 5_001, 65_537];
    assert_eq!(of_one(gadget, &arguments, (-80_000, 80_000), bits).redundant, NONE);
}

#[test]
fn every_constraint_of_sigmoid_beyond_bits_is_needed() {
    curved(Activation::Sigmoid(12));
}

#[test]
fn every_constraint_of_gelu_beyond_bits_is_needed() {
    curved(Activation::Gelu(12));
}

#[test]
fn every_constraint_of_an_exponential_beyond_bits_is_needed() {
    let gadget = |builder: &mut Builder, x: &Number| builder.exponential(x, 2);
    let arguments = [3, 70_000, 300_001, 5_000_000];
    assert_eq!(of_one(gadget, &arguments, (-100, 1 << 23), bits).redundant, NONE);
}

#[test]
fn every_constraint_of_inverses_beyond_bits_is_needed() {
    let reciprocal = |builder: &mut Builder, x: &Number| builder.reciprocal(x).factor;
    let arguments = [1, 3, 100, 1023];
    assert_eq!(of_one(reciprocal, &arguments, (1, 1023), bits).redundant, NONE);
    let root = |builder: &mut Builder, x: &Number| builder.inverse_root(x).factor;
    assert_eq!(of_one(root, &arguments, (1, 1023), bits).redundant, NONE);
}

#[test]
fn every_constraint_of_softmax_beyond_bits_is_needed() {
    let layer = Softmax { group: 2, multiplier: 94_548, shift: 4, exponent: 15, maximum: 32_767 };
    let gadget: Gadget<'_> = &|builder, x| attention::softmax(builder, layer, x);
    let rows: [&[i128]; 3] = [&[-100, 90], &[57, 20], &[20, 57]];
    // A flag of the reciprocal's look-up that none of these arguments needs.
    assert_eq!(mutate(gadget, &rows, &[(-200, 200); 2], bits).redundant, [227]);
}

#[test]
fn every_constraint_of_layer_normalisation_beyond_bits_is_needed() {
    let layer = LayerNorm {
        epsilon: 3,
        multipliers: &[1000, -700],
        offsets: &[1 << 20, 0],
        requantize: rule(18, -32_767, 32_767),
    };
    let gadget: Gadget<'_> = &|builder, x| attention::layer_norm(builder, &layer, x);
    let rows: [&[i128]; 2] = [&[-100, 90], &[57, 20]];
    // That the first two bits of an octave are not both zero: the test of inverses has arguments that need it.
    assert_eq!(mutate(gadget, &rows, &[(-200, 200); 2], bits).redundant, [31]);
}
