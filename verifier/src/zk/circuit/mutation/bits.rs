//! Bits within a gadget that is made of others. What a free bit lets through may be a fraction, which a rounding after it
//! refuses: so the forger gives the other bits of the number values of its choice, the free one what the number then needs,
//! and computes in the field all that follows. It may choose among arguments for which that comes out as integers.

use ff::Field;
use rayon::prelude::*;

use super::gadgets::bits;
use super::repair::{powers, repair};
use super::*;

/// Drops each constraint of a bit in turn, over these arguments; those that no forger profits from.
pub(super) fn mutate_bits(
    gadget: impl Fn(&mut Builder, &Number) -> Number + Sync,
    arguments: &[i128],
    bounds: (i128, i128),
) -> Vec<usize> {
    let gadget: Gadget<'_> = &|builder, x| vec![gadget(builder, &x[0])];
    let bounds = [bounds];
    let systems: Vec<Fixed<'_>> =
        arguments.chunks(1).map(|argument| Fixed::new(gadget, argument, &bounds)).collect();
    let needed = |dropped: usize| systems.iter().any(|system| system.forges_bit(dropped));
    let rows = (0..systems[0].rows.len()).into_par_iter();
    rows.filter(|dropped| bits(&systems[0], *dropped) && !needed(*dropped)).collect()
}

impl Fixed<'_> {
    fn forges_bit(&self, dropped: usize) -> bool {
        match self.rows[dropped][0][..] {
            [(variable, _)] => self.raises(variable, dropped) || self.exchanges(variable, dropped),
            // The top bit is what the others leave of the number.
            _ => self.of(dropped).into_iter().filter(|bit| self.bits.contains(bit)).any(|bit| {
                let mut values = self.honest.clone();
                values[bit] = Scalar::ONE - values[bit];
                repair(self, &mut values, bit, dropped, Some(dropped));
                self.accepts(&values, dropped)
            }),
        }
    }

    /// The bit is more or less by a power of two, with all other bits of its number as they are: a remainder of which the
    /// result is what it leaves.
    fn raises(&self, variable: usize, dropped: usize) -> bool {
        powers().into_iter().any(|change| {
            let mut values = self.honest.clone();
            values[variable] += change;
            repair(self, &mut values, variable, dropped, None);
            self.accepts(&values, dropped)
        })
    }

    /// Other bits of the number changed, and this one what it then needs.
    fn exchanges(&self, variable: usize, dropped: usize) -> bool {
        let occurs = |side: &[(usize, Scalar)]| side.iter().any(|(other, _)| *other == variable);
        let takes = |row: &usize| self.rows[*row].iter().any(|side| occurs(side));
        let Some(row) = (dropped + 1..self.rows.len()).find(takes) else { return false };
        let is_other = |other: &usize| *other != variable && self.bits.contains(other);
        let others: Vec<usize> = self.of(row).into_iter().filter(is_other).collect();
        let flipped = others.iter().map(|&bit| vec![(bit, Scalar::ONE - self.honest[bit])]);
        // All bits but one are zero: the least numbers.
        let least = others.iter().map(|&one| {
            others.iter().map(|&bit| (bit, if bit == one { Scalar::ONE } else { Scalar::ZERO })).collect()
        });
        flipped.chain(least).any(|changes: Vec<(usize, Scalar)>| {
            [false, true].into_iter().any(|opposite| {
                let mut values = self.honest.clone();
                changes.iter().for_each(|&(bit, value)| values[bit] = value);
                self.solve(row, variable, opposite, &mut values) && {
                    repair(self, &mut values, variable, dropped, Some(row));
                    self.accepts(&values, dropped)
                }
            })
        })
    }
}
