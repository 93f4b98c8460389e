//! What a row takes to compute: what a machine's peak is set against.

use super::Model;
use super::graph::{Conv, Node, Operator, Window};
use crate::exec::Backend;

/// What the layers take for one row alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-adds of all products, with weights and of two computed matrices.
    pub multiply_adds: usize,
    /// Branches of all trees: in vectors each is compared, whether or not a walk would meet it.
    pub branches: usize,
    /// Bytes of weights and of branches that are read; a recurrent layer's at each step, save those that its inputs meet,
    /// which meet many steps together.
    pub bytes: usize,
}

impl Model {
    /// What a row takes on a backend.
    pub fn work(&self, backend: Backend) -> Work {
        let nodes = self.graph.nodes.iter().zip(&self.packed);
        nodes.fold(Work::default(), |sum, (node, packed)| {
            let (multiply_adds, weights) = self.products(node);
            let branches = if let Operator::Trees(trees) = &node.operator { trees.features.len() } else { 0 };
            Work {
                multiply_adds: sum.multiply_adds + multiply_adds,
                branches: sum.branches + branches,
                bytes: sum.bytes + weights * size_of::<i16>() + packed.branch_bytes(backend),
            }
        })
    }

    /// The multiply-adds of a node, and the weights that it reads for them.
    fn products(&self, node: &Node) -> (usize, usize) {
        match &node.operator {
            Operator::Dense(dense) => (dense.weights.len(), dense.weights.len()),
            Operator::Conv(Conv { window, product, .. }) => {
                let weights = product.weights.len();
                (weights / window.taps() * meetings(window), weights)
            }
            Operator::Recurrent(layer) => {
                let steps = self.graph.tensors[node.inputs[0]].len() / layer.features();
                let (input, recurrent) = (layer.input_weights.len(), layer.recurrent_weights.len());
                (steps * (input + recurrent), input + steps * recurrent)
            }
            Operator::MatMul(matmul) => (matmul.matrices * matmul.rows * matmul.inner * matmul.columns, 0),
            _ => (0, 0),
        }
    }
}

/// How often a tap of the kernel meets a pixel of the image.
fn meetings(window: &Window) -> usize {
    let places = window.places();
    let along = |axis: usize| {
        let taps = (0..places[axis]).map(|place| window.taps_within(axis, place));
        taps.map(|(first, end)| end.saturating_sub(first)).sum::<usize>()
    };
    along(0) * along(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_padded_kernel_meets_fewer_pixels_than_it_has_taps_at_all_places() {
        let mut window = Window::point([4, 5], 1);
        assert_eq!(meetings(&window), 20);
        window.kernel = [3, 3];
        assert_eq!(meetings(&window), 2 * 3 * 9);
        (window.before, window.after) = ([1, 1], [1, 1]);
        // Along four rows the taps meet 2, 3, 3 and 2 of them, along five columns 2, 3, 3, 3 and 2.
        assert_eq!(meetings(&window), 10 * 13);
    }
}
