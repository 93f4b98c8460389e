//! From the float graph and its ranges to the fixed-point graph: the choice of every scale.
//!
//! All scales are powers of two. The error of a layer comes from rounding its inputs and its weights; with 32-bit sums
//! the bits of the two together are limited, and [`activation_bits`] splits them so that both errors are alike.

mod affine;
mod dense;
mod scales;
mod widths;
mod window;

use super::calibrate::Ranges;
use super::float::{Finish, FloatGraph, Function, Operation, Pairwise, Step, Value};
use super::fold::uses;
use super::{CompileOptions, ImportError, attention, forest, recurrent};
use crate::model::graph::Reduction;
use crate::model::graph::{Activation, Element, Graph, Move, Node, Operator, Tensor};
use crate::model::stream::steps_of;
use crate::spec::activation::{self, OUTPUT_EXPONENTS};
use crate::spec::rounding::{EXPONENTS, power_of_two};
use crate::spec::{curve, softmax};
use scales::Scales;
pub(crate) use widths::{Width, Widths};

/// The graph, and which value of the float graph each of its nodes computes.
#[derive(Debug)]
pub(crate) struct Quantized {
    pub(crate) graph: Graph,
    pub(crate) values: Vec<Value>,
}

/// Bits of magnitude of an `i32` input element: a float32 near the bound keeps all its bits, and values of twice the
/// bound still fit.
const WIDE_INPUT_BITS: u32 = 30;
/// Bits of magnitude of an `i32` output at the range seen: four times it still fits.
const WIDE_OUTPUT_BITS: u32 = 29;
/// An input element of its own scale may exceed the range seen by this factor, within the range of the largest element:
/// an element that hardly moved in calibration may do so later.
const QUIET: f64 = 8.0;

/// The bound of a summand is at least this share of the other's.
const LEAST_SUMMAND: f64 = 1.0 / 4096.0;

pub(crate) fn quantize(
    float: &FloatGraph,
    ranges: &Ranges,
    options: &CompileOptions,
    widths: &Widths,
) -> Result<Quantized, ImportError> {
    let mut builder = Builder {
        float,
        ranges,
        options,
        widths,
        scales: Scales::choose(float, ranges, options, widths),
        graph: Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 },
        tensors: vec![usize::MAX; float.shapes.len()],
        values: Vec::new(),
    };
    let input = builder.input_tensor();
    builder.tensors[0] = builder.add_tensor(input);
    for step in &float.steps {
        if fused_into(float, step).is_none() {
            // An activation that alone reads a layer becomes part of it.
            let fused = float.steps.iter().find(|next| {
                next.inputs.first() == Some(&step.output)
                    && fused_into(float, next).is_some_and(|layer| layer.output == step.output)
            });
            builder.step(step, fused)?;
        }
    }
    builder.graph.output = builder.tensors[float.output];
    Ok(Quantized { graph: builder.graph, values: builder.values })
}

/// The layer that an activation becomes part of: the one that makes its input, if nothing else reads that.
fn fused_into<'a>(float: &'a FloatGraph, step: &Step) -> Option<&'a Step> {
    let Operation::Function(function) = &step.operation else { return None };
    let value = step.inputs[0];
    let layer = float.steps.iter().find(|layer| layer.output == value)?;
    let takes = match &layer.operation {
        Operation::Dense { .. } | Operation::Conv(_) => true,
        // Bounds of the output, which every requantisation has.
        Operation::Affine { .. } | Operation::Pairwise(_) => {
            matches!(function, Function::Relu | Function::Clip(..))
        }
        Operation::Pool(pool) => {
            pool.reduction == Reduction::Sum && matches!(function, Function::Relu | Function::Clip(..))
        }
        Operation::Function(_)
        | Operation::Unruled(_)
        | Operation::Ensemble(_)
        | Operation::Recurrent(_)
        | Operation::Move { .. }
        | Operation::ArgMax { .. }
        | Operation::MatMul(_)
        | Operation::Softmax { .. }
        | Operation::LayerNorm { .. } => false,
    };
    (takes && uses(float, value) == 1).then_some(layer)
}

struct Builder<'a> {
    float: &'a FloatGraph,
    ranges: &'a Ranges,
    options: &'a CompileOptions,
    widths: &'a Widths,
    scales: Scales,
    graph: Graph,
    /// The tensor of each value of the float graph.
    tensors: Vec<usize>,
    values: Vec<Value>,
}

/// The largest exponent at which a value of magnitude `bound` stays below `2^bits`.
pub(super) fn exponent_for(bound: f64, bits: u32) -> i32 {
    exponent_within(bound, (1 << bits) - 1)
}

/// The largest exponent at which a value of magnitude `bound` is at most `limit`.
fn exponent_within(bound: f64, limit: i64) -> i32 {
    // A value that is always zero may have any scale.
    let bound = bound.max(1e-12);
    let most = limit as f64;
    let mut exponent = (most / bound).log2().floor() as i32;
    // log2 may round up at the edge.
    while bound * power_of_two(exponent.clamp(-1000, 1000)) > most {
        exponent -= 1;
    }
    exponent.clamp(*EXPONENTS.start(), *EXPONENTS.end())
}

impl Builder<'_> {
    fn consumers(&self, value: Value) -> impl Iterator<Item = &Step> {
        self.float.steps.iter().filter(move |step| step.inputs.contains(&value))
    }

    /// Whether only softmax reads a value, or what moves choose of it.
    fn goes_into_softmax(&self, value: Value, through_moves: bool) -> bool {
        let takes = |step: &Step| match &step.operation {
            Operation::Softmax { .. } => true,
            Operation::Move { .. } => {
                through_moves && step.inputs.len() == 1 && self.goes_into_softmax(step.output, false)
            }
            _ => false,
        };
        self.consumers(value).next().is_some()
            && self.float.output != value
            && self.consumers(value).all(takes)
    }

    fn add_tensor(&mut self, tensor: Tensor) -> usize {
        self.graph.tensors.push(tensor);
        self.graph.tensors.len() - 1
    }

    fn tensor(
        &self,
        value: Value,
        name: &str,
        element: Element,
        exponent: i32,
        bounds: (i64, i64),
    ) -> Tensor {
        Tensor {
            name: name.to_owned(),
            shape: self.float.shapes[value].clone(),
            element,
            exponent,
            exponents: Vec::new(),
            minimum: bounds.0,
            maximum: bounds.1,
        }
    }

    /// Keys for trees; `i32` with a scale for each element where features are brought to one scale first; else `i16`.
    fn input_tensor(&self) -> Tensor {
        let all = |matches: fn(&Operation) -> bool| self.consumers(0).all(|step| matches(&step.operation));
        if all(|operation| matches!(operation, Operation::Ensemble(_))) {
            let infinity = 0x7f80_0000;
            return self.tensor(0, "input", Element::Key, 0, (-infinity, infinity));
        }
        let bounds: Vec<f64> =
            self.ranges.input_bounds.iter().map(|bound| bound * self.options.headroom).collect();
        let largest = bounds.iter().copied().fold(0.0, f64::max);
        // An element that is always zero here may be anything later: it gets the scale of the largest.
        let own = |bounds: &[f64], bits| {
            let of = |bound: &f64| if *bound == 0.0 { largest } else { largest.min(bound * QUIET) };
            bounds.iter().map(|bound| exponent_for(of(bound), bits)).collect::<Vec<_>>()
        };
        let by_element = !self.options.i16_boundary;
        if by_element && all(|operation| matches!(operation, Operation::Affine { .. })) {
            let exponents = own(&self.in_all_steps(bounds), WIDE_INPUT_BITS);
            let limit = i64::from(i32::MAX);
            let mut tensor = self.tensor(0, "input", Element::I32, exponents[0], (-limit, limit));
            tensor.exponents = exponents;
            return tensor;
        }
        let bits = self.scales.bits[0];
        let limit = (1 << bits) - 1;
        let exponent = self.scales.shared[0].unwrap_or(exponent_for(largest, bits));
        let mut tensor = self.tensor(0, "input", Element::I16, exponent, (-limit, limit));
        let exponents = own(&bounds, bits);
        let uneven = exponents.iter().any(|&own| own != exponent);
        if by_element && uneven && all(|operation| matches!(operation, Operation::Dense { .. })) {
            tensor.exponents = exponents;
        }
        tensor
    }

    /// The largest bound of each element in all time steps, if the input has any: converted alike in each of them, it can be
    /// part of a stream.
    fn in_all_steps(&self, mut bounds: Vec<f64>) -> Vec<f64> {
        let steps = steps_of(&self.float.shapes[0]);
        let len =
            steps.map_or(bounds.len(), |(_, step)| step.iter().map(|&length| length as usize).product());
        for element in 0..len {
            let largest = bounds[element..].iter().step_by(len).copied().fold(0.0, f64::max);
            bounds[element..].iter_mut().step_by(len).for_each(|bound| *bound = largest);
        }
        bounds
    }

    /// The format of what a step, with its activation, computes. `before` is the value that the activation takes.
    fn output_tensor(&self, value: Value, before: Value, name: &str, function: Option<Function>) -> Tensor {
        let (bits, shared) = (self.scales.bits[value], self.scales.shared[value]);
        let leaky = matches!(function, Some(Function::Leaky(_)));
        // The slope is applied after rounding, so the argument must fit too.
        let bound = if leaky { self.ranges.bound(before) } else { 0.0 }.max(self.ranges.bound(value));
        let bound = bound.max(self.beside(value)) * self.options.headroom;
        let i16_bounds = || {
            let exponent = shared.unwrap_or(bits as i32).min(bits as i32);
            exponent.clamp(*OUTPUT_EXPONENTS.start(), *OUTPUT_EXPONENTS.end())
        };
        match function {
            Some(Function::Sigmoid) => {
                let exponent = i16_bounds();
                self.tensor(value, name, Element::I16, exponent, (0, activation::one(exponent)))
            }
            Some(Function::Tanh) => {
                let exponent = i16_bounds();
                let one = activation::one(exponent);
                self.tensor(value, name, Element::I16, exponent, (-one, one))
            }
            Some(Function::Gelu | Function::GeluTanh) => {
                // Arguments far below zero may saturate: what they give is zero.
                let largest = self.ranges.of(value).1.max(0.0) * self.options.headroom;
                let own = exponent_for(largest, bits);
                let exponent = shared.map_or(own, |shared| shared.min(own));
                let exponent = exponent.clamp(*OUTPUT_EXPONENTS.start(), *OUTPUT_EXPONENTS.end());
                let bounds = (curve::gelu_least(exponent), (1 << bits) - 1);
                self.tensor(value, name, Element::I16, exponent, bounds)
            }
            function => {
                let wide = self.scales.served[value] && !leaky;
                let (element, bits) =
                    if wide { (Element::I32, WIDE_OUTPUT_BITS) } else { (Element::I16, bits) };
                let limit = if wide { i64::from(i32::MAX) } else { self.scales.limits[value] };
                let own = if wide { exponent_for(bound, bits) } else { exponent_within(bound, limit) };
                let exponent = shared.map_or(own, |shared| shared.min(own));
                let at = |bound: f64| ((bound * power_of_two(exponent)).round() as i64).clamp(-limit, limit);
                let bounds = match function {
                    Some(Function::Relu) => (0, limit),
                    Some(Function::Clip(low, high)) => (at(low), at(high)),
                    _ => (-limit, limit),
                };
                self.tensor(value, name, element, exponent, bounds)
            }
        }
    }

    /// The least bound that a summand is given: much finer than the sum, its scale would gain nothing, and an Add takes only
    /// scales that are not too far apart.
    fn beside(&self, value: Value) -> f64 {
        let is_sum =
            |step: &&Step| matches!(step.operation, Operation::Pairwise(Pairwise::Add | Pairwise::Subtract));
        let sums = self.consumers(value).filter(is_sum);
        sums.flat_map(|sum| &sum.inputs)
            .map(|&input| self.ranges.bound(input) * LEAST_SUMMAND)
            .fold(0.0, f64::max)
    }

    /// The tensors of a move's inputs, all at one scale and of one element type: the coarsest scale there is.
    fn aligned(&mut self, step: &Step) -> Vec<usize> {
        let tensors: Vec<usize> = step.inputs.iter().map(|&input| self.narrowed(step, input)).collect();
        let of =
            |graph: &Graph, tensor: usize| (graph.tensors[tensor].element, graph.tensors[tensor].exponent);
        let exponent = tensors.iter().map(|&tensor| of(&self.graph, tensor).1).min().unwrap_or(0);
        let wide = tensors.iter().any(|&tensor| of(&self.graph, tensor).0 == Element::I32);
        let element = if wide { Element::I32 } else { Element::I16 };
        let mut aligned = Vec::with_capacity(tensors.len());
        for (&value, tensor) in step.inputs.iter().zip(tensors) {
            if of(&self.graph, tensor) == (element, exponent) {
                aligned.push(tensor);
                continue;
            }
            let limit = i64::from(if wide { i32::MAX } else { i16::MAX.into() });
            let output = self.tensor(value, &step.name, element, exponent, (-limit, limit));
            let output = self.add_tensor(output);
            self.values.push(value);
            self.graph.nodes.push(Node {
                name: step.name.clone(),
                source: step.source.clone(),
                inputs: vec![tensor],
                output,
                operator: Operator::Map(Activation::None),
            });
            aligned.push(output);
        }
        aligned
    }

    /// The tensor of an input: what trees make has 64 bits, which no other layer takes.
    fn narrowed(&mut self, step: &Step, value: Value) -> usize {
        let tensor = self.tensors[value];
        if self.graph.tensors[tensor].element != Element::I64 {
            return tensor;
        }
        let takes_wide = match step.operation {
            Operation::Softmax { .. }
            | Operation::Affine { .. }
            | Operation::Pairwise(_)
            | Operation::ArgMax { .. } => true,
            // What is read on may want 16 bits.
            Operation::Move { .. } => self.scales.served[step.output],
            _ => false,
        };
        let bound = self.ranges.bound(value) * self.options.headroom;
        let (element, bits) = if takes_wide {
            (Element::I32, WIDE_OUTPUT_BITS)
        } else {
            (Element::I16, self.scales.bits[value])
        };
        let exponent = exponent_for(bound, bits).min(self.graph.tensors[tensor].exponent);
        let limit = if takes_wide { (1 << 30) - 1 } else { self.scales.limits[value] };
        let narrow = self.tensor(value, &step.name, element, exponent, (-limit, limit));
        let narrow = self.add_tensor(narrow);
        self.values.push(value);
        self.graph.nodes.push(Node {
            name: step.name.clone(),
            source: step.source.clone(),
            inputs: vec![tensor],
            output: narrow,
            operator: Operator::Map(Activation::None),
        });
        narrow
    }

    fn step(&mut self, step: &Step, fused: Option<&Step>) -> Result<(), ImportError> {
        let function = match fused.map(|fused| &fused.operation) {
            Some(Operation::Function(function)) => Some(*function),
            _ => None,
        };
        let value = fused.map_or(step.output, |fused| fused.output);
        let inputs: Vec<usize> = match &step.operation {
            Operation::Move { .. } => self.aligned(step),
            _ => step.inputs.iter().map(|&input| self.narrowed(step, input)).collect(),
        };
        let mut output = self.output_tensor(value, step.output, &step.name, function);
        let operator = match &step.operation {
            Operation::Dense { weights, bias } => {
                let input = &self.graph.tensors[inputs[0]];
                Operator::Dense(dense::quantize(
                    self.widths.of(step),
                    step,
                    weights,
                    bias,
                    input,
                    &mut output,
                    function,
                )?)
            }
            Operation::Affine { scale, offset } => {
                let input = &self.graph.tensors[inputs[0]];
                Operator::Affine(affine::quantize(step, scale, offset, input, &output)?)
            }
            Operation::Pairwise(Pairwise::Add) => Operator::Add { subtract: false },
            Operation::Pairwise(Pairwise::Subtract) => Operator::Add { subtract: true },
            Operation::Pairwise(Pairwise::Multiply) => Operator::Multiply,
            Operation::Move { indices, fill } => {
                let parts: Vec<&Tensor> = inputs.iter().map(|&input| &self.graph.tensors[input]).collect();
                let (element, exponent) = (parts[0].element, parts[0].exponent);
                let limit = i64::from(if element == Element::I32 { i32::MAX } else { i16::MAX.into() });
                let fill = ((fill * power_of_two(exponent)).round() as i64).clamp(-limit, limit);
                let fills = indices.contains(&-1).then_some(fill);
                let minimum = parts.iter().map(|part| part.minimum).chain(fills).min().unwrap_or(-limit);
                let maximum = parts.iter().map(|part| part.maximum).chain(fills).max().unwrap_or(limit);
                output = self.tensor(value, &step.name, element, exponent, (minimum, maximum));
                Operator::Move(Move { indices: indices.clone(), fill })
            }
            Operation::Conv(conv) => {
                let input = &self.graph.tensors[inputs[0]];
                Operator::Conv(window::conv(self.widths.of(step), step, conv, input, &mut output, function)?)
            }
            Operation::Pool(pool) => {
                let input = &self.graph.tensors[inputs[0]];
                if pool.reduction == Reduction::Max {
                    let bounds = (input.minimum, input.maximum);
                    output = self.tensor(value, &step.name, input.element, input.exponent, bounds);
                }
                Operator::Pool(window::pool(step, pool, input, &output)?)
            }
            &Operation::ArgMax { length, inner } => {
                let element = if length <= 1 << 15 { Element::I16 } else { Element::I32 };
                output = self.tensor(value, &step.name, element, 0, (0, length as i64 - 1));
                Operator::ArgMax { length, inner }
            }
            Operation::Recurrent(layer) => {
                let own = scales::recurrent_bits(layer, self.widths.of(step));
                let exponent = self.scales.bits[value].min(own) as i32;
                let exponent = self.scales.shared[value].map_or(exponent, |shared| shared.min(exponent));
                let exponent = exponent.clamp(*OUTPUT_EXPONENTS.start(), *OUTPUT_EXPONENTS.end());
                let one = activation::one(exponent);
                output = self.tensor(value, &step.name, Element::I16, exponent, (-one, one));
                let input = &self.graph.tensors[inputs[0]];
                let extent = self.ranges.extent(value);
                let narrow = self.widths.of(step) == Width::Narrow;
                let headroom = self.options.headroom;
                Operator::Recurrent(recurrent::quantize(
                    step, layer, extent, headroom, narrow, input, &output,
                )?)
            }
            Operation::MatMul(matmul) => {
                if fused.is_none() && self.goes_into_softmax(value, true) {
                    // The sums as they are.
                    let finest = inputs.iter().map(|&input| self.graph.tensors[input].exponent).sum();
                    let bound = self.ranges.bound(value) * self.options.headroom;
                    let exponent = exponent_for(bound, WIDE_OUTPUT_BITS).min(finest);
                    let limit = (1 << 30) - 1;
                    output = self.tensor(value, &step.name, Element::I32, exponent, (-limit, limit));
                }
                Operator::MatMul(matmul.clone())
            }
            &Operation::Softmax { group, scale } => {
                let exponents = softmax::OUTPUT_EXPONENTS;
                let exponent = self.scales.shared[value].unwrap_or(15).min(self.scales.bits[value] as i32);
                let exponent = exponent.clamp(*exponents.start(), *exponents.end());
                let one = activation::one(exponent);
                output = self.tensor(value, &step.name, Element::I16, exponent, (0, one));
                let input = &self.graph.tensors[inputs[0]];
                Operator::Softmax(attention::quantize::softmax(step, group, scale, input)?)
            }
            Operation::LayerNorm { epsilon, scale, offset } => {
                let input = &self.graph.tensors[inputs[0]];
                let norm = attention::quantize::layer_norm(step, *epsilon, scale, offset, input)?;
                Operator::LayerNorm(norm)
            }
            Operation::Unruled(_) => return Err(attention::normal::refusal(step)),
            Operation::Function(own) => {
                output = self.output_tensor(value, step.inputs[0], &step.name, Some(*own));
                Operator::Map(activation_of(Some(*own)))
            }
            Operation::Ensemble(ensemble) => {
                let trees = forest::quantize(step, ensemble)?;
                let exponent = match trees.finish {
                    Finish::Logistic | Finish::LogisticPair => activation::WIDE_OUTPUT_EXPONENT,
                    _ => trees.sum_exponent,
                };
                output = self.tensor(value, &step.name, Element::I64, exponent, (-(1 << 62), 1 << 62));
                Operator::Trees(trees)
            }
        };
        let source = fused.map_or(step.source.clone(), |fused| format!("{}+{}", step.source, fused.source));
        self.tensors[value] = self.add_tensor(output);
        self.values.push(value);
        self.graph.nodes.push(Node {
            name: step.name.clone(),
            source,
            inputs,
            output: self.tensors[value],
            operator,
        });
        Ok(())
    }
}

fn activation_of(function: Option<Function>) -> Activation {
    match function {
        Some(Function::Sigmoid) => Activation::Sigmoid,
        Some(Function::Tanh) => Activation::Tanh,
        Some(Function::Gelu) => Activation::Gelu,
        Some(Function::GeluTanh) => Activation::GeluTanh,
        Some(Function::Leaky(slope)) => {
            let slope = (slope * power_of_two(activation::SLOPE_EXPONENT)).round();
            Activation::Leaky(slope.min(i16::MAX.into()) as i16)
        }
        // These are bounds of the output.
        Some(Function::Relu | Function::Clip(..)) | None => Activation::None,
    }
}
