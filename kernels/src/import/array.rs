//! Where the elements of a tensor come from: what every operator does that only moves data, for constants and computed
//! values alike.

use super::constant::BATCH;

/// A dimension: its length, or the batch of a computed value.
pub(super) type Dimension = Option<u32>;

/// More elements are refused before anything is allocated.
const MAX_ELEMENTS: usize = 1 << 26;
/// ONNX's dimensions with the batch among them.
const MAX_RANK: usize = 9;

/// Dimensions, and for each element its index in the source; -1 is a constant. The batch counts as one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) dimensions: Vec<Dimension>,
    pub(super) indices: Vec<i32>,
}

/// What lies beyond the ends of a padded dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    Constant,
    /// The element at the end.
    Edge,
    /// What lies as far from the end inwards.
    Reflect,
    /// What lies as far from the other end.
    Wrap,
}

impl Padding {
    /// Which of `length` elements stands at `place`, counted from the first of them.
    fn source(self, place: i64, length: i64) -> Option<usize> {
        if length == 0 {
            return None;
        }
        let inside = match self {
            Padding::Constant => place,
            Padding::Edge => place.clamp(0, length - 1),
            Padding::Reflect => {
                let period = (2 * (length - 1)).max(1);
                let place = place.rem_euclid(period);
                place.min(period - place)
            }
            Padding::Wrap => place.rem_euclid(length),
        };
        usize::try_from(inside).ok().filter(|&inside| (inside as i64) < length)
    }
}

/// A length in a shape that was computed: so many for each row, if it was computed from the number of rows.
pub(super) fn length_of(length: i64) -> Option<u32> {
    let per_row = if length % BATCH == 0 { length / BATCH } else { length };
    u32::try_from(per_row).ok().filter(|&length| length > 0)
}

/// The number of elements, if it is within bounds.
pub(super) fn len_of(dimensions: &[Dimension]) -> Option<usize> {
    let product =
        dimensions.iter().flatten().try_fold(1usize, |product, &length| product.checked_mul(length as usize));
    product.filter(|&len| len <= MAX_ELEMENTS && dimensions.len() <= MAX_RANK)
}

fn lengths(dimensions: &[Dimension]) -> Vec<usize> {
    dimensions.iter().map(|dimension| dimension.unwrap_or(1) as usize).collect()
}

impl Array {
    /// All elements in their order.
    pub(super) fn whole(dimensions: Vec<Dimension>) -> Option<Array> {
        let indices = (0..len_of(&dimensions)? as i32).collect();
        Some(Array { dimensions, indices })
    }

    /// The elements of a result, each found by its place along every dimension.
    fn select(&self, dimensions: Vec<Dimension>, find: impl Fn(&[usize]) -> Option<usize>) -> Option<Array> {
        let len = len_of(&dimensions)?;
        let lengths = lengths(&dimensions);
        let mut places = vec![0; lengths.len()];
        let mut indices = Vec::with_capacity(len);
        for _ in 0..len {
            indices.push(find(&places).map_or(-1, |at| self.indices[at]));
            for (place, &length) in places.iter_mut().zip(&lengths).rev() {
                *place += 1;
                if *place < length {
                    break;
                }
                *place = 0;
            }
        }
        Some(Array { dimensions, indices })
    }

    /// How far apart neighbours along each dimension lie.
    fn strides(&self) -> Vec<usize> {
        let mut strides = lengths(&self.dimensions);
        let mut step = 1;
        for stride in strides.iter_mut().rev() {
            step *= std::mem::replace(stride, step);
        }
        strides
    }

    /// `order` is a permutation of the dimensions.
    pub(super) fn transposed(&self, order: &[usize]) -> Option<Array> {
        let strides = self.strides();
        let dimensions = order.iter().map(|&axis| self.dimensions[axis]).collect();
        self.select(dimensions, |places| {
            Some(places.iter().zip(order).map(|(place, &axis)| place * strides[axis]).sum())
        })
    }

    /// The given indices along `axis`, in the shape `shape` in its place.
    pub(super) fn taken(&self, axis: usize, chosen: &[usize], shape: &[Dimension]) -> Option<Array> {
        let strides = self.strides();
        let dimensions = [&self.dimensions[..axis], shape, &self.dimensions[axis + 1..]].concat();
        let own = lengths(shape);
        self.select(dimensions, |places| {
            let (before, rest) = places.split_at(axis);
            let (within, after) = rest.split_at(shape.len());
            let at = within.iter().zip(&own).fold(0, |at, (place, length)| at * length + place);
            let sum = |places: &[usize], strides: &[usize]| {
                places.iter().zip(strides).map(|(place, stride)| place * stride).sum::<usize>()
            };
            Some(sum(before, &strides) + chosen[at] * strides[axis] + sum(after, &strides[axis + 1..]))
        })
    }

    /// Elements before and after, along each dimension; a negative number of them cuts.
    pub(super) fn padded(&self, before: &[i64], after: &[i64], padding: Padding) -> Option<Array> {
        let strides = self.strides();
        let own = lengths(&self.dimensions);
        let mut dimensions = self.dimensions.clone();
        for (axis, dimension) in dimensions.iter_mut().enumerate() {
            if let Some(length) = dimension {
                let padded = i64::from(*length).checked_add(before[axis])?.checked_add(after[axis])?;
                *length = u32::try_from(padded).ok().filter(|&padded| padded > 0)?;
            }
        }
        self.select(dimensions, |places| {
            let mut at = 0;
            for (axis, &place) in places.iter().enumerate() {
                let place = (place as i64).checked_sub(before[axis])?;
                at += padding.source(place, own[axis] as i64)? * strides[axis];
            }
            Some(at)
        })
    }

    /// Repeated along dimensions of length 1, and along new ones before the first, by ONNX's rule of broadcasting.
    pub(super) fn expanded(&self, to: &[Dimension]) -> Option<Array> {
        let missing = to.len().checked_sub(self.dimensions.len())?;
        let fits = |(own, to): (&Dimension, &Dimension)| own == to || *own == Some(1) && to.is_some();
        if !self.dimensions.iter().zip(&to[missing..]).all(fits) {
            return None;
        }
        let (strides, own) = (self.strides(), lengths(&self.dimensions));
        self.select(to.to_vec(), |places| {
            let places = places[missing..].iter().zip(&own).zip(&strides);
            Some(places.map(|((place, &own), stride)| if own == 1 { 0 } else { place * stride }).sum())
        })
    }

    /// Several arrays one after the other along `axis`, over sources that lie one after the other: each with the number
    /// of elements of its source.
    pub(super) fn joined(parts: &[(Array, usize)], axis: usize) -> Option<Array> {
        let (first, _) = parts.first()?;
        let mut dimensions = first.dimensions.clone();
        let mut total = 0u32;
        for (part, _) in parts {
            let alike = part.dimensions.len() == dimensions.len()
                && part
                    .dimensions
                    .iter()
                    .zip(&dimensions)
                    .enumerate()
                    .all(|(at, (a, b))| at == axis || a == b);
            if !alike {
                return None;
            }
            total = total.checked_add((*part.dimensions.get(axis)?)?)?;
        }
        dimensions[axis] = Some(total);
        let len = len_of(&dimensions)?;
        let outer: usize = lengths(&dimensions[..axis]).iter().product();
        let mut indices = Vec::with_capacity(len);
        for at in 0..outer {
            let mut source = 0;
            for (part, elements) in parts {
                let run = part.indices.len() / outer;
                let shifted = |&index: &i32| if index < 0 { index } else { index + source as i32 };
                indices.extend(part.indices[at * run..(at + 1) * run].iter().map(shifted));
                source += elements;
            }
            if i32::try_from(source).is_err() {
                return None;
            }
        }
        Some(Array { dimensions, indices })
    }

    /// The same elements in their order, if there are as many.
    pub(super) fn reshaped(mut self, dimensions: Vec<Dimension>) -> Option<Array> {
        (len_of(&dimensions)? == self.indices.len()).then(|| {
            self.dimensions = dimensions;
            self
        })
    }
}

/// The dimensions that a Reshape to `target` gives: 0 keeps a dimension, -1 is what is left, and the batch, which
/// [`BATCH`] stands for too, must stay between the same elements.
pub(super) fn reshaped(from: &[Dimension], target: &[i64]) -> Option<Vec<Dimension>> {
    let len = len_of(from)?;
    if target.len() > MAX_RANK || target.iter().filter(|&&length| length == -1).count() > 1 {
        return None;
    }
    let batch = from.iter().position(Option::is_none);
    let kept = |index: usize| match target[index] {
        0 => from.get(index).copied(),
        -1 => Some(Some(1)),
        BATCH if batch.is_some() => Some(None),
        BATCH => Some(Some(1)),
        length => u32::try_from(length).ok().filter(|&length| length > 0).map(Some),
    };
    let mut to: Vec<Dimension> = (0..target.len()).map(kept).collect::<Option<_>>()?;
    if to.iter().filter(|dimension| dimension.is_none()).count() > 1 {
        return None;
    }
    let mut unknown = target.iter().position(|&length| length == -1);
    if let Some(batch) = batch
        && to.iter().all(Option::is_some)
    {
        // -1 or 1 stand for it, after as many elements as before.
        let before = len_of(&from[..batch])?;
        let fits = |index: usize, wanted: i64| {
            let product = len_of(&to[..index]);
            target[index] == wanted && product == Some(before) && unknown.is_none_or(|at| at >= index)
        };
        let place = |wanted: i64| (0..target.len()).find(|&index| fits(index, wanted));
        // With what is left given too, -1 is the batch.
        let rest = unknown.is_some() && len_of(&to) == Some(len);
        let chosen = if rest { place(-1) } else { place(1) }.or_else(|| place(-1)).or_else(|| place(1))?;
        to[chosen] = None;
        unknown = unknown.filter(|&at| at != chosen);
    }
    if let Some(index) = unknown {
        let known = len_of(&to)?;
        if known == 0 || !len.is_multiple_of(known) {
            return None;
        }
        to[index] = Some(u32::try_from(len / known).ok().filter(|&length| length > 0)?);
    }
    let place = |dimensions: &[Dimension]| {
        let batch = dimensions.iter().position(Option::is_none)?;
        len_of(&dimensions[..batch])
    };
    (len_of(&to) == Some(len) && place(&to) == place(from)).then_some(to)
}

/// The dimensions that a Reshape to `target` gives where the batch becomes part of another dimension, as exporters of
/// attention have it (batch times heads), and where it becomes one of its own again: [`BATCH`], -1 or 1 then stand for it.
pub(super) fn merged(from: &[Dimension], target: &[i64]) -> Option<Vec<Dimension>> {
    let len = len_of(from)?;
    if target.len() > MAX_RANK || target.iter().filter(|&&length| length == -1).count() > 1 {
        return None;
    }
    let given = |(index, &length): (usize, &i64)| match length {
        0 => from.get(index).map(|length| length.unwrap_or(1)),
        -1 => Some(1),
        length => length_of(length),
    };
    let mut to: Vec<Dimension> =
        target.iter().enumerate().map(|length| given(length).map(Some)).collect::<Option<_>>()?;
    let unknown = target.iter().position(|&length| length == -1);
    if let Some(index) = unknown {
        let known = len_of(&to)?;
        let rest = u32::try_from(len / known).ok().filter(|_| len.is_multiple_of(known))?;
        to[index] = Some(rest).filter(|&rest| rest > 0)?.into();
    }
    let apart = !from.contains(&None);
    let named = target.iter().position(|&length| length == BATCH);
    let batch = named.or(unknown).or_else(|| to.iter().position(|&length| length == Some(1)));
    if let Some(index) = batch.filter(|&index| apart && to[index] == Some(1)) {
        to[index] = None;
    }
    (len_of(&to)? == len).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lengths: &[u32]) -> Vec<Dimension> {
        std::iter::once(None).chain(lengths.iter().copied().map(Some)).collect()
    }

    #[test]
    fn the_batch_stays_where_it_is_in_a_reshape() {
        assert_eq!(reshaped(&row(&[6]), &[-1, 2, 3]), Some(row(&[2, 3])));
        assert_eq!(reshaped(&row(&[2, 3]), &[0, -1]), Some(row(&[6])));
        assert_eq!(reshaped(&row(&[2, 3]), &[1, 0, 3]), Some(row(&[2, 3])));
        assert_eq!(reshaped(&row(&[2, 3]), &[1, -1]), Some(row(&[6])));
        assert_eq!(reshaped(&row(&[1]), &[-1]), Some(row(&[])));
        assert_eq!(reshaped(&row(&[6]), &[BATCH, -1, 3]), Some(row(&[2, 3])));
        assert_eq!(reshaped(&row(&[1, 3]), &[BATCH, BATCH, 3]), None);
        assert_eq!(reshaped(&row(&[3]), &[BATCH + 1, 3]), None);
        assert_eq!(reshaped(&[Some(6)], &[BATCH, 2, 3]), Some(vec![Some(1), Some(2), Some(3)]));
        assert_eq!(reshaped(&row(&[6]), &[-1]), None);
        assert_eq!(reshaped(&row(&[6]), &[2, 3]), None);
        assert_eq!(reshaped(&row(&[6]), &[-1, -1]), None);
        assert_eq!(reshaped(&row(&[6]), &[0, i64::MAX, i64::MAX]), None);
        // Steps, batch, one direction, units: what exporters put behind a recurrent layer.
        let steps = [Some(5), None, Some(1), Some(4)];
        assert_eq!(reshaped(&steps, &[5, -1, 4]), Some(vec![Some(5), None, Some(4)]));
        assert_eq!(reshaped(&steps, &[-1, 20]), None);
        assert_eq!(reshaped(&[Some(2), Some(3)], &[3, -1]), Some(vec![Some(3), Some(2)]));
    }

    #[test]
    fn the_batch_may_become_part_of_a_dimension_and_leave_it_again() {
        // Positions, batch, heads of 16: batch and heads together, and apart.
        let steps = [Some(32), None, Some(32)];
        let together = vec![Some(32), Some(2), Some(16)];
        assert_eq!(merged(&steps, &[32, -1, 16]), Some(together));
        let turned = [Some(2), Some(32), Some(16)];
        assert_eq!(merged(&turned, &[-1, 2, 32, 16]), Some(vec![None, Some(2), Some(32), Some(16)]));
        assert_eq!(merged(&turned, &[1, 2, 32, 16]), Some(vec![None, Some(2), Some(32), Some(16)]));
        assert_eq!(merged(&steps, &[-1, 32]), Some(vec![Some(32), Some(32)]));
        assert_eq!(merged(&[Some(32), Some(32)], &[32, -1, 32]), Some(steps.to_vec()));
        // What is computed from the number of rows says so.
        assert_eq!(merged(&steps, &[32, 2 * BATCH, 16]), Some(vec![Some(32), Some(2), Some(16)]));
        assert_eq!(merged(&turned, &[BATCH, 2, -1, 16]), Some(vec![None, Some(2), Some(32), Some(16)]));
        assert_eq!(merged(&[Some(1), Some(6)], &[1, BATCH, 6]), Some(vec![Some(1), None, Some(6)]));
        assert_eq!(merged(&steps, &[-1, 7]), None);
        assert_eq!(merged(&steps, &[-1, -1]), None);
        assert_eq!(merged(&steps, &[i64::MAX, i64::MAX]), None);
    }

    #[test]
    fn arrays_are_taken_apart_and_put_together_as_onnx_says() {
        let array = Array::whole(vec![None, Some(2), Some(3)]).unwrap();
        assert_eq!(array.transposed(&[0, 2, 1]).unwrap().indices, [0, 3, 1, 4, 2, 5]);
        let taken = array.taken(2, &[2, 0], &[Some(2)]).unwrap();
        assert_eq!((&taken.indices[..], &taken.dimensions[..]), (&[2, 0, 5, 3][..], &row(&[2, 2])[..]));
        assert_eq!(array.taken(1, &[1], &[]).unwrap().indices, [3, 4, 5]);
        let padded = array.padded(&[0, 0, 1], &[0, 1, 0], Padding::Constant).unwrap();
        assert_eq!(padded.indices, [-1, 0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1]);
        let four = Array::whole(vec![Some(4)]).unwrap();
        let of =
            |before, after, padding| four.padded(&[before], &[after], padding).map(|array| array.indices);
        assert_eq!(of(-1, 1, Padding::Constant).unwrap(), [1, 2, 3, -1]);
        assert_eq!(of(2, 1, Padding::Edge).unwrap(), [0, 0, 0, 1, 2, 3, 3]);
        assert_eq!(of(2, 1, Padding::Reflect).unwrap(), [2, 1, 0, 1, 2, 3, 2]);
        assert_eq!(of(2, 1, Padding::Wrap).unwrap(), [2, 3, 0, 1, 2, 3, 0]);
        assert_eq!(of(-2, -2, Padding::Constant), None, "nothing is left");
        assert_eq!(of(i64::MAX, i64::MAX, Padding::Edge), None);
        let column = Array::whole(vec![None, Some(2), Some(1)]).unwrap();
        assert_eq!(column.expanded(&row(&[2, 2])).unwrap().indices, [0, 0, 1, 1]);
        assert!(array.expanded(&row(&[2, 4])).is_none());
        let joined = Array::joined(&[(column, 2), (array, 6)], 2).unwrap();
        assert_eq!(joined.indices, [0, 2, 3, 4, 1, 5, 6, 7]);
    }

    #[test]
    fn beside_nothing_there_is_nothing_to_repeat() {
        for padding in [Padding::Constant, Padding::Edge, Padding::Reflect, Padding::Wrap] {
            assert!((-2..3).all(|place| padding.source(place, 0).is_none()));
        }
    }
}
