//! The memory plan, for people.

use super::Model;
use super::graph::Element;

/// Where a tensor lies in an executor's scratch memory. Executors have an arena for each element width, whose regions are
/// used again as soon as their last reader has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferInfo {
    /// Name of the tensor: the layer that writes it, or the input.
    pub tensor: String,
    /// Element type: `i16`, `i32` (keys of trees, too) or `i64`.
    pub element: &'static str,
    /// Bytes from the begin of the arena, for each row of a batch.
    pub offset: usize,
    /// Bytes it takes for each row, padding included.
    pub bytes: usize,
}

impl Model {
    /// The buffers of the memory plan in order of execution, the input first.
    pub fn buffers(&self) -> impl Iterator<Item = BufferInfo> {
        let written = self.graph.nodes.iter().map(|node| node.output);
        std::iter::once(self.graph.input).chain(written).map(|index| {
            let (tensor, region) = (&self.graph.tensors[index], self.plan.regions[index]);
            let (element, width) = match tensor.element {
                Element::I16 => ("i16", 2),
                Element::I32 | Element::Key => ("i32", 4),
                Element::I64 => ("i64", 8),
            };
            let name = if tensor.name.is_empty() { "(unnamed)".to_owned() } else { tensor.name.clone() };
            BufferInfo { tensor: name, element, offset: region.offset * width, bytes: region.stride * width }
        })
    }
}
