//! Operators of constants alone: what exporters leave of the arithmetic on shapes, masks and positions.

use crate::import::ImportError;
use crate::import::array::{Array, Dimension};
use crate::import::constant::{BATCH, Constant, of_batch};
use crate::import::graph::{Known, Reader, refuse};
use crate::import::moves::fits_constants;
use crate::import::onnx::{NodeProto, data_type};

/// Operators that are computed only where all their inputs are constants.
pub(crate) const FOLDED: &[&str] = &[
    "And",
    "Ceil",
    "Cos",
    "Equal",
    "Exp",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Log",
    "Mod",
    "Not",
    "Or",
    "Range",
    "Reciprocal",
    "ReduceProd",
    "Sin",
    "Size",
    "Sqrt",
    "Tile",
    "Trilu",
];

/// More elements than this are not computed: a Range or Tile may ask for any number.
const MAX_ELEMENTS: f64 = (1 << 23) as f64;

/// What may be made of minus infinity, and with it: masks, and bounds that are none.
fn takes_infinity(operator: &str, among_constants: bool) -> bool {
    match operator {
        "Add" | "Clip" | "Max" | "Min" | "Where" => true,
        "Cast" | "Concat" | "Expand" | "Flatten" | "Gather" | "Identity" | "Reshape" | "Shape" | "Slice"
        | "Split" | "Squeeze" | "Tile" | "Transpose" | "Trilu" | "Unsqueeze" => among_constants,
        _ => false,
    }
}

/// What may be made of the number of rows: it is moved, multiplied and divided, and shapes are taken from it.
fn takes_rows(operator: &str, index: usize, among_constants: bool) -> bool {
    match operator {
        "Cast" | "ConstantOfShape" | "Expand" | "Flatten" | "Identity" | "ReduceProd" | "Reshape"
        | "Shape" | "Size" | "Squeeze" | "Tile" | "Transpose" | "Unsqueeze" => true,
        "Concat" | "Div" | "Equal" | "Max" | "Mul" | "Where" => among_constants,
        // Of what they move, not of the places.
        "Gather" | "Slice" | "Split" => index == 0,
        _ => false,
    }
}

impl Reader {
    /// Refuses a node that would compute with the number of rows, on which no row may depend, or with minus infinity.
    pub(super) fn keep_apart(&self, node: &NodeProto) -> Result<(), ImportError> {
        let operator = node.operator();
        // An input that is not known is named by who reads it.
        let input = |index| self.optional(node, index).ok().flatten();
        let inputs = 0..node.input.len();
        let among_constants = inputs.clone().all(|index| !matches!(input(index), Some(Known::Value(_))));
        for index in inputs {
            let Some(Known::Constant(constant)) = input(index) else { continue };
            if constant.values.contains(&f64::NEG_INFINITY) && !takes_infinity(&operator, among_constants) {
                return refuse(
                    node,
                    format!("its input {index} holds -inf, which is read only in masks, by Add and Where"),
                );
            }
            if constant.depends_on_batch() && !takes_rows(&operator, index, among_constants) {
                return refuse(
                    node,
                    format!(
                        "its input {index} is computed from the number of rows, on which no row may depend"
                    ),
                );
            }
        }
        Ok(())
    }

    /// Computes a node whose inputs are all constants, if it is one of [`FOLDED`] or one of the functions and sums that
    /// computed values have too.
    pub(super) fn fold_constants(&mut self, node: &NodeProto) -> Result<bool, ImportError> {
        let mut inputs = Vec::with_capacity(node.input.len());
        for index in 0..node.input.len() {
            match self.optional(node, index)? {
                Some(Known::Constant(constant)) => inputs.push(constant),
                Some(Known::Value(_)) => return Ok(false),
                None => {}
            }
        }
        let operator = node.operator();
        let is_held =
            |value: f64| value.is_finite() || value == f64::NEG_INFINITY && takes_infinity(&operator, true);
        let rows_lost = || refuse(node, "what it makes of the number of rows is no multiple of it");
        let folded = match (&operator[..], &inputs[..]) {
            ("Mul" | "Div" | "Equal" | "Max", &[a, b]) if !keeps_rows(&operator, a, b) => return rows_lost(),
            ("Mod", &[a, b]) if node.int("fmod", 0) != 0 => pairwise("fmod", a, b),
            ("MatMul", &[a, b]) => matrix_product(a, b),
            ("Where", &[condition, a, b]) => choose(condition, a, b),
            ("Trilu", &[constant]) => triangle(node, constant, 0),
            ("Trilu", &[constant, diagonal]) => {
                diagonal.values.first().and_then(|&diagonal| triangle(node, constant, diagonal as i64))
            }
            ("Range", &[start, limit, step]) => range(start, limit, step),
            ("Tile", &[constant, repeats]) => tile(constant, repeats),
            ("Size", &[constant]) => Some(Constant::integers(vec![], vec![constant.values.len() as f64])),
            ("ReduceProd", &[constant]) => match product(node, constant) {
                Some(product) if constant.depends_on_batch() && !product.is_multiple_of_batch() => {
                    return rows_lost();
                }
                product => product,
            },
            (_, &[constant]) => unary(&operator).map(|function| {
                let values = constant.values.iter().map(|&value| function(value)).collect();
                Constant { values, ..constant.clone() }
            }),
            (_, &[a, b]) => pairwise(&operator, a, b),
            _ => None,
        };
        match folded {
            Some(constant) if constant.values.iter().all(|&value| is_held(value)) => {
                if !fits_constants(&mut self.folded, constant.values.len()) {
                    return refuse(node, "the constants that are computed have too many elements in all");
                }
                self.define(node, 0, Known::Constant(constant));
                Ok(true)
            }
            Some(_) => refuse(node, "of constants, without a finite result"),
            None if FOLDED.contains(&&operator[..]) => {
                refuse(node, "of constants that do not fit each other, or too large a result")
            }
            None => Ok(false),
        }
    }
}

/// A constant with its elements as another type.
pub(super) fn cast(constant: Constant, to: i32) -> Constant {
    let Constant { shape, values, .. } = constant;
    let of = |function: fn(f64) -> f64| values.iter().map(|&value| function(value)).collect();
    match to {
        data_type::BOOL => Constant::integers(shape, of(|value| f64::from(u8::from(value != 0.0)))),
        to if crate::import::graph::is_float(to) => Constant::floats(shape, values),
        _ => Constant::integers(shape, of(f64::trunc)),
    }
}

fn unary(operator: &str) -> Option<fn(f64) -> f64> {
    Some(match operator {
        "Abs" => f64::abs,
        "Ceil" => f64::ceil,
        "Cos" => f64::cos,
        "Exp" => f64::exp,
        "Floor" => f64::floor,
        "Log" => f64::ln,
        "Neg" => |value| -value,
        "Not" => |value| f64::from(u8::from(value == 0.0)),
        "Reciprocal" => f64::recip,
        "Relu" => |value| value.max(0.0),
        "Sigmoid" => |value| 1.0 / (1.0 + (-value).exp()),
        "Sin" => f64::sin,
        "Sqrt" => f64::sqrt,
        "Tanh" => f64::tanh,
        _ => return None,
    })
}

fn pairwise(operator: &str, a: &Constant, b: &Constant) -> Option<Constant> {
    let is_integer = a.is_integer && b.is_integer;
    let truth = |holds: bool| f64::from(u8::from(holds));
    let function: &dyn Fn(f64, f64) -> f64 = match operator {
        "Add" => &|a, b| a + b,
        "Sub" => &|a, b| a - b,
        "Mul" => &|a, b| a * b,
        "Div" if is_integer => &|a: f64, b: f64| (a / b).trunc(),
        "Div" => &|a, b| a / b,
        "Mod" => &|a: f64, b: f64| a - b * (a / b).floor(),
        // Of the sign of what is divided.
        "fmod" => &|a, b| a % b,
        "Pow" => &f64::powf,
        "Min" => &f64::min,
        "Max" => &f64::max,
        "Equal" => &|a, b| truth(a == b),
        "Greater" => &|a, b| truth(a > b),
        "GreaterOrEqual" => &|a, b| truth(a >= b),
        "Less" => &|a, b| truth(a < b),
        "LessOrEqual" => &|a, b| truth(a <= b),
        "And" => &|a, b| truth(a != 0.0 && b != 0.0),
        "Or" => &|a, b| truth(a != 0.0 || b != 0.0),
        _ => return None,
    };
    let is_truth =
        !matches!(operator, "Add" | "Sub" | "Mul" | "Div" | "Mod" | "fmod" | "Pow" | "Min" | "Max");
    let shape = common_shape(&[a, b]);
    let (left, right) = (spread(a, &shape)?, spread(b, &shape)?);
    let values = left.into_iter().zip(right).map(|(a, b)| function(a, b)).collect();
    Some(Constant { shape, values, is_integer: is_integer || is_truth })
}

/// Whether each element that is computed from the number of rows stays a multiple of it, or is compared with what no
/// number of rows can be.
fn keeps_rows(operator: &str, a: &Constant, b: &Constant) -> bool {
    if !a.depends_on_batch() && !b.depends_on_batch() {
        return true;
    }
    let shape = common_shape(&[a, b]);
    let (Some(left), Some(right)) = (spread(a, &shape), spread(b, &shape)) else { return true };
    left.into_iter().zip(right).all(|(a, b)| match (operator, of_batch(a), of_batch(b)) {
        (_, false, false) => true,
        ("Mul", ..) => a * b == 0.0 || of_batch(a * b),
        ("Div", true, false) => of_batch(a / b),
        ("Equal", true, false) => b <= 0.0,
        ("Equal", false, true) => a <= 0.0,
        // Of dimensions that are broadcast: there is one row at least.
        ("Max", true, false) => b <= 1.0,
        ("Max", false, true) => a <= 1.0,
        ("Max", true, true) => a == b,
        _ => false,
    })
}

/// The dimensions of all, by the rule of broadcasting.
fn common_shape(constants: &[&Constant]) -> Vec<usize> {
    let rank = constants.iter().map(|constant| constant.shape.len()).max().unwrap_or(0);
    let at = |constant: &Constant, index: usize| {
        (index + constant.shape.len()).checked_sub(rank).map_or(1, |index| constant.shape[index])
    };
    let length = |index: usize| {
        constants.iter().map(|constant| at(constant, index)).find(|&length| length != 1).unwrap_or(1)
    };
    (0..rank).map(length).collect()
}

fn dimensions(shape: &[usize]) -> Vec<Dimension> {
    shape.iter().map(|&length| Some(length as u32)).collect()
}

fn spread(constant: &Constant, shape: &[usize]) -> Option<Vec<f64>> {
    if shape.iter().map(|&length| length as f64).product::<f64>() > MAX_ELEMENTS {
        return None;
    }
    let array = Array::whole(dimensions(&constant.shape))?.expanded(&dimensions(shape))?;
    Some(array.indices.into_iter().map(|at| constant.values[at as usize]).collect())
}

fn choose(condition: &Constant, a: &Constant, b: &Constant) -> Option<Constant> {
    let shape = common_shape(&[condition, a, b]);
    let [condition, left, right] = [spread(condition, &shape)?, spread(a, &shape)?, spread(b, &shape)?];
    let pairs = condition.into_iter().zip(left.into_iter().zip(right));
    let values = pairs.map(|(condition, (a, b))| if condition == 0.0 { b } else { a }).collect();
    Some(Constant { shape, values, is_integer: a.is_integer && b.is_integer })
}

fn range(start: &Constant, limit: &Constant, step: &Constant) -> Option<Constant> {
    let ([start], [limit], [step]) = (&start.values[..], &limit.values[..], &step.values[..]) else {
        return None;
    };
    let count = ((limit - start) / step).ceil().max(0.0);
    if !(0.0..=MAX_ELEMENTS).contains(&count) {
        return None;
    }
    let values: Vec<f64> = (0..count as usize).map(|index| start + index as f64 * step).collect();
    let is_integer = values.iter().all(|value| value.fract() == 0.0);
    Some(Constant { shape: vec![values.len()], values, is_integer })
}

fn tile(constant: &Constant, repeats: &Constant) -> Option<Constant> {
    if repeats.values.len() != constant.shape.len() {
        return None;
    }
    // What is repeated once for each row is the same for all.
    let times = repeats.values.iter().map(|&count| if count == BATCH as f64 { 1.0 } else { count });
    let lengths = constant.shape.iter().zip(times).map(|(&own, count)| own as f64 * count);
    let lengths: Vec<f64> = lengths.collect();
    let count: f64 = lengths.iter().product();
    if lengths.iter().any(|&length| length < 0.0) || !(0.0..=MAX_ELEMENTS).contains(&count) {
        return None;
    }
    let shape: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
    let at = |element: usize| {
        let (mut rest, mut index, mut stride) = (element, 0, 1);
        for (&own, &length) in constant.shape.iter().zip(&shape).rev() {
            index += rest % length % own * stride;
            rest /= length;
            stride *= own;
        }
        constant.values[index]
    };
    let values = (0..count as usize).map(at).collect();
    Some(Constant { shape, values, is_integer: constant.is_integer })
}

/// The upper or the lower triangle of each matrix: what is made of a causal mask.
fn triangle(node: &NodeProto, constant: &Constant, diagonal: i64) -> Option<Constant> {
    let &[.., rows, columns] = &constant.shape[..] else { return None };
    let upper = node.int("upper", 1) != 0;
    let keeps = |index: usize| {
        let (row, column) = (index / columns % rows, index % columns);
        let distance = (column as i64 - row as i64).saturating_sub(diagonal);
        if upper { distance >= 0 } else { distance <= 0 }
    };
    let kept = |(index, &value): (usize, &f64)| if keeps(index) { value } else { 0.0 };
    let values = constant.values.iter().enumerate().map(kept).collect();
    Some(Constant { values, ..constant.clone() })
}

/// Of two matrices: what is made of an initial state.
fn matrix_product(a: &Constant, b: &Constant) -> Option<Constant> {
    let (&[rows, inner], &[height, columns]) = (&a.shape[..], &b.shape[..]) else { return None };
    // Of nothing to add up, the product may still have any number of elements.
    if inner != height || rows as f64 * inner.max(1) as f64 * columns as f64 > MAX_ELEMENTS {
        return None;
    }
    let at = |index: usize| {
        let (row, column) = (index / columns, index % columns);
        (0..inner).map(|k| a.values[row * inner + k] * b.values[k * columns + column]).sum()
    };
    let values = (0..rows * columns).map(at).collect();
    Some(Constant { shape: vec![rows, columns], values, is_integer: a.is_integer && b.is_integer })
}

/// Of all elements: what is made of a shape.
fn product(node: &NodeProto, constant: &Constant) -> Option<Constant> {
    let keeps = node.int("keepdims", 1) != 0;
    let all = node.ints("axes").len() == constant.shape.len() || node.ints("axes").is_empty();
    let shape = vec![1; if keeps { constant.shape.len() } else { 0 }];
    let product = constant.values.iter().product();
    all.then(|| Constant { shape, values: vec![product], is_integer: constant.is_integer })
}
