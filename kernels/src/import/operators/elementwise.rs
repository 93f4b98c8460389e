//! Arithmetic element by element.

use crate::import::ImportError;
use crate::import::array::{Array, Dimension};
use crate::import::constant::Constant;
use crate::import::float::{Function, Operation, Pairwise, Unruled, Value};
use crate::import::graph::{Known, MERGED, NO_OUTPUT, Reader, refuse};
use crate::import::onnx::NodeProto;

impl Reader {
    pub(super) fn elementwise(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let operator = node.operator();
        let (left, right) = (self.input(node, 0)?.clone(), self.input(node, 1)?.clone());
        let (value, constant, constant_first) = match (left, right) {
            (Known::Value(a), Known::Value(b)) => {
                let [a, b] = self.broadcast(node, [a, b])?;
                let pairwise = match operator.as_str() {
                    "Add" => Pairwise::Add,
                    "Sub" => Pairwise::Subtract,
                    "Mul" => Pairwise::Multiply,
                    _ => return self.unruled(node, 0, Unruled::Quotient, vec![a, b]).map(drop),
                };
                return self.pairwise(node, 0, pairwise, [a, b]);
            }
            (Known::Value(value), Known::Constant(constant)) => (value, constant.into_mask(), false),
            (Known::Constant(constant), Known::Value(value)) => (value, constant.into_mask(), true),
            (Known::Constant(_), Known::Constant(_)) => {
                return refuse(node, "of two constants that do not fit each other");
            }
        };
        let value = self.widened(node, value, &constant)?;
        let Some(constants) = self.spread(value, &constant) else {
            let shape = &self.graph.shapes[value];
            return refuse(
                node,
                format!("a constant of shape {:?} does not fit a row of {shape:?}", constant.shape),
            );
        };
        let len = constants.len();
        let negated = || constants.iter().map(|value| -value).collect::<Vec<_>>();
        let (scale, offset) = match (operator.as_str(), constant_first) {
            ("Add", _) => (vec![1.0; len], constants),
            ("Sub", false) => (vec![1.0; len], negated()),
            ("Sub", true) => (vec![-1.0; len], constants),
            ("Mul", _) => (constants, vec![0.0; len]),
            ("Div", false) => (constants.iter().map(|value| 1.0 / value).collect(), vec![0.0; len]),
            _ => {
                let inverse = self.unruled(node, NO_OUTPUT, Unruled::Reciprocal, vec![value])?;
                return self.affine(node, 0, inverse, constants, vec![0.0; len]).map(drop);
            }
        };
        self.affine(node, 0, value, scale, offset)?;
        Ok(())
    }

    /// A value repeated along the dimensions in which a constant beside it is longer.
    fn widened(&mut self, node: &NodeProto, value: Value, constant: &Constant) -> Result<Value, ImportError> {
        let own = self.dimensions(value);
        let rank = own.len().max(constant.shape.len());
        let at = |index: usize| {
            let own = (index + own.len()).checked_sub(rank).map_or(Some(1), |index| own[index]);
            let other =
                (index + constant.shape.len()).checked_sub(rank).map_or(1, |index| constant.shape[index]);
            if own == Some(1) { Some(other as u32) } else { own }
        };
        let to: Vec<Dimension> = (0..rank).map(at).collect();
        if to == own || self.batch_axis(value) == MERGED {
            return Ok(value);
        }
        let Some(array) = Array::whole(own).and_then(|array| array.expanded(&to)) else { return Ok(value) };
        self.moved_values(node, NO_OUTPUT, vec![value], array, 0.0)?;
        Ok(self.last_value())
    }

    /// One value of a constant for each element of a row, by the rule of broadcasting.
    fn spread(&self, value: Value, constant: &Constant) -> Option<Vec<f64>> {
        let to: Vec<Dimension> =
            self.dimensions(value).into_iter().map(|dimension| dimension.or(Some(1))).collect();
        let own = constant.shape.iter().map(|&length| Some(length as u32)).collect();
        let array = Array::whole(own)?.expanded(&to)?;
        Some(array.indices.iter().map(|&at| constant.values[at as usize]).collect())
    }

    /// Two values with the dimensions of both.
    pub(super) fn broadcast(
        &mut self,
        node: &NodeProto,
        values: [Value; 2],
    ) -> Result<[Value; 2], ImportError> {
        let dimensions = values.map(|value| self.dimensions(value));
        let rank = dimensions[0].len().max(dimensions[1].len());
        let at = |side: usize, index: usize| {
            let own = &dimensions[side];
            (index + own.len()).checked_sub(rank).map_or(Some(1), |index| own[index])
        };
        let to: Vec<Dimension> = (0..rank)
            .map(|index| if at(0, index) == Some(1) { at(1, index) } else { at(0, index) })
            .collect();
        let mut spread = values;
        for side in 0..2 {
            if dimensions[side] == to {
                continue;
            }
            let own = dimensions[side].clone();
            let Some(array) = Array::whole(own).and_then(|array| array.expanded(&to)) else {
                let shapes = values.map(|value| self.graph.shapes[value].clone());
                return refuse(
                    node,
                    format!("rows of {:?} and {:?} do not fit each other", shapes[0], shapes[1]),
                );
            };
            self.moved_values(node, NO_OUTPUT, vec![values[side]], array, 0.0)?;
            spread[side] = self.last_value();
        }
        Ok(spread)
    }

    pub(in crate::import) fn last_value(&self) -> Value {
        self.graph.steps.last().expect("a step was just added").output
    }

    /// Of two values of one shape.
    pub(super) fn pairwise(
        &mut self,
        node: &NodeProto,
        output: usize,
        pairwise: Pairwise,
        values: [Value; 2],
    ) -> Result<(), ImportError> {
        let shape = self.graph.shapes[values[0]].clone();
        self.step(node, output, Operation::Pairwise(pairwise), values.to_vec(), shape)?;
        self.set_batch_axis(self.batch_axis(values[0]));
        Ok(())
    }

    pub(super) fn function_of(
        &mut self,
        node: &NodeProto,
        output: usize,
        function: Function,
        value: Value,
    ) -> Result<Value, ImportError> {
        let shape = self.graph.shapes[value].clone();
        self.step(node, output, Operation::Function(function), vec![value], shape)?;
        self.set_batch_axis(self.batch_axis(value));
        Ok(self.last_value())
    }

    pub(super) fn scaler(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.value(node, 0)?;
        let len = self.graph.len(value);
        let widened = |values: &[f32], default: f32| match values {
            [] => Some(vec![f64::from(default); len]),
            &[one] => Some(vec![f64::from(one); len]),
            many => (many.len() == len).then(|| many.iter().map(|&value| value.into()).collect()),
        };
        let (scale, offset) = (widened(node.floats("scale"), 1.0), widened(node.floats("offset"), 0.0));
        let (Some(scale), Some(offset)) = (scale, offset) else {
            return refuse(node, format!("its scale or offset does not fit a row of {len} elements"));
        };
        let offset = offset.iter().zip(&scale).map(|(offset, scale)| -offset * scale).collect();
        self.affine(node, 0, value, scale, offset)?;
        Ok(())
    }

    pub(in crate::import) fn affine(
        &mut self,
        node: &NodeProto,
        output: usize,
        value: Value,
        scale: Vec<f64>,
        offset: Vec<f64>,
    ) -> Result<Value, ImportError> {
        if scale.iter().chain(&offset).any(|value| !value.is_finite()) {
            return refuse(node, "a constant is not finite, or a divisor is 0");
        }
        let shape = self.graph.shapes[value].clone();
        self.step(node, output, Operation::Affine { scale, offset }, vec![value], shape)?;
        self.set_batch_axis(self.batch_axis(value));
        Ok(self.last_value())
    }

    /// At inference: a scale and an offset for each channel, which is the first dimension after the batch.
    pub(super) fn batch_normalization(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.value(node, 0)?;
        if node.int("training_mode", 0) != 0 {
            return refuse(node, "training_mode is not supported: export the model for inference");
        }
        let shape = &self.graph.shapes[value];
        let channels = shape.first().map_or(1, |&channels| channels as usize);
        let inner = self.graph.len(value) / channels;
        let parameter = |index: usize| -> Result<&[f64], ImportError> {
            match &self.constant(node, index)?.values[..] {
                values if values.len() == channels => Ok(values),
                values => {
                    refuse(node, format!("its input {index} has {} values, not {channels}", values.len()))
                }
            }
        };
        let (gamma, beta, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let (mut scale, mut offset) = (Vec::new(), Vec::new());
        for ((gamma, beta), (mean, variance)) in gamma.iter().zip(beta).zip(mean.iter().zip(variance)) {
            let factor = gamma / (variance + epsilon).sqrt();
            scale.extend(std::iter::repeat_n(factor, inner));
            offset.extend(std::iter::repeat_n(beta - mean * factor, inner));
        }
        self.affine(node, 0, value, scale, offset)?;
        Ok(())
    }

    /// A computed value or a constant, by a constant condition: what masks are written with.
    pub(super) fn choice(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let condition = self.constant(node, 0)?.clone();
        let (chosen, other) = (self.input(node, 1)?.clone(), self.input(node, 2)?.clone());
        let (value, constant, when) = match (chosen, other) {
            (Known::Value(value), Known::Constant(constant)) => (value, constant.into_mask(), true),
            (Known::Constant(constant), Known::Value(value)) => (value, constant.into_mask(), false),
            (Known::Value(_), Known::Value(_)) => {
                return refuse(node, "only one of the values it chooses from may be computed");
            }
            _ => return refuse(node, "of constants that do not fit each other"),
        };
        let value = self.widened(node, value, &condition)?;
        let value = self.widened(node, value, &constant)?;
        let (Some(condition), Some(constants)) =
            (self.spread(value, &condition), self.spread(value, &constant))
        else {
            let shape = &self.graph.shapes[value];
            return refuse(node, format!("its constants do not fit a row of {shape:?}"));
        };
        let takes = condition.iter().map(|&condition| (condition != 0.0) == when);
        let scale = takes.clone().map(|takes| f64::from(u8::from(takes))).collect();
        let offset =
            takes.zip(&constants).map(|(takes, &constant)| if takes { 0.0 } else { constant }).collect();
        self.affine(node, 0, value, scale, offset).map(drop)
    }

    /// LeakyRelu, and PRelu with constant slopes.
    pub(super) fn leaky(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.any_value(node, 0)?;
        let slopes = match node.op_type.as_deref() {
            Some("PRelu") => {
                let slopes = self.constant(node, 1)?.clone();
                match self.spread(value, &slopes) {
                    Some(slopes) => slopes,
                    None => {
                        return refuse(
                            node,
                            format!("slopes of shape {:?} do not fit its input", slopes.shape),
                        );
                    }
                }
            }
            _ => vec![f64::from(node.float("alpha", 0.01)); self.graph.len(value)],
        };
        let slope = slopes[0];
        if (0.0..1.0).contains(&slope) && slopes.iter().all(|&other| other == slope) {
            self.function_of(node, 0, Function::Leaky(slope), value)?;
            return Ok(());
        }
        // The positive part, and the negative part with its slopes.
        let positive = self.function_of(node, NO_OUTPUT, Function::Relu, value)?;
        let negative = self.function_of(node, NO_OUTPUT, Function::Clip(f64::NEG_INFINITY, 0.0), value)?;
        let offset = vec![0.0; slopes.len()];
        let scaled = self.affine(node, NO_OUTPUT, negative, slopes, offset)?;
        self.pairwise(node, 0, Pairwise::Add, [positive, scaled])
    }

    /// The bounds are attributes, or from opset 11 on inputs.
    pub(super) fn clip(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.any_value(node, 0)?;
        let bound = |index: usize, name: &str, default: f64| -> Result<f64, ImportError> {
            match self.optional(node, index)? {
                Some(Known::Constant(Constant { values, .. })) if values.len() == 1 => Ok(values[0]),
                Some(_) => refuse(node, "its bounds must be constants of one element"),
                None => Ok(node.attribute(name).and_then(|attribute| attribute.f).map_or(default, f64::from)),
            }
        };
        let (low, high) = (bound(1, "min", f64::NEG_INFINITY)?, bound(2, "max", f64::INFINITY)?);
        self.bounded(node, value, low, high)
    }

    fn bounded(&mut self, node: &NodeProto, value: Value, low: f64, high: f64) -> Result<(), ImportError> {
        // Exporters write the largest float32 for no bound.
        let low = if low <= f64::from(f32::MIN) { f64::NEG_INFINITY } else { low };
        let high = if high >= f64::from(f32::MAX) { f64::INFINITY } else { high };
        if low.is_nan() || high.is_nan() || low == f64::INFINITY || high == f64::NEG_INFINITY {
            return refuse(node, format!("bounds from {low} to {high} contain nothing"));
        }
        // Where they are exchanged, all is the upper one.
        let low = low.min(high);
        let function = match (low, high) {
            (0.0, f64::INFINITY) => Function::Relu,
            (low, high) => Function::Clip(low, high),
        };
        self.function_of(node, 0, function, value)?;
        Ok(())
    }

    /// Min and Max of two: a bound if one is a constant, else `b + relu(a - b)` or `b - relu(b - a)`.
    pub(super) fn extreme(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let largest = node.op_type.as_deref() == Some("Max");
        if node.input.len() != 2 {
            return refuse(node, "only of two inputs");
        }
        let (left, right) = (self.input(node, 0)?.clone(), self.input(node, 1)?.clone());
        match (left, right) {
            (Known::Value(value), Known::Constant(constant))
            | (Known::Constant(constant), Known::Value(value)) => match constant.values[..] {
                [bound] if largest => self.bounded(node, value, bound, f64::INFINITY),
                [bound] => self.bounded(node, value, f64::NEG_INFINITY, bound),
                _ => refuse(node, "a constant must be of one element"),
            },
            (Known::Value(a), Known::Value(b)) => {
                let [a, b] = self.broadcast(node, [a, b])?;
                let (sides, last) =
                    if largest { ([a, b], Pairwise::Add) } else { ([b, a], Pairwise::Subtract) };
                self.pairwise(node, NO_OUTPUT, Pairwise::Subtract, sides)?;
                let above = self.function_of(node, NO_OUTPUT, Function::Relu, self.last_value())?;
                self.pairwise(node, 0, last, [b, above])
            }
            _ => refuse(node, "of two constants"),
        }
    }

    /// Of any number of inputs.
    pub(super) fn sum(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let mut sum = self.any_value(node, 0)?;
        for index in 1..node.input.len() {
            let other = self.any_value(node, index)?;
            let [a, b] = self.broadcast(node, [sum, other])?;
            self.pairwise(node, NO_OUTPUT, Pairwise::Add, [a, b])?;
            sum = self.last_value();
        }
        self.define(node, 0, Known::Value(sum));
        Ok(())
    }

    /// A square or a cube, as products: what exporters spell functions out with.
    pub(super) fn power(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.any_value(node, 0)?;
        let exponent = match self.constant(node, 1)?.values[..] {
            [exponent] => exponent,
            _ => return refuse(node, "its exponent must be one constant"),
        };
        if exponent == 2.0 {
            return self.pairwise(node, 0, Pairwise::Multiply, [value, value]);
        }
        if exponent == 3.0 {
            self.pairwise(node, NO_OUTPUT, Pairwise::Multiply, [value, value])?;
            return self.pairwise(node, 0, Pairwise::Multiply, [self.last_value(), value]);
        }
        refuse(node, format!("to the power of {exponent}: 2 and 3 are supported"))
    }

    pub(super) fn negated(&mut self, node: &NodeProto, output: usize) -> Result<Value, ImportError> {
        let value = self.any_value(node, 0)?;
        let len = self.graph.len(value);
        self.affine(node, output, value, vec![-1.0; len], vec![0.0; len])
    }

    /// `relu(x) + relu(-x)`.
    pub(super) fn absolute(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let value = self.any_value(node, 0)?;
        let positive = self.function_of(node, NO_OUTPUT, Function::Relu, value)?;
        let negated = self.negated(node, NO_OUTPUT)?;
        let negative = self.function_of(node, NO_OUTPUT, Function::Relu, negated)?;
        self.pairwise(node, 0, Pairwise::Add, [positive, negative])
    }
}
