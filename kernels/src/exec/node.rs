//! One node: the form in which its executors read it, and which of them computes it.

use super::scratch::Scratch;
use super::{Backend, attention, conv, dense, forest, moves, recurrent, scalar};
#[cfg(target_arch = "x86_64")]
use super::{elementwise, pool};
use crate::model::Model;
use crate::model::graph::{Graph, Node, Operator};
use crate::model::validate::Proof;

/// What a node's weights were packed into at load, for executors other than the reference.
#[derive(Debug)]
pub(crate) enum Packed {
    /// The graph's own form is read.
    None,
    Dense(dense::PackedDense),
    Forest(forest::PackedForest),
    Recurrent(recurrent::PackedRecurrent),
    Conv(conv::PackedConv),
    Move(moves::PackedMove),
    MatMul(attention::matmul::PackedMatMul),
    Softmax(attention::softmax::PackedSoftmax),
    LayerNorm(attention::layer_norm::PackedLayerNorm),
}

impl Packed {
    pub(crate) fn new(graph: &Graph, node: &Node, proof: Proof) -> Packed {
        match &node.operator {
            Operator::Dense(dense) => {
                let (input, output) = (&graph.tensors[node.inputs[0]], &graph.tensors[node.output]);
                Packed::Dense(dense::PackedDense::new(dense, input, output, proof))
            }
            Operator::Trees(trees) => forest::PackedForest::new(trees).map_or(Packed::None, Packed::Forest),
            Operator::Recurrent(layer) => {
                let (input, output) = (&graph.tensors[node.inputs[0]], &graph.tensors[node.output]);
                recurrent::PackedRecurrent::new(layer, input, output).map_or(Packed::None, Packed::Recurrent)
            }
            Operator::Conv(layer) => {
                let (input, output) = (&graph.tensors[node.inputs[0]], &graph.tensors[node.output]);
                Packed::Conv(conv::PackedConv::new(layer, input, output, proof))
            }
            Operator::Move(elements) => Packed::Move(moves::PackedMove::new(elements, graph, node)),
            Operator::MatMul(matmul) => {
                let inputs = [0, 1].map(|side| &graph.tensors[node.inputs[side]]);
                let output = &graph.tensors[node.output];
                Packed::MatMul(attention::matmul::PackedMatMul::new(matmul, inputs, output, proof))
            }
            Operator::Softmax(softmax) => {
                Packed::Softmax(attention::softmax::PackedSoftmax::new(softmax, &graph.tensors[node.output]))
            }
            Operator::LayerNorm(norm) => {
                attention::layer_norm::PackedLayerNorm::new(norm, &graph.tensors[node.output], proof)
                    .map_or(Packed::None, Packed::LayerNorm)
            }
            _ => Packed::None,
        }
    }

    /// Bytes of branches that a backend reads for a row alone.
    pub(crate) fn branch_bytes(&self, backend: Backend) -> usize {
        if let Packed::Forest(forest) = self { forest.row_bytes(backend) } else { 0 }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Packed::None | Packed::Softmax(_) => 0,
            Packed::LayerNorm(norm) => norm.memory_bytes(),
            Packed::MatMul(matmul) => matmul.memory_bytes(),
            Packed::Dense(dense) => dense.memory_bytes(),
            Packed::Forest(forest) => forest.memory_bytes(),
            Packed::Recurrent(layer) => layer.memory_bytes(),
            Packed::Conv(layer) => layer.memory_bytes(),
            Packed::Move(elements) => elements.memory_bytes(),
        }
    }
}

/// Computes one node for rows `0..rows`.
pub(super) fn execute(
    backend: Backend,
    model: &Model,
    node: &Node,
    packed: &Packed,
    scratch: &mut Scratch,
    rows: usize,
) {
    let region = |tensor: usize| model.plan.regions[tensor];
    #[cfg(target_arch = "x86_64")]
    let walk = || {
        let Operator::Recurrent(layer) = &node.operator else {
            unreachable!("packed from a recurrent layer")
        };
        recurrent::Walk::new(model, node, layer)
    };
    match (backend, packed) {
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::Dense(dense)) => {
            let rows = dense.rows(scratch, region(node.inputs[0]), region(node.output), rows);
            // SAFETY: `with_backend` refused this backend unless the processor has it; `rows` asserts the rest.
            unsafe { dense.execute(backend, &rows) }
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::Conv(layer)) => {
            // SAFETY: `with_backend` refused this backend unless the processor has it.
            unsafe { layer.execute(backend, scratch, region(node.inputs[0]), region(node.output), rows) }
        }
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::Move(elements)) => {
            elements.execute(&model.plan, node, scratch, rows);
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx512Vnni, Packed::Recurrent(layer)) => {
            // SAFETY: `with_backend` refused this backend unless the processor has AVX-512 F, BW and VNNI.
            unsafe {
                recurrent::steps::execute::<recurrent::avx512::Avx512Vnni>(
                    layer,
                    walk(),
                    scratch,
                    region(node.inputs[0]),
                    region(node.output),
                    rows,
                );
            }
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2, Packed::Recurrent(layer)) => {
            // SAFETY: `with_backend` refused this backend unless the processor has AVX2.
            unsafe {
                recurrent::steps::execute::<recurrent::avx2::Avx2>(
                    layer,
                    walk(),
                    scratch,
                    region(node.inputs[0]),
                    region(node.output),
                    rows,
                );
            }
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::MatMul(matmul)) => {
            let inputs = [0, 1].map(|side| region(node.inputs[side]));
            // SAFETY: `with_backend` refused this backend unless the processor has it.
            unsafe { matmul.execute(backend, scratch, inputs, region(node.output), rows) }
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::Softmax(softmax)) => {
            // SAFETY: `with_backend` refused this backend unless the processor has AVX2.
            unsafe { softmax.execute(scratch, region(node.inputs[0]), region(node.output), rows) }
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::LayerNorm(norm)) => {
            // SAFETY: `with_backend` refused this backend unless the processor has AVX2.
            unsafe { norm.execute(scratch, region(node.inputs[0]), region(node.output), rows) }
        }
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::Forest(forest)) => {
            let Operator::Trees(trees) = &node.operator else { unreachable!("only trees pack to a forest") };
            let (from, to) = (region(node.inputs[0]), region(node.output));
            #[cfg(target_arch = "x86_64")]
            if backend == Backend::Avx512Vnni {
                // SAFETY: `with_backend` refused this backend unless the processor has AVX-512 F and CD.
                unsafe { forest.execute_avx512(trees, scratch, from, to, rows) };
            } else {
                // SAFETY: `with_backend` refused this backend unless the processor has AVX2.
                unsafe { forest.execute_avx2(trees, scratch, from, to, rows) };
            }
            #[cfg(not(target_arch = "x86_64"))]
            forest.execute(trees, scratch, from, to, 0..rows);
        }
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2 | Backend::Avx512Vnni, Packed::None) => {
            if let Operator::Pool(pool) = &node.operator {
                let (from, to) = (region(node.inputs[0]), region(node.output));
                let [input, output] =
                    [node.inputs[0], node.output].map(|tensor| &model.graph.tensors[tensor]);
                if pool::is_supported(pool, input, from, to) {
                    // SAFETY: `with_backend` refused this backend unless the processor has AVX2.
                    unsafe { pool::execute(pool, output, scratch, from, to, rows) };
                    return;
                }
            }
            // SAFETY: `with_backend` refused this backend unless the processor has AVX2.
            if !unsafe { elementwise::execute(&model.graph.tensors, &model.plan, node, scratch, rows) } {
                scalar::execute(model, node, scratch, rows);
            }
        }
        _ => scalar::execute(model, node, scratch, rows),
    }
}
