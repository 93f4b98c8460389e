//! From the float graph and its ranges to the fixed-point graph: the choice of every scale.
//!
//! All scales are powers of two. The error of a layer comes from rounding its inputs and its weights; with 32-bit sums
//! the bits of the two together are limited, and [`activation_bits`] splits them so that both errors are alike.

mod affine;
mod dense;

use super::calibrate::Ranges;
use super::float::{Finish, FloatGraph, Function, Operation, Step, Value};
use super::fold::uses;
use super::{CompileOptions, ImportError, forest, recurrent};
use crate::model::graph::{Activation, Element, Graph, Node, Operator, Tensor};
use crate::spec::activation::{self, OUTPUT_EXPONENTS};
use crate::spec::rounding::{EXPONENTS, power_of_two};

/// Width of the exact sums of dense layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Narrow,
    Wide,
}

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

pub(crate) fn quantize(
    float: &FloatGraph,
    ranges: &Ranges,
    options: &CompileOptions,
    width: Width,
) -> Result<Quantized, ImportError> {
    let mut builder = Builder {
        float,
        ranges,
        options,
        width,
        graph: Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 },
        tensors: vec![usize::MAX; float.shapes.len()],
        values: Vec::new(),
    };
    let input = builder.input_tensor();
    builder.tensors[0] = builder.add_tensor(input);
    let mut steps = float.steps.iter().peekable();
    while let Some(step) = steps.next() {
        // An activation that alone reads a layer becomes part of it.
        let fused = steps.next_if(|next| {
            let Operation::Function(function) = &next.operation else { return false };
            let alone = next.inputs == [step.output] && uses(float, step.output) == 1;
            let takes = match &step.operation {
                Operation::Dense { .. } => true,
                // Relu is a bound of the output, which every requantisation has.
                Operation::Affine { .. } | Operation::Add => *function == Function::Relu,
                Operation::Function(_)
                | Operation::Ensemble(_)
                | Operation::Recurrent(_)
                | Operation::Part { .. } => false,
            };
            alone && takes
        });
        builder.step(step, fused)?;
    }
    builder.graph.output = builder.tensors[float.output];
    Ok(Quantized { graph: builder.graph, values: builder.values })
}

struct Builder<'a> {
    float: &'a FloatGraph,
    ranges: &'a Ranges,
    options: &'a CompileOptions,
    width: Width,
    graph: Graph,
    /// The tensor of each value of the float graph.
    tensors: Vec<usize>,
    values: Vec<Value>,
}

/// The largest exponent at which a value of magnitude `bound` stays below `2^bits`.
pub(super) fn exponent_for(bound: f64, bits: u32) -> i32 {
    // A value that is always zero may have any scale.
    let bound = bound.max(1e-12);
    let most = ((1i64 << bits) - 1) as f64;
    let mut exponent = (most / bound).log2().floor() as i32;
    // log2 may round up at the edge.
    while bound * power_of_two(exponent.clamp(-1000, 1000)) > most {
        exponent -= 1;
    }
    exponent.clamp(*EXPONENTS.start(), *EXPONENTS.end())
}

/// Bits of magnitude of activations that go into sums of `inputs` products in 32 bits.
///
/// With `b` bits of activations, weights get about `31 - b - log2(inputs)` on average. The relative errors of the two
/// roundings are then equal where `2^(2b)` is about `2^33 / inputs`, if activations use their whole range; headroom costs
/// them one bit more, which the 35 gives back (measured on the shipped perceptron: 33 has 1.6 times the error).
fn activation_bits(inputs: usize) -> u32 {
    let log = inputs.next_power_of_two().trailing_zeros();
    (35u32.saturating_sub(log) / 2).clamp(8, 15)
}

impl Builder<'_> {
    fn consumers(&self, value: Value) -> impl Iterator<Item = &Step> {
        self.float.steps.iter().filter(move |step| step.inputs.contains(&value))
    }

    fn bits(&self, value: Value) -> u32 {
        let of = |step: &Step| match &step.operation {
            Operation::Dense { bias, weights } if self.width == Width::Narrow => {
                activation_bits(weights.len() / bias.len())
            }
            Operation::Recurrent(layer) if self.width == Width::Narrow => activation_bits(layer.features),
            _ => 15,
        };
        self.consumers(value).map(of).min().unwrap_or(15)
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
        let own = |bits| {
            let of = |bound: &f64| if *bound == 0.0 { largest } else { largest.min(bound * QUIET) };
            bounds.iter().map(|bound| exponent_for(of(bound), bits)).collect::<Vec<_>>()
        };
        let by_element = !self.options.i16_boundary;
        if by_element && all(|operation| matches!(operation, Operation::Affine { .. })) {
            let exponents = own(WIDE_INPUT_BITS);
            let limit = i64::from(i32::MAX);
            let mut tensor = self.tensor(0, "input", Element::I32, exponents[0], (-limit, limit));
            tensor.exponents = exponents;
            return tensor;
        }
        let bits = self.bits(0);
        let limit = (1 << bits) - 1;
        let exponent = exponent_for(largest, bits);
        let mut tensor = self.tensor(0, "input", Element::I16, exponent, (-limit, limit));
        let exponents = own(bits);
        let uneven = exponents.iter().any(|&own| own != exponent);
        if by_element && uneven && all(|operation| matches!(operation, Operation::Dense { .. })) {
            tensor.exponents = exponents;
        }
        tensor
    }

    /// The format of what a step, with its activation, computes.
    fn output_tensor(&self, value: Value, name: &str, function: Option<Function>) -> Tensor {
        let bound = self.ranges.bound(value) * self.options.headroom;
        let exponent = (self.bits(value) as i32).clamp(*OUTPUT_EXPONENTS.start(), *OUTPUT_EXPONENTS.end());
        let one = activation::one(exponent);
        match function {
            Some(Function::Sigmoid) => self.tensor(value, name, Element::I16, exponent, (0, one)),
            Some(Function::Tanh) => self.tensor(value, name, Element::I16, exponent, (-one, one)),
            relu => {
                let served = value == self.float.output && !self.options.i16_boundary;
                let (element, bits, limit) = if served && self.consumers(value).next().is_none() {
                    (Element::I32, WIDE_OUTPUT_BITS, i64::from(i32::MAX))
                } else {
                    let bits = self.bits(value);
                    (Element::I16, bits, (1 << bits) - 1)
                };
                let minimum = if relu.is_some() { 0 } else { -limit };
                self.tensor(value, name, element, exponent_for(bound, bits), (minimum, limit))
            }
        }
    }

    fn step(&mut self, step: &Step, fused: Option<&Step>) -> Result<(), ImportError> {
        let function = match fused.map(|fused| &fused.operation) {
            Some(Operation::Function(function)) => Some(*function),
            _ => None,
        };
        let value = fused.map_or(step.output, |fused| fused.output);
        let inputs: Vec<usize> = step.inputs.iter().map(|&input| self.tensors[input]).collect();
        let mut output = self.output_tensor(value, &step.name, function);
        let operator = match &step.operation {
            Operation::Dense { weights, bias } => {
                let input = &self.graph.tensors[inputs[0]];
                Operator::Dense(dense::quantize(
                    self.width,
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
            Operation::Add => Operator::Add,
            Operation::Part { .. } => unreachable!("the importer refuses what it could not fold"),
            Operation::Recurrent(layer) => {
                let own = if self.width == Width::Narrow { activation_bits(layer.hidden) } else { 15 };
                let exponent = (self.bits(value).min(own) as i32)
                    .clamp(*OUTPUT_EXPONENTS.start(), *OUTPUT_EXPONENTS.end());
                let one = activation::one(exponent);
                output = self.tensor(value, &step.name, Element::I16, exponent, (-one, one));
                let input = &self.graph.tensors[inputs[0]];
                let extent = self.ranges.extent(value);
                let narrow = self.width == Width::Narrow;
                let headroom = self.options.headroom;
                Operator::Recurrent(recurrent::quantize(
                    step, layer, extent, headroom, narrow, input, &output,
                )?)
            }
            Operation::Function(own) => {
                output = self.output_tensor(value, &step.name, Some(*own));
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
        // Relu is the lower bound of the output.
        Some(Function::Relu) | None => Activation::None,
    }
}
