//! Convolutions, pools and reductions.
//!
//! ONNX lays images out as `[channels, height, width]`; here they lie as `[height, width, channels]`, so that what a
//! kernel meets are runs of neighbours. The moves between the two are folded away where layers follow each other.

use super::ImportError;
use super::array::{Array, Dimension};
use super::float::{FloatConv, FloatPool, Operation, Value};
use super::graph::{Known, MERGED, NO_OUTPUT, Reader, refuse};
use super::moves::resolve;
use super::onnx::NodeProto;
use crate::model::graph::{Reduction, Window};

/// Lengths of windows.
const MAX_LENGTH: i64 = 1 << 20;

/// How many places a window has, where its stride does not divide what it moves over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    Floor,
    Ceil,
}

/// A value that is read as an image.
#[derive(Clone, Copy)]
struct Image {
    value: Value,
    /// Channels, height and width.
    lengths: [u32; 3],
    /// Dimensions after the channels: of a signal one, its length, which is the height.
    spatial: usize,
}

impl Reader {
    /// `[channels, height, width]` of an input whose batch comes first; of a signal, the height is its length.
    fn image(&self, node: &NodeProto) -> Result<Image, ImportError> {
        let value = self.value(node, 0)?;
        match self.graph.shapes[value][..] {
            [channels, length] => Ok(Image { value, lengths: [channels, length, 1], spatial: 1 }),
            [channels, height, width] => Ok(Image { value, lengths: [channels, height, width], spatial: 2 }),
            ref other => refuse(
                node,
                format!(
                    "its input is {other:?} a row: one or two dimensions after the channels are supported"
                ),
            ),
        }
    }

    /// The window of a node over an image, with one kernel length for each of the `spatial` dimensions.
    fn window(
        &self,
        node: &NodeProto,
        [channels, height, width]: [u32; 3],
        spatial: usize,
        kernel: &[i64],
        rounding: Places,
    ) -> Result<Window, ImportError> {
        let image = [height, width];
        let mut window = Window::point(image, channels);
        let listed = |name: &str, count: usize, default: i64| -> Result<Vec<i64>, ImportError> {
            match node.ints(name) {
                [] => Ok(vec![default; count]),
                values if values.len() == count => Ok(values.to_vec()),
                values => refuse(node, format!("its {name} {values:?} are not {count}")),
            }
        };
        let (strides, dilations) = (listed("strides", spatial, 1)?, listed("dilations", spatial, 1)?);
        let pads = listed("pads", 2 * spatial, 0)?;
        if kernel.len() != spatial {
            return refuse(node, format!("its kernel {kernel:?} does not have {spatial} dimensions"));
        }
        let lengths = kernel.iter().chain(&strides).chain(&dilations);
        if lengths.into_iter().any(|length| !(1..=MAX_LENGTH).contains(length))
            || pads.iter().any(|length| !(0..=MAX_LENGTH).contains(length))
        {
            return refuse(node, "a length of its kernel, strides, dilations or pads is out of range");
        }
        let auto = node.text("auto_pad").unwrap_or_default().into_owned();
        for axis in 0..spatial {
            let (length, stride) = (i64::from(image[axis]), strides[axis]);
            let reach = (kernel[axis] - 1) * dilations[axis] + 1;
            let (mut before, mut after) = match &auto[..] {
                "" | "NOTSET" => (pads[axis], pads[axis + spatial]),
                "VALID" => (0, 0),
                same @ ("SAME_UPPER" | "SAME_LOWER") => {
                    let total = ((length.div_euclid(stride) + i64::from(length % stride != 0) - 1) * stride
                        + reach
                        - length)
                        .max(0);
                    let less = total / 2;
                    if same == "SAME_UPPER" { (less, total - less) } else { (total - less, less) }
                }
                other => return refuse(node, format!("auto_pad {other} is unknown")),
            };
            if rounding == Places::Ceil {
                let places = (length + before + after - reach + stride - 1).div_euclid(stride) + 1;
                // A last place that would start beyond the image is none.
                let places = if (places - 1) * stride >= length + before { places - 1 } else { places };
                after = ((places - 1) * stride + reach - length - before).max(0);
            }
            if before >= reach || after >= reach || reach > before + length + after {
                return refuse(
                    node,
                    format!(
                        "a kernel that reaches over {reach} does not fit {length} padded by {before} and {after}"
                    ),
                );
            }
            window.kernel[axis] = kernel[axis] as u32;
            window.strides[axis] = stride as u32;
            window.dilations[axis] = dilations[axis] as u32;
            (window.before[axis], window.after[axis]) = (std::mem::take(&mut before) as u32, after as u32);
        }
        Ok(window)
    }

    /// A step whose value is not an output of the node.
    pub(super) fn inner(
        &mut self,
        node: &NodeProto,
        operation: Operation,
        inputs: Vec<Value>,
        shape: Vec<u32>,
    ) -> Result<Value, ImportError> {
        self.step(node, NO_OUTPUT, operation, inputs, shape)?;
        Ok(self.graph.steps.last().expect("a step was just added").output)
    }

    /// Runs a windowed operation between the two moves that bring the channels last and back.
    fn windowed(
        &mut self,
        node: &NodeProto,
        Image { value, lengths: [channels, height, width], spatial }: Image,
        outputs: u32,
        places: [usize; 2],
        operation: impl FnOnce(&mut Reader, Value, Vec<u32>) -> Result<Value, ImportError>,
    ) -> Result<(), ImportError> {
        let turned = |lengths: [u32; 3], order: [usize; 4]| {
            let dimensions: Vec<Dimension> = std::iter::once(None).chain(lengths.map(Some)).collect();
            Array::whole(dimensions).and_then(|array| array.transposed(&order))
        };
        let places = places.map(|length| length as u32);
        let last = turned([channels, height, width], [0, 2, 3, 1]);
        let first = turned([places[0], places[1], outputs], [0, 3, 1, 2]);
        let (Some(last), Some(first)) = (last, first) else {
            return refuse(node, "its image has too many elements");
        };
        let move_of = |array: Array| Operation::Move { indices: array.indices, fill: 0.0 };
        let value = self.inner(node, move_of(last), vec![value], vec![height, width, channels])?;
        let value = operation(self, value, vec![places[0], places[1], outputs])?;
        let shape = [&[outputs][..], &places[..spatial]].concat();
        self.step(node, 0, move_of(first), vec![value], shape)
    }

    pub(super) fn conv(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let image = self.image(node)?;
        let (lengths, spatial) = (image.lengths, image.spatial);
        let weights = self.constant(node, 1)?.clone();
        let groups = node.int("group", 1);
        let (outputs, channels) = match weights.shape[..] {
            [outputs, channels, ..] if weights.shape.len() == spatial + 2 => (outputs, channels),
            _ => return refuse(node, format!("its weights have shape {:?}", weights.shape)),
        };
        let fits = usize::try_from(groups).is_ok_and(|groups| {
            groups > 0
                && outputs > 0
                && outputs.is_multiple_of(groups)
                && channels.checked_mul(groups) == Some(lengths[0] as usize)
        });
        if !fits {
            let what = format!(
                "weights of {:?} in {groups} groups do not fit {} channels",
                weights.shape, lengths[0]
            );
            return refuse(node, what);
        }
        let kernel: Vec<i64> = weights.shape[2..].iter().map(|&length| length as i64).collect();
        let window = self.window(node, lengths, spatial, &kernel, Places::Floor)?;
        let bias = match self.optional(node, 2)? {
            None => vec![0.0; outputs],
            Some(Known::Constant(bias)) if bias.values.len() == outputs => bias.values.clone(),
            Some(_) => return refuse(node, format!("its bias must be {outputs} constants")),
        };
        // From [output][channel][tap] to [output][tap][channel].
        let taps = window.taps();
        let ordered = (0..weights.values.len()).map(|at| {
            let (output, rest) = (at / (taps * channels), at % (taps * channels));
            weights.values[(output * channels + rest % channels) * taps + rest / channels]
        });
        let conv = FloatConv { window, groups: groups as usize, weights: ordered.collect(), bias };
        self.windowed(node, image, outputs as u32, window.places(), |reader, value, shape| {
            reader.inner(node, Operation::Conv(Box::new(conv)), vec![value], shape)
        })
    }

    /// MaxPool, AveragePool, and the global ones.
    pub(super) fn pool(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let image = self.image(node)?;
        let (lengths, spatial) = (image.lengths, image.spatial);
        let operator = node.op_type.as_deref().unwrap_or_default();
        let kernel = match operator.starts_with("Global") {
            true => lengths[1..=spatial].iter().map(|&length| length.into()).collect(),
            false => node.ints("kernel_shape").to_vec(),
        };
        let rounding = if node.int("ceil_mode", 0) != 0 { Places::Ceil } else { Places::Floor };
        let window = self.window(node, lengths, spatial, &kernel, rounding)?;
        if node.output.get(1).is_some_and(|name| !name.is_empty() && self.is_read(name)) {
            return refuse(node, "its second output, the indices, is not supported");
        }
        let reduction = if operator.ends_with("MaxPool") { Reduction::Max } else { Reduction::Sum };
        let padded = window.before != [0; 2] || window.after != [0; 2];
        let whole = node.int("count_include_pad", 0) != 0;
        // Padding counts, but not what a last place reaches beyond it.
        let asked = match rounding {
            Places::Ceil if whole => self.window(node, lengths, spatial, &kernel, Places::Floor)?.after,
            _ => window.after,
        };
        let even = if whole { window.after == asked } else { !padded };
        let scale = if reduction == Reduction::Sum { 1.0 / window.taps() as f64 } else { 1.0 };
        let pool = FloatPool { window, reduction, scale };
        self.windowed(node, image, lengths[0], window.places(), |reader, value, shape| {
            let value = reader.inner(node, Operation::Pool(pool), vec![value], shape.clone())?;
            if reduction == Reduction::Max || even {
                return Ok(value);
            }
            // Each place is divided by the elements that it meets.
            let [rows, columns] = window.places();
            let within = |axis: usize, place: usize| {
                let (first, end) = window.taps_within(axis, place);
                if whole {
                    window.taps_before_end(axis, place, asked[axis])
                } else {
                    end.saturating_sub(first)
                }
            };
            let mut scale = Vec::with_capacity(rows * columns * shape[2] as usize);
            for place in 0..rows * columns {
                let count = within(0, place / columns) * within(1, place % columns);
                if count == 0 {
                    return refuse(node, "at a place its kernel meets nothing of the image");
                }
                scale.extend(std::iter::repeat_n(window.taps() as f64 / count as f64, shape[2] as usize));
            }
            let offset = vec![0.0; scale.len()];
            reader.inner(node, Operation::Affine { scale, offset }, vec![value], shape)
        })
    }

    /// The dimensions that remain, and the input with the reduced ones brought together, as `[outer, length, inner]`.
    #[allow(clippy::type_complexity)]
    fn reduced(
        &mut self,
        node: &NodeProto,
        axes: &[i64],
    ) -> Result<(Value, [usize; 3], Vec<Dimension>), ImportError> {
        let value = self.any_value(node, 0)?;
        let dimensions = self.dimensions(value);
        let places: Option<Vec<usize>> = axes.iter().map(|&axis| resolve(axis, dimensions.len())).collect();
        let Some(places) = places.filter(|places| places.iter().all(|&place| dimensions[place].is_some()))
        else {
            return refuse(
                node,
                format!("its axes {axes:?} contain the batch, or are beyond the dimensions"),
            );
        };
        let first = places.iter().copied().min().unwrap_or(0);
        let kept = |axis: &usize| !places.contains(axis);
        let order: Vec<usize> = (0..first)
            .chain((0..dimensions.len()).filter(|axis| !kept(axis)))
            .chain((first..dimensions.len()).filter(kept))
            .collect();
        let product = |axes: &mut dyn Iterator<Item = usize>| {
            axes.filter_map(|axis| dimensions[axis]).map(|length| length as usize).product::<usize>()
        };
        let outer = product(&mut (0..first));
        let length = product(&mut (0..dimensions.len()).filter(|axis| !kept(axis)));
        let inner = product(&mut (first..dimensions.len()).filter(kept));
        let mut remaining = dimensions.clone();
        if node.int("keepdims", 1) != 0 {
            places.iter().for_each(|&place| remaining[place] = Some(1));
        } else {
            remaining = (0..dimensions.len()).filter(kept).map(|axis| dimensions[axis]).collect();
        }
        if order.is_sorted() {
            return Ok((value, [outer, length, inner], remaining));
        }
        let Some(array) = Array::whole(dimensions).and_then(|array| array.transposed(&order)) else {
            return refuse(node, "its input has too many elements");
        };
        self.moved_values(node, NO_OUTPUT, vec![value], array, 0.0)?;
        let value = self.graph.steps.last().expect("a step was just added").output;
        Ok((value, [outer, length, inner], remaining))
    }

    /// Makes an output of the node of a step over `[outer, length, inner]`.
    fn reduce_to(
        &mut self,
        node: &NodeProto,
        output: usize,
        operation: Operation,
        value: Value,
        remaining: &[Dimension],
    ) -> Result<(), ImportError> {
        let axis = remaining.iter().position(Option::is_none).unwrap_or(MERGED);
        let row = remaining.iter().flatten().copied().collect();
        self.step(node, output, operation, vec![value], row)?;
        self.set_batch_axis(axis);
        Ok(())
    }

    /// ReduceMean, ReduceSum and ReduceMax.
    pub(super) fn reduce(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let mut axes = match self.optional(node, 1)? {
            Some(_) => self.constant(node, 1)?.values.iter().map(|&axis| axis as i64).collect(),
            None => node.ints("axes").to_vec(),
        };
        if axes.is_empty() {
            if node.int("noop_with_empty_axes", 0) != 0 {
                let known = self.input(node, 0)?.clone();
                self.define(node, 0, known);
                return Ok(());
            }
            let value = self.any_value(node, 0)?;
            axes = (0..self.dimensions(value).len() as i64).collect();
        }
        let (value, [outer, length, inner], remaining) = self.reduced(node, &axes)?;
        let (reduction, scale) = match node.op_type.as_deref() {
            Some("ReduceMax") => (Reduction::Max, 1.0),
            Some("ReduceSum") => (Reduction::Sum, 1.0),
            _ => (Reduction::Sum, 1.0 / length as f64),
        };
        let image = [outer as u32, length as u32];
        let window = Window { kernel: [1, length as u32], ..Window::point(image, inner as u32) };
        let pool = FloatPool { window, reduction, scale };
        self.reduce_to(node, 0, Operation::Pool(pool), value, &remaining)
    }

    pub(super) fn arg_max(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let (value, [outer, length, inner], remaining) = self.reduced(node, &[node.int("axis", 0)])?;
        let operation = Operation::ArgMax { length, inner };
        if node.int("select_last_index", 0) == 0 {
            return self.reduce_to(node, 0, operation, value, &remaining);
        }
        // The last of equal ones is the first from behind.
        let lengths = [outer, length, inner].map(|length| Some(length as u32)).to_vec();
        let behind: Vec<usize> = (0..length).rev().collect();
        let turned = Array::whole(lengths).and_then(|array| array.taken(1, &behind, &[Some(length as u32)]));
        let Some(turned) = turned else { return refuse(node, "its input has too many elements") };
        self.moved_values(node, NO_OUTPUT, vec![value], turned, 0.0)?;
        let turned = self.last_value();
        self.reduce_to(node, NO_OUTPUT, operation, turned, &remaining)?;
        let (index, count) = (self.last_value(), outer * inner);
        self.affine(node, 0, index, vec![-1.0; count], vec![length as f64 - 1.0; count]).map(drop)
    }
}
