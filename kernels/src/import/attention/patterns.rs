//! GELU, which exporters spell out by `Erf` or by `Tanh`: it becomes the one operator that later opsets have for it.

use std::collections::HashMap;

use crate::import::constant::Constant;
use crate::import::onnx::{AttributeProto, GraphProto, NodeProto};

/// How far an exported constant may be from what it stands for.
const TOLERANCE: f64 = 1e-4;

/// Puts one node in the place of the last node of each pattern; the others are left to whoever else reads them.
pub(crate) fn recognise(graph: &mut GraphProto) {
    let found: Vec<(usize, NodeProto)> = {
        let names = Names::new(graph);
        let one = |node: &NodeProto| match &node.operator()[..] {
            "Erf" => names.gelu(node),
            "Tanh" => names.gelu_by_tanh(node),
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
            if let ("Constant", Some(tensor), Some(name)) = (&node.operator()[..], value, node.output.first())
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
        (node.operator() == operator).then_some(node)
    }

    /// The only reader of a name, if it is such an operator.
    fn reader(&self, name: &str, operator: &str) -> Option<(usize, &'a NodeProto)> {
        let [index] = self.readers.get(name)?[..] else { return None };
        let node = &self.graph.node[index];
        (node.operator() == operator).then_some((index, node))
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
        self.half_of(x, erf, Vec::new())
    }

    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`.
    fn gelu_by_tanh(&self, tanh: &'a NodeProto) -> Option<(usize, NodeProto)> {
        let sum = self.scaled(tanh.input.first()?, (2.0 / std::f64::consts::PI).sqrt())?;
        let [a, b] = &self.maker(sum, "Add")?.input[..] else { return None };
        let is_cube_of = |name: &str, x: &str| {
            let cube = self.scaled(name, 0.044715).and_then(|cube| self.maker(cube, "Pow"));
            cube.is_some_and(|cube| matches!(&cube.input[..], [of, three] if of == x && self.is(three, 3.0)))
        };
        let x = if is_cube_of(b, a) { a } else { is_cube_of(a, b).then_some(b)? };
        let name = Some("approximate".into());
        let approximate = AttributeProto { name, s: Some(b"tanh".to_vec()), ..Default::default() };
        self.half_of(x, tanh, vec![approximate])
    }

    /// `x / 2 * (1 + function)`, multiplied in any order.
    fn half_of(
        &self,
        x: &'a str,
        function: &'a NodeProto,
        attributes: Vec<AttributeProto>,
    ) -> Option<(usize, NodeProto)> {
        let function = function.output.first()?;
        let (_, sum) = self.reader(function, "Add")?;
        let sum = Self::other(sum, function).filter(|one| self.is(one, 1.0)).and(sum.output.first())?;
        let (index, product) = self.reader(sum, "Mul")?;
        let factor = Self::other(product, sum)?;
        let whole = |index: usize, node: &NodeProto| (index, one_node("Gelu", node, &[x], attributes));
        if self.scaled(factor, 0.5) == Some(x) {
            return Some(whole(index, product));
        }
        let product = product.output.first()?;
        let (index, last) = self.reader(product, "Mul")?;
        let rest = Self::other(last, product)?;
        let fits = factor == x && self.is(rest, 0.5) || rest == x && self.is(factor, 0.5);
        fits.then(|| whole(index, last))
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
