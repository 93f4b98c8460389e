//! The operators of ONNX's own domain, and the scaler, one by one.

mod constants;
mod dense;
mod elementwise;
mod linear;

pub(super) use constants::FOLDED;

/// Operators of computed values that only a layer normalisation may be made of.
pub(super) const SPELLED: &[&str] = &["Reciprocal", "Sqrt"];

use super::ImportError;
use super::constant::Constant;
use super::float::{Function, Operation, Unruled, Value};
use super::graph::{Known, Reader, is_float, refuse};
use super::onnx::NodeProto;
use super::trees;

impl Reader {
    /// Reads one node, whose inputs are read already.
    pub(crate) fn read(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        self.keep_apart(node)?;
        if self.fold_constants(node)? {
            return Ok(());
        }
        match node.operator().as_str() {
            "Constant" => {
                let known = Known::Constant(constant_node(node)?);
                self.define(node, 0, known);
                Ok(())
            }
            "Identity" | "Dropout" | "ai.onnx.ml.ZipMap" => {
                let known = self.input(node, 0)?.clone();
                self.define(node, 0, known);
                Ok(())
            }
            "Cast" => {
                let known = self.input(node, 0)?.clone();
                let to = node.int("to", 0);
                let element = i32::try_from(to).unwrap_or(0);
                let known = match known {
                    Known::Value(_) if !is_float(element) => {
                        return refuse(
                            node,
                            format!("a cast to element type {to} is not one between floats"),
                        );
                    }
                    Known::Constant(constant) => Known::Constant(constants::cast(constant, element)),
                    known => known,
                };
                self.define(node, 0, known);
                Ok(())
            }
            "Shape" => self.shape(node),
            "ConstantOfShape" => self.constant_of_shape(node),
            "Transpose" => self.transpose(node),
            "Squeeze" | "Unsqueeze" => self.change_rank(node),
            "Gather" => self.gather(node),
            "Slice" => self.slice(node),
            "Split" => self.split(node),
            "Concat" => self.concat(node),
            "Pad" => self.pad(node),
            "Expand" => self.expand(node),
            "LSTM" | "GRU" => self.recurrent(node),
            "Reshape" | "Flatten" => self.reshape(node),
            "MatMul" => self.matmul(node),
            "Gemm" => self.gemm(node),
            "Add" | "Sub" | "Mul" | "Div" => self.elementwise(node),
            "BatchNormalization" => self.batch_normalization(node),
            "Conv" => self.conv(node),
            "MaxPool" | "AveragePool" | "GlobalMaxPool" | "GlobalAveragePool" => self.pool(node),
            "ReduceMean" | "ReduceSum" | "ReduceMax" => self.reduce(node),
            "ArgMax" => self.arg_max(node),
            "LeakyRelu" | "PRelu" => self.leaky(node),
            "Where" => self.choice(node),
            "Clip" => self.clip(node),
            "Min" | "Max" => self.extreme(node),
            "Sum" => self.sum(node),
            "Pow" => self.power(node),
            "Neg" => self.negated(node, 0).map(drop),
            "Abs" => self.absolute(node),
            "Sqrt" => {
                let value = self.any_value(node, 0)?;
                self.unruled(node, 0, Unruled::Root, vec![value]).map(drop)
            }
            "Reciprocal" => {
                let value = self.any_value(node, 0)?;
                self.unruled(node, 0, Unruled::Reciprocal, vec![value]).map(drop)
            }
            "Relu" => self.function(node, Function::Relu),
            "Sigmoid" => self.function(node, Function::Sigmoid),
            "Tanh" => self.function(node, Function::Tanh),
            "Gelu" => match node.text("approximate").as_deref() {
                None | Some("none") => self.function(node, Function::Gelu),
                Some("tanh") => self.function(node, Function::GeluTanh),
                Some(other) => refuse(node, format!("its approximation '{other}' is not none or tanh")),
            },
            "Softmax" => self.softmax(node),
            "LayerNormalization" => self.layer_normalization(node),
            "ai.onnx.ml.ArrayFeatureExtractor" => self.array_feature_extractor(node),
            "ai.onnx.ml.Scaler" => self.scaler(node),
            "ai.onnx.ml.LinearRegressor" => self.linear_regressor(node),
            "ai.onnx.ml.LinearClassifier" => self.linear_classifier(node),
            "ai.onnx.ml.Normalizer" => self.normalizer(node),
            _ => trees::read(self, node),
        }
    }

    /// Element by element, of values of one shape.
    fn unruled(
        &mut self,
        node: &NodeProto,
        output: usize,
        unruled: Unruled,
        values: Vec<Value>,
    ) -> Result<Value, ImportError> {
        let (shape, axis) = (self.graph.shapes[values[0]].clone(), self.batch_axis(values[0]));
        self.step(node, output, Operation::Unruled(unruled), values, shape)?;
        self.set_batch_axis(axis);
        Ok(self.last_value())
    }

    fn function(&mut self, node: &NodeProto, function: Function) -> Result<(), ImportError> {
        let input = self.any_value(node, 0)?;
        self.function_of(node, 0, function, input)?;
        Ok(())
    }
}

fn constant_node(node: &NodeProto) -> Result<Constant, ImportError> {
    let float = |name: &str| node.attribute(name).and_then(|attribute| attribute.f);
    if let Some(tensor) = node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        return Constant::from_proto(tensor, node.label());
    }
    if let Some(value) = float("value_float") {
        return Ok(Constant::floats(vec![], vec![value.into()]));
    }
    if let Some(value) = node.attribute("value_int").and_then(|attribute| attribute.i) {
        return Ok(Constant::integers(vec![], vec![value as f64]));
    }
    if let Some(attribute) = node.attribute("value_floats") {
        let values: Vec<f64> = attribute.floats.iter().map(|&value| value.into()).collect();
        return Ok(Constant::floats(vec![values.len()], values));
    }
    if let Some(attribute) = node.attribute("value_ints") {
        let values: Vec<f64> = attribute.ints.iter().map(|&value| value as f64).collect();
        return Ok(Constant::integers(vec![values.len()], values));
    }
    refuse(node, "it holds neither a tensor nor numbers")
}
