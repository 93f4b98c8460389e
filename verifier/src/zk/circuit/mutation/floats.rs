//! Floats, their integers and their keys.

use super::*;

/// Of a gadget on the bits of floats.
fn of_floats(gadget: impl Fn(&mut Builder, &Number) -> Number + Sync, floats: &[f32]) -> Found {
    let words: Vec<i128> = floats.iter().map(|float| float.to_bits().into()).collect();
    let rows: Vec<&[i128]> = words.chunks(1).collect();
    mutate(&|builder, x| vec![gadget(builder, &x[0])], &rows, &[(0, u32::MAX.into())], |_, _| false)
}

/// What refuses a float that is no number, which none of these is: tests of the statement drop it.
const NUMBER: usize = 32;

#[test]
fn every_constraint_of_a_key_is_needed() {
    let gadget = |builder: &mut Builder, word: &Number| {
        let float = builder.float(word);
        builder.key(&float)
    };
    let found = of_floats(gadget, &[0.0, 1.5, -2.25, f32::INFINITY, -1e-40]);
    assert_eq!(found, Found { constraints: 35, redundant: vec![NUMBER] });
}

#[test]
fn every_constraint_of_a_conversion_is_needed() {
    let gadget = |builder: &mut Builder, word: &Number| {
        let float = builder.float(word);
        builder.quantized(&float, 0, -7, 7)
    };
    let floats =
        [0.0, 0.5, 1.5, -2.5, 2.75, 6.5, -7.5, 7.75, 9.0, 1e9, 0.25, 3.000_001, f32::INFINITY, -1e-40];
    let found = of_floats(gadget, &floats);
    assert_eq!(found, Found { constraints: 83, redundant: vec![NUMBER] });
}
