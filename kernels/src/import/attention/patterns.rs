//! Functions that exporters spell out: GELU by `Erf`, and layer normalisation by means and a root. Each becomes the one
//! operator that later opsets have for it.

use std::collections::HashMap;

use crate::import::constant::Constant;
use crate::import::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// How far an exported constant may be from what it stands for.
const TOLERANCE: f64 = 1e-4;

/// Puts one node in the place of the last node of each pattern; the others are left to whoever else reads them.
pub(crate) fn recognise(graph: &mut GraphProto) {
    let found: Vec<(usize, NodeProto)> = {
        let names = Names::new(graph);
        let one = |node: &NodeProto| match node.op_type.as_deref() {
            Some("Erf") => names.gelu(node),
            Some("Sqrt") => names.layer_norm(node),
            _ => None,
        };
        graph.node.iter().filter_map(one).collect()
    };
    for (index, node) in found {
        graph.node[index] = node;
    }
}

/// What makes and what reads each name.
struct Names<'a> {
    graph: &'a GraphProto,
    makers: HashMap<&'a str, usize>,
    readers: HashMap<&'a str, Vec<usize>>,
    scalars: HashMap<&'a str, f64>,
}

impl<'a> Names<'a> {
    fn new(graph: &'a GraphProto) -> Names<'a> {
        let (mut makers, mut readers, mut scalars) = (HashMap::new(), HashMap::new(), HashMap::new());
        let scalar = |tensor, name: &str| {
            let constant = Constant::from_proto(tensor, name).ok()?;
            (constant.values.len() == 1).then(|| constant.values[0])
        };
        for tensor in &graph.initializer {
            let name = tensor.name.as_deref().unwrap_or_default();
            if tensor.dims.iter().all(|&length| length == 1)
                && let Some(value) = scalar(tensor, name)
            {
                scalars.insert(name, value);
            }
        }
        for (index, node) in graph.node.iter().enumerate() {
            for name in &node.output {
                makers.insert(name.as_str(), index);
            }
            for name in &node.input {
                readers.entry(name.as_str()).or_insert_with(Vec::new).push(index);
            }
            let value = node.attribute("value").and_then(|attribute| attribute.t.as_ref());
            if let (Some("Constant"), Some(tensor), Some(name)) =
                (node.op_type.as_deref(), value, node.output.first())
                && tensor.dims.iter().all(|&length| length == 1)
                && let Some(value) = scalar(tensor, name)
            {
                scalars.insert(name.as_str(), value);
            }
        }
        Names { graph, makers, readers, scalars }
    }

    fn maker(&self, name: &str, operator: &str) -> Option<&'a NodeProto> {
        let node = &self.graph.node[*self.makers.get(name)?];
        (node.op_type.as_deref() == Some(operator)).then_some(node)
    }

    /// The only reader of a name, if it is such an operator.
    fn reader(&self, name: &str, operator: &str) -> Option<(usize, &'a NodeProto)> {
        let [index] = self.readers.get(name)?[..] else { return None };
        let node = &self.graph.node[index];
        (node.op_type.as_deref() == Some(operator)).then_some((index, node))
    }

    fn is(&self, name: &str, value: f64) -> bool {
        self.scalars.get(name).is_some_and(|scalar| (scalar - value).abs() <= TOLERANCE * value.abs())
    }

    /// The other input of a node of two.
    fn other(node: &'a NodeProto, name: &str) -> Option<&'a str> {
        match &node.input[..] {
            [a, b] if a == name => Some(b),
            [a, b] if b == name => Some(a),
            _ => None,
        }
    }

    /// What a scaling by a constant reads.
    fn scaled(&self, name: &str, factor: f64) -> Option<&'a str> {
        if let Some(node) = self.maker(name, "Div")
            && let [x, divisor] = &node.input[..]
        {
            return self.is(divisor, 1.0 / factor).then_some(x);
        }
        let node = self.maker(name, "Mul")?;
        node.input.iter().find(|input| self.is(input, factor)).and_then(|factor| Self::other(node, factor))
    }

    /// `x / 2 * (1 + erf(x / sqrt(2)))`, multiplied in any order.
    fn gelu(&self, erf: &'a NodeProto) -> Option<(usize, NodeProto)> {
        let x = self.scaled(erf.input.first()?, std::f64::consts::FRAC_1_SQRT_2)?;
        let erf = erf.output.first()?;
        let (_, sum) = self.reader(erf, "Add")?;
        let sum = Self::other(sum, erf).filter(|one| self.is(one, 1.0)).and(sum.output.first())?;
        let (index, product) = self.reader(sum, "Mul")?;
        let factor = Self::other(product, sum)?;
        let whole = |index: usize, node: &NodeProto| (index, one_node("Gelu", node, &[x], Vec::new()));
        if self.scaled(factor, 0.5) == Some(x) {
            return Some(whole(index, product));
        }
        let product = product.output.first()?;
        let (index, last) = self.reader(product, "Mul")?;
        let rest = Self::other(last, product)?;
        let fits = factor == x && self.is(rest, 0.5) || rest == x && self.is(factor, 0.5);
        fits.then(|| whole(index, last))
    }

    /// The input and axis of a mean that keeps its dimension.
    fn mean(&self, name: &str) -> Option<(&'a str, i64)> {
        let node = self.maker(name, "ReduceMean")?;
        let axis = match (node.ints("axes"), node.input.get(1)) {
            (&[axis], None) => axis,
            ([], Some(axes)) => *self.scalars.get(axes.as_str())? as i64,
            _ => return None,
        };
        (node.int("keepdims", 1) == 1).then_some((node.input.first()?.as_str(), axis))
    }

    /// A value less its mean: the value, and the axis.
    fn centered(&self, name: &str) -> Option<(&'a str, i64)> {
        let [x, mean] = &self.maker(name, "Sub")?.input[..] else { return None };
        self.mean(mean).filter(|(of, _)| of == x)
    }

    /// `(x - mean) / sqrt(variance + epsilon)`, and a scale and an offset if they follow.
    fn layer_norm(&self, root: &'a NodeProto) -> Option<(usize, NodeProto)> {
        let sum = self.maker(root.input.first()?, "Add")?;
        let epsilon = sum.input.iter().find_map(|input| self.scalars.get_key_value(input.as_str()))?;
        let (square, axis) = self.mean(Self::other(sum, epsilon.0)?)?;
        let distance = match (self.maker(square, "Pow"), self.maker(square, "Mul")) {
            (Some(power), _) if self.is(power.input.get(1)?, 2.0) => power.input.first()?,
            (_, Some(product)) if product.input.first() == product.input.get(1) => product.input.first()?,
            _ => return None,
        };
        let (x, own_axis) = self.centered(distance)?;
        let (index, quotient) = self.reader(root.output.first()?, "Div")?;
        if self.centered(quotient.input.first()?)? != (x, axis) || own_axis != axis {
            return None;
        }
        let (mut last, mut inputs) = ((index, quotient), vec![x]);
        let constant = |name: &str| {
            let initializer = |tensor: &TensorProto| tensor.name.as_deref() == Some(name);
            self.maker(name, "Constant").is_some() || self.graph.initializer.iter().any(initializer)
        };
        for operator in ["Mul", "Add"] {
            let name = last.1.output.first()?;
            let next = self.reader(name, operator).and_then(|next| Some((next, Self::other(next.1, name)?)));
            match next.filter(|(_, other)| constant(other)) {
                Some((next, other)) => {
                    last = next;
                    inputs.push(other);
                }
                None if operator == "Mul" => inputs.push(""),
                None => {}
            }
        }
        let axis = AttributeProto { name: Some("axis".into()), i: Some(axis), ..Default::default() };
        let epsilon =
            AttributeProto { name: Some("epsilon".into()), f: Some(*epsilon.1 as f32), ..Default::default() };
        Some((last.0, one_node("LayerNormalization", last.1, &inputs, vec![axis, epsilon])))
    }
}

/// A node with the name and output of the last node of a pattern.
fn one_node(operator: &str, last: &NodeProto, inputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(operator.into()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        attribute,
        ..last.clone()
    }
}
