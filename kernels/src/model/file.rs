//! The model file: FlatBuffers, verified before it is read.
//!
//! Decoding checks only that the file is what the schema says; [`super::validate`] checks what it means.

mod attention;
mod dense;
mod recurrent;
mod trees;
mod window;

use flatbuffers::{FlatBufferBuilder, Vector, VerifierOptions, WIPOffset};

use super::graph::{self, Activation, Affine, Element, Graph, Node, Operator, Tensor};
use super::model_generated::haca::model as schema;
use super::{Calibration, LoadError};

/// Version of the file's meaning; a reader refuses any other.
pub(crate) const VERSION: u16 = 1;

/// Larger files are refused before they are looked at; also the limit of FlatBuffers' offsets.
pub(crate) const MAX_FILE: usize = 1 << 30;

/// What a file says beside its graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) producer: String,
    pub(crate) source_digest: [u8; 32],
    pub(crate) calibration: Calibration,
}

pub(crate) fn encode(graph: &Graph, metadata: &Metadata) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let b = &mut builder;
    let tensors: Vec<_> = graph.tensors.iter().map(|tensor| encode_tensor(b, tensor)).collect();
    let nodes: Vec<_> = graph.nodes.iter().map(|node| encode_node(b, node)).collect();
    let calibration = &metadata.calibration;
    let calibration = schema::Calibration::create(
        b,
        &schema::CalibrationArgs {
            rows: calibration.rows,
            max_error: calibration.max_error,
            mean_error: calibration.mean_error,
            range: calibration.range,
        },
    );
    let arguments = schema::ModelArgs {
        version: VERSION,
        name: Some(b.create_string(&metadata.name)),
        producer: Some(b.create_string(&metadata.producer)),
        source_digest: Some(b.create_vector(&metadata.source_digest)),
        tensors: Some(b.create_vector(&tensors)),
        nodes: Some(b.create_vector(&nodes)),
        input: graph.input as u32,
        output: graph.output as u32,
        calibration: Some(calibration),
    };
    let model = schema::Model::create(b, &arguments);
    schema::finish_model_buffer(b, model);
    builder.finished_data().to_vec()
}

fn encode_tensor<'a>(b: &mut FlatBufferBuilder<'a>, tensor: &Tensor) -> WIPOffset<schema::Tensor<'a>> {
    let exponents = (!tensor.exponents.is_empty()).then(|| narrow(&tensor.exponents));
    let arguments = schema::TensorArgs {
        name: Some(b.create_string(&tensor.name)),
        shape: Some(b.create_vector(&tensor.shape)),
        element: match tensor.element {
            Element::I16 => schema::Element::I16,
            Element::I32 => schema::Element::I32,
            Element::I64 => schema::Element::I64,
            Element::Key => schema::Element::Key,
        },
        exponent: tensor.exponent as i16,
        exponents: exponents.map(|exponents| b.create_vector(&exponents)),
        minimum: tensor.minimum,
        maximum: tensor.maximum,
    };
    schema::Tensor::create(b, &arguments)
}

/// Exponents lie within `EXPONENTS`, far inside an `i16`.
fn narrow(exponents: &[i32]) -> Vec<i16> {
    exponents.iter().map(|&exponent| exponent as i16).collect()
}

/// The activation and its slope.
fn encode_activation(activation: Activation) -> (schema::Activation, i16) {
    match activation {
        Activation::None => (schema::Activation::None, 0),
        Activation::Sigmoid => (schema::Activation::Sigmoid, 0),
        Activation::Tanh => (schema::Activation::Tanh, 0),
        Activation::Leaky(slope) => (schema::Activation::Leaky, slope),
        Activation::Gelu => (schema::Activation::Gelu, 0),
        Activation::GeluTanh => (schema::Activation::GeluTanh, 0),
    }
}

fn encode_node<'a>(b: &mut FlatBufferBuilder<'a>, node: &Node) -> WIPOffset<schema::Node<'a>> {
    let (kind, operator) = match &node.operator {
        Operator::Dense(dense) => (schema::Operator::Dense, dense::encode(b, dense).as_union_value()),
        Operator::Affine(affine) => {
            let arguments = schema::AffineArgs {
                multipliers: Some(b.create_vector(&affine.multipliers)),
                offsets: Some(b.create_vector(&affine.offsets)),
                shifts: Some(b.create_vector(&affine.shifts)),
            };
            (schema::Operator::Affine, schema::Affine::create(b, &arguments).as_union_value())
        }
        &Operator::Add { subtract } => {
            (schema::Operator::Add, schema::Add::create(b, &schema::AddArgs { subtract }).as_union_value())
        }
        Operator::Map(activation) => {
            let (activation, slope) = encode_activation(*activation);
            let arguments = schema::MapArgs { activation, slope };
            (schema::Operator::Map, schema::Map::create(b, &arguments).as_union_value())
        }
        Operator::Trees(trees) => (schema::Operator::Trees, trees::encode(b, trees).as_union_value()),
        Operator::Recurrent(layer) => {
            (schema::Operator::Recurrent, recurrent::encode(b, layer).as_union_value())
        }
        Operator::Move(elements) => {
            let indices = Some(b.create_vector(&elements.indices));
            let moved = schema::Move::create(b, &schema::MoveArgs { indices, fill: elements.fill });
            (schema::Operator::Move, moved.as_union_value())
        }
        Operator::Conv(conv) => (schema::Operator::Conv, window::encode_conv(b, conv).as_union_value()),
        Operator::Pool(pool) => (schema::Operator::Pool, window::encode_pool(b, pool).as_union_value()),
        Operator::Multiply => {
            let product = schema::Multiply::create(b, &schema::MultiplyArgs {});
            (schema::Operator::Multiply, product.as_union_value())
        }
        &Operator::ArgMax { length, inner } => {
            let arguments = schema::ArgMaxArgs { length: length as u32, inner: inner as u32 };
            (schema::Operator::ArgMax, schema::ArgMax::create(b, &arguments).as_union_value())
        }
        Operator::MatMul(matmul) => {
            (schema::Operator::MatMul, attention::encode_matmul(b, matmul).as_union_value())
        }
        Operator::Softmax(softmax) => {
            (schema::Operator::Softmax, attention::encode_softmax(b, softmax).as_union_value())
        }
        Operator::LayerNorm(norm) => {
            (schema::Operator::LayerNorm, attention::encode_layer_norm(b, norm).as_union_value())
        }
        Operator::Slide => unreachable!("the form of a stream is in no file"),
    };
    let inputs: Vec<u32> = node.inputs.iter().map(|&input| input as u32).collect();
    let arguments = schema::NodeArgs {
        name: Some(b.create_string(&node.name)),
        source: Some(b.create_string(&node.source)),
        inputs: Some(b.create_vector(&inputs)),
        output: node.output as u32,
        operator_type: kind,
        operator: Some(operator),
    };
    schema::Node::create(b, &arguments)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<(Graph, Metadata), LoadError> {
    if bytes.len() > MAX_FILE {
        return Err(LoadError::TooLarge { size: bytes.len() });
    }
    if bytes.len() < 8 || !schema::model_buffer_has_identifier(bytes) {
        return Err(LoadError::NotAModel);
    }
    // Tensors and nodes are limited by `validate`; each takes at most five tables. The apparent size counts what is
    // pointed at twice twice: it keeps a small file from decoding to a large graph.
    let options = VerifierOptions {
        max_tables: 1 << 17,
        max_apparent_size: 2 * bytes.len() + (1 << 16),
        ..Default::default()
    };
    let model = schema::root_as_model_with_opts(&options, bytes)
        .map_err(|error| LoadError::Malformed(error.to_string()))?;
    if model.version() != VERSION {
        return Err(LoadError::Version { found: model.version() });
    }
    let tensors = model.tensors().into_iter().flatten().map(decode_tensor).collect::<Result<_, _>>()?;
    let nodes = model.nodes().into_iter().flatten().map(decode_node).collect::<Result<_, _>>()?;
    let graph = Graph { tensors, nodes, input: model.input() as usize, output: model.output() as usize };
    let calibration = model.calibration().map_or_else(Calibration::default, |calibration| Calibration {
        rows: calibration.rows(),
        max_error: calibration.max_error(),
        mean_error: calibration.mean_error(),
        range: calibration.range(),
    });
    let digest = model.source_digest().map_or(&[][..], |digest| digest.bytes());
    let metadata = Metadata {
        name: model.name().unwrap_or_default().to_owned(),
        producer: model.producer().unwrap_or_default().to_owned(),
        source_digest: digest
            .try_into()
            .map_err(|_| LoadError::Malformed("source digest is not 32 bytes".into()))?,
        calibration,
    };
    Ok((graph, metadata))
}

/// The elements of a vector; an absent one is empty.
fn list<'a, T: flatbuffers::Follow<'a, Inner = T> + 'a>(vector: Option<Vector<'a, T>>) -> Vec<T> {
    vector.into_iter().flatten().collect()
}

fn widen(exponents: Option<Vector<'_, i16>>) -> Vec<i32> {
    exponents.into_iter().flatten().map(i32::from).collect()
}

fn decode_tensor(tensor: schema::Tensor<'_>) -> Result<Tensor, LoadError> {
    Ok(Tensor {
        name: tensor.name().unwrap_or_default().to_owned(),
        shape: list(tensor.shape()),
        element: match tensor.element() {
            schema::Element::I16 => Element::I16,
            schema::Element::I32 => Element::I32,
            schema::Element::I64 => Element::I64,
            schema::Element::Key => Element::Key,
            other => return Err(LoadError::Malformed(format!("unknown element type {}", other.0))),
        },
        exponent: tensor.exponent().into(),
        exponents: widen(tensor.exponents()),
        minimum: tensor.minimum(),
        maximum: tensor.maximum(),
    })
}

fn decode_activation(activation: schema::Activation, slope: i16) -> Result<Activation, LoadError> {
    match activation {
        schema::Activation::None => Ok(Activation::None),
        schema::Activation::Sigmoid => Ok(Activation::Sigmoid),
        schema::Activation::Tanh => Ok(Activation::Tanh),
        schema::Activation::Leaky => Ok(Activation::Leaky(slope)),
        schema::Activation::Gelu => Ok(Activation::Gelu),
        schema::Activation::GeluTanh => Ok(Activation::GeluTanh),
        other => Err(LoadError::Malformed(format!("unknown activation {}", other.0))),
    }
}

fn decode_node(node: schema::Node<'_>) -> Result<Node, LoadError> {
    let operator = if let Some(dense) = node.operator_as_dense() {
        Operator::Dense(dense::decode(dense)?)
    } else if let Some(affine) = node.operator_as_affine() {
        Operator::Affine(Affine {
            multipliers: list(affine.multipliers()),
            offsets: list(affine.offsets()),
            shifts: list(affine.shifts()),
        })
    } else if let Some(add) = node.operator_as_add() {
        Operator::Add { subtract: add.subtract() }
    } else if let Some(map) = node.operator_as_map() {
        Operator::Map(decode_activation(map.activation(), map.slope())?)
    } else if let Some(trees) = node.operator_as_trees() {
        Operator::Trees(trees::decode(trees)?)
    } else if let Some(layer) = node.operator_as_recurrent() {
        Operator::Recurrent(recurrent::decode(layer)?)
    } else if let Some(elements) = node.operator_as_move() {
        Operator::Move(graph::Move { indices: list(elements.indices()), fill: elements.fill() })
    } else if let Some(conv) = node.operator_as_conv() {
        Operator::Conv(window::decode_conv(conv)?)
    } else if let Some(pool) = node.operator_as_pool() {
        Operator::Pool(window::decode_pool(pool)?)
    } else if node.operator_as_multiply().is_some() {
        Operator::Multiply
    } else if let Some(largest) = node.operator_as_arg_max() {
        Operator::ArgMax { length: largest.length() as usize, inner: largest.inner() as usize }
    } else if let Some(matmul) = node.operator_as_mat_mul() {
        Operator::MatMul(attention::decode_matmul(matmul)?)
    } else if let Some(softmax) = node.operator_as_softmax() {
        Operator::Softmax(attention::decode_softmax(softmax))
    } else if let Some(norm) = node.operator_as_layer_norm() {
        Operator::LayerNorm(attention::decode_layer_norm(norm))
    } else {
        return Err(LoadError::Malformed(format!("unknown operator {}", node.operator_type().0)));
    };
    Ok(graph::Node {
        name: node.name().unwrap_or_default().to_owned(),
        source: node.source().unwrap_or_default().to_owned(),
        inputs: node.inputs().into_iter().flatten().map(|input| input as usize).collect(),
        output: node.output() as usize,
        operator,
    })
}
