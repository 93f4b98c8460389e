//! Recurrent layers: their gates, and a step of a unit.

use haca_kernels::random::{Choices, Kind};
use haca_kernels::spec::gate;
use haca_kernels::view::{Cell, Recurrent};

use super::super::recurrent::{Argument, recurrent};
use super::bits::mutate_bits;
use super::gadgets::{NONE, all_needed, bits, of_one};
use super::*;

#[test]
fn every_constraint_of_a_gate_beyond_bits_is_needed() {
    let sigmoid = |builder: &mut Builder, x: &Number| builder.gate_sigmoid(&Argument::new(x.clone(), 2));
    let tanh = |builder: &mut Builder, x: &Number| builder.gate_tanh(&Argument::new(x.clone(), 2));
    let arguments = [-140_001, -3, 9_001, 131_073];
    assert_eq!(of_one(sigmoid, &arguments, (-150_000, 150_000), bits), all_needed(94));
    assert_eq!(of_one(tanh, &arguments, (-150_000, 150_000), bits), all_needed(89));
}

/// Arguments after the shift for which a bit that is free has somewhere to go: next to where the last rounding of the
/// polynomial goes up, in the middle of a segment, so that a part of the first rounding's unit tells; at the beginning of a
/// segment that is followed by one of twice the index; and where the function bends.
fn telling() -> Vec<i128> {
    let segments = gate::SEGMENTS.iter().zip(0i128..);
    let middles = segments.filter_map(|(&[_, c1, c2], segment)| {
        let (c1, c2, t) = (i128::from(c1), i128::from(c2), 1i128 << (gate::LOCAL_BITS - 1));
        let rise = (c1 + ((c2 * t + (1 << 8)) >> 9)) * t + (1 << 10);
        let distance = rise.rem_euclid(1 << 11);
        (!(128..(1 << 11) - 128).contains(&distance)).then_some((segment << gate::LOCAL_BITS) + t)
    });
    let beginnings = (1..7).map(|bit| 1 << (gate::LOCAL_BITS + bit));
    let arguments: Vec<i128> = middles.chain(beginnings).chain([3, 2048, 2250, 5001]).collect();
    arguments.into_iter().flat_map(|argument| [argument, -argument]).collect()
}

#[test]
fn every_bit_of_a_gate_is_needed() {
    let sigmoid = |builder: &mut Builder, x: &Number| builder.gate_sigmoid(&Argument::new(x.clone(), 2));
    let tanh = |builder: &mut Builder, x: &Number| builder.gate_tanh(&Argument::new(x.clone(), 2));
    let arguments: Vec<i128> = telling().into_iter().map(|argument| 4 * argument + 1).collect();
    assert_eq!(mutate_bits(sigmoid, &arguments, (-150_000, 150_000)), NONE);
    assert_eq!(mutate_bits(tanh, &arguments, (-150_000, 150_000)), NONE);
}

/// Arguments that are cut off before the half of a sigmoid could saturate: other bits prove its roundings.
#[test]
fn every_bit_of_a_gate_whose_argument_is_cut_off_early_is_needed() {
    for limit in [1 << 9, 1 << 12] {
        let argument = |x: &Number| Argument::new(x.clone(), 2).cut_off_at(limit);
        let sigmoid = |builder: &mut Builder, x: &Number| builder.gate_sigmoid(&argument(x));
        let inside = telling().into_iter().filter(|argument| argument.abs() < limit);
        let arguments: Vec<i128> = inside.map(|argument| 4 * argument + 1).collect();
        let bounds = (-150_000, 150_000);
        assert_eq!(of_one(sigmoid, &[-140_001, -3, 1_001, 131_073], bounds, bits).redundant, NONE, "{limit}");
        // That the whole system accepts no forgery is seen on the way.
        mutate_bits(sigmoid, &arguments, bounds);
    }
}

/// A random layer of one unit and one step.
fn layer(model: &Model, cell: Cell) -> Option<Recurrent<'_>> {
    let mut nodes = model.nodes();
    match (nodes.next()?.operation, nodes.next()) {
        (Operation::Recurrent(layer), None) => {
            let is_small = layer.hidden() == 1 && layer.features() == model.input_len();
            (layer.cell() == cell && is_small).then_some(layer)
        }
        _ => None,
    }
}

/// Of a gate whose argument is beyond its table, nothing depends on the table. So the layer with a row for which the fewest
/// are, and of its rows those for which the fewest and the most are.
fn unit(cell: Cell) -> (Model, Vec<Vec<i128>>) {
    let mut best = (0, None);
    for seed in 0..SEEDS {
        let mut choices = Choices::new(seed);
        let model = Model::load(&Kind::Recurrent.file(&mut choices)).unwrap();
        let Some(layer) = layer(&model, cell) else { continue };
        let mut rows: Vec<(usize, Vec<i128>)> = (0..100)
            .map(|_| {
                let row: Vec<i128> = (0..model.input_len())
                    .map(|_| choices.between(i16::MIN.into(), i16::MAX.into()).into())
                    .collect();
                let mut builder = Builder::values();
                let x: Vec<Number> = row
                    .iter()
                    .map(|&value| builder.variable(value, i16::MIN.into(), i16::MAX.into()))
                    .collect();
                recurrent(&mut builder, &layer, &x);
                (builder.free.len(), row)
            })
            .collect();
        rows.sort();
        rows.reverse();
        if rows[0].0 > best.0 {
            let most = rows[0].0;
            let ends = [0, 1, 98, 99].map(|row| rows[row].1.clone());
            best = (most, Some((seed, ends.to_vec())));
        }
    }
    let (seed, rows) = best.1.expect("a seed has such a layer");
    (Model::load(&Kind::Recurrent.file(&mut Choices::new(seed))).unwrap(), rows)
}

const SEEDS: u64 = 6000;

fn gates_and_bits(system: &Fixed<'_>, row: usize) -> bool {
    bits(system, row) || system.gates.iter().any(|gate| gate.contains(&row))
}

fn check(cell: Cell) {
    let (model, rows) = unit(cell);
    let layer = layer(&model, cell).expect("it was chosen so");
    let gadget: Gadget<'_> = &|builder, x| recurrent(builder, &layer, x);
    let bounds = vec![(i16::MIN.into(), i16::MAX.into()); model.input_len()];
    let rows: Vec<&[i128]> = rows.iter().map(|row| &row[..]).collect();
    assert_eq!(mutate(gadget, &rows, &bounds, gates_and_bits).redundant, NONE);
}

#[test]
fn every_constraint_of_an_lstm_unit_beyond_gates_and_bits_is_needed() {
    check(Cell::Lstm);
}

#[test]
fn every_constraint_of_a_gru_unit_beyond_gates_and_bits_is_needed() {
    check(Cell::Gru);
}
