//! The few messages of ONNX (`onnx.proto`) that random models are written with.

use prost::Message;

/// The version of the format; ONNX Runtime 1.17 and later read it.
const IR_VERSION: i64 = 8;
/// Operator sets by domain: the last before trees became a new operator.
const OPSETS: [(&str, i64); 2] = [("", 17), ("ai.onnx.ml", 3)];

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

/// An operator.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    strings: Vec<Vec<u8>>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

/// A constant.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    parameter: Option<String>,
}

const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// An operator of ONNX's own domain, or of `ai.onnx.ml` where its name says so.
pub(crate) fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let (domain, operator) = operator.rsplit_once('.').unwrap_or(("", operator));
    Node {
        input: owned(inputs),
        output: owned(outputs),
        op_type: operator.to_owned(),
        attribute: Vec::new(),
        domain: domain.to_owned(),
    }
}

impl Node {
    pub(crate) fn int(self, name: &str, value: i64) -> Self {
        self.with(Attribute { name: name.into(), i: Some(value), r#type: 2, ..Attribute::default() })
    }

    pub(crate) fn ints(self, name: &str, values: Vec<i64>) -> Self {
        self.with(Attribute { name: name.into(), ints: values, r#type: 7, ..Attribute::default() })
    }

    pub(crate) fn floats(self, name: &str, values: Vec<f32>) -> Self {
        self.with(Attribute { name: name.into(), floats: values, r#type: 6, ..Attribute::default() })
    }

    pub(crate) fn strings(self, name: &str, values: &[&str]) -> Self {
        let strings = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        self.with(Attribute { name: name.into(), strings, r#type: 8, ..Attribute::default() })
    }

    fn with(mut self, attribute: Attribute) -> Self {
        self.attribute.push(attribute);
        self
    }
}

/// A constant of float32.
pub(crate) fn floats(name: &str, dims: &[usize], values: &[f32]) -> Tensor {
    tensor(name, dims, FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// A constant of int64.
pub(crate) fn integers(name: &str, dims: &[usize], values: &[i64]) -> Tensor {
    tensor(name, dims, INT64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn tensor(name: &str, dims: &[usize], data_type: i32, raw_data: Vec<u8>) -> Tensor {
    let dims = dims.iter().map(|&length| length as i64).collect();
    Tensor { dims, data_type, name: name.into(), raw_data }
}

/// The file of a model from `x`, rows of shape `row`, to `y`, rows of one float.
pub(crate) fn model(name: &str, row: &[usize], nodes: Vec<Node>, constants: Vec<Tensor>) -> Vec<u8> {
    let graph = Graph {
        node: nodes,
        name: name.into(),
        initializer: constants,
        input: vec![value("x", row)],
        output: vec![value("y", &[1])],
    };
    let opset = |(domain, version): (&str, i64)| Opset { domain: domain.into(), version };
    Model { ir_version: IR_VERSION, graph: Some(graph), opset_import: OPSETS.map(opset).into() }
        .encode_to_vec()
}

fn value(name: &str, row: &[usize]) -> Value {
    let batch = Dimension { value: None, parameter: Some("rows".into()) };
    let fixed = |&length: &usize| Dimension { value: Some(length as i64), parameter: None };
    let dim = std::iter::once(batch).chain(row.iter().map(fixed)).collect();
    let tensor_type = TensorType { elem_type: FLOAT, shape: Some(Shape { dim }) };
    Value { name: name.into(), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
}
