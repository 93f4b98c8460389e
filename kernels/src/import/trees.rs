//! `TreeEnsembleRegressor` and `TreeEnsembleClassifier` of `ai.onnx.ml`, versions 1 to 3.
//!
//! Of a classifier the scores are served, never the label. For two classes whose leaves vote for one of them only, ONNX
//! leaves open what the scores are; what ONNX Runtime computes is taken: with no negative vote `1 - s, s`, else `-s, s`
//! or, under LOGISTIC, `sigmoid(-s), sigmoid(s)`.

use std::collections::{HashMap, HashSet};

use super::ImportError;
use super::features::{Feature, features};
use super::float::{Branch, Comparison, Ensemble, Finish, Operation, Tree};
use super::graph::{NO_OUTPUT, Reader, refuse};
use super::onnx::NodeProto;

const MAX_TARGETS: i64 = 1 << 12;

/// Reads the ensemble and appends it to the graph.
pub(crate) fn read(reader: &mut Reader, node: &NodeProto) -> Result<(), ImportError> {
    let input = reader.value(node, 0)?;
    let Some(features) = features(&reader.graph, input) else {
        return refuse(
            node,
            "it must read the model's input itself, or features of it chosen or scaled by a Scaler: thresholds are exact on floats as they were sent",
        );
    };
    if let Some(attribute) =
        node.attribute.iter().find(|a| a.name.as_deref().is_some_and(|n| n.ends_with("_as_tensor")))
    {
        let name = attribute.name.as_deref().unwrap_or_default();
        return refuse(
            node,
            format!("attribute {name} (float64 trees) is not supported; export it for float32"),
        );
    }
    let classifier = node.operator() == "ai.onnx.ml.TreeEnsembleClassifier";
    let prefix = if classifier { "class" } else { "target" };
    let votes = Votes::read(node, prefix)?;
    let shape = if classifier { classify(node, &votes)? } else { regress(node)? };
    let (mut trees, targets) = (build_trees(node, &features, &votes)?, shape.targets);
    let average = if classifier { 1.0 } else { aggregate(node, trees.len())? };
    for entry in trees.iter_mut().flat_map(|tree| &mut tree.leaves).flatten() {
        if shape.merged {
            entry.0 = 0;
        }
        if usize::from(entry.0) >= targets {
            return refuse(node, format!("a leaf votes for {} of {targets} targets", entry.0));
        }
        entry.1 *= average;
    }
    let ensemble = Ensemble { trees, base: shape.base, finish: shape.finish };
    let outputs = shape.finish.outputs(targets) as u32;
    let output = if shape.softmax { NO_OUTPUT } else { usize::from(classifier) };
    reader.step(node, output, Operation::Ensemble(ensemble), vec![0], vec![outputs])?;
    if shape.softmax {
        let scores = reader.graph.steps.last().expect("a step was just added").output;
        reader.shares(node, usize::from(classifier), scores)?;
    }
    Ok(())
}

/// What becomes of the leaf sums.
struct Shape {
    targets: usize,
    base: Vec<f64>,
    finish: Finish,
    /// All votes go to one sum, whatever their class.
    merged: bool,
    /// Softmax of the sums follows.
    softmax: bool,
}

/// The votes of leaves, by place in the attribute lists.
struct Votes {
    by_leaf: HashMap<(i64, i64), Vec<(u16, f64)>>,
    classes: HashSet<i64>,
    negative: bool,
}

impl Votes {
    fn read(node: &NodeProto, prefix: &str) -> Result<Votes, ImportError> {
        let ints = |name: &str| node.ints(&format!("{prefix}_{name}"));
        let (trees, nodes, ids) = (ints("treeids"), ints("nodeids"), ints("ids"));
        let weights = node.floats(&format!("{prefix}_weights"));
        if [trees.len(), nodes.len(), ids.len()] != [weights.len(); 3] {
            return refuse(node, format!("its {prefix}_ attributes differ in length"));
        }
        let mut votes = Votes { by_leaf: HashMap::new(), classes: HashSet::new(), negative: false };
        for (index, &weight) in weights.iter().enumerate() {
            let Some(id) = u16::try_from(ids[index]).ok().filter(|&id| i64::from(id) < MAX_TARGETS) else {
                return refuse(node, format!("target {} is not in 0..{MAX_TARGETS}", ids[index]));
            };
            if !weight.is_finite() {
                return refuse(node, format!("a leaf's weight is {weight}"));
            }
            votes.classes.insert(ids[index]);
            votes.negative |= weight < 0.0;
            votes.by_leaf.entry((trees[index], nodes[index])).or_default().push((id, weight.into()));
        }
        Ok(votes)
    }
}

fn base_values(node: &NodeProto) -> Result<Vec<f64>, ImportError> {
    let base: Vec<f64> = node.floats("base_values").iter().map(|&value| value.into()).collect();
    if let Some(value) = base.iter().find(|value| !value.is_finite()) {
        return refuse(node, format!("a base value is {value}"));
    }
    Ok(base)
}

/// What becomes of the sums of several targets or classes.
#[derive(Clone, Copy, PartialEq)]
enum Transform {
    None,
    Logistic,
    Softmax,
}

/// Transforms that are not supported are refused by name.
fn transform(node: &NodeProto) -> Result<Transform, ImportError> {
    match node.text("post_transform").as_deref() {
        None | Some("NONE") => Ok(Transform::None),
        Some("LOGISTIC") => Ok(Transform::Logistic),
        Some("SOFTMAX") => Ok(Transform::Softmax),
        Some(other) => {
            refuse(node, format!("post_transform {other} is not supported: NONE, LOGISTIC and SOFTMAX are"))
        }
    }
}

fn regress(node: &NodeProto) -> Result<Shape, ImportError> {
    let targets = node.int("n_targets", 1);
    if !(1..=MAX_TARGETS).contains(&targets) {
        return refuse(node, format!("n_targets is {targets}; 1 to {MAX_TARGETS} are supported"));
    }
    let targets = targets as usize;
    let mut base = base_values(node)?;
    if base.is_empty() {
        base = vec![0.0; targets];
    }
    if base.len() != targets {
        return refuse(node, format!("{} base values for {targets} targets", base.len()));
    }
    Ok(Shape::of(targets, base, transform(node)?))
}

impl Shape {
    fn of(targets: usize, base: Vec<f64>, transform: Transform) -> Shape {
        let finish = if transform == Transform::Logistic { Finish::Logistic } else { Finish::Sum };
        Shape { targets, base, finish, merged: false, softmax: transform == Transform::Softmax }
    }
}

fn classify(node: &NodeProto, votes: &Votes) -> Result<Shape, ImportError> {
    let labels = |name: &str| node.attribute(name).map_or(0, |a| a.ints.len().max(a.strings.len()));
    let classes = labels("classlabels_int64s").max(labels("classlabels_strings"));
    if classes < 2 || classes > MAX_TARGETS as usize {
        return refuse(node, format!("it has {classes} class labels; 2 to {MAX_TARGETS} are supported"));
    }
    let (transform, base) = (transform(node)?, base_values(node)?);
    if classes == 2 && votes.classes.len() <= 1 {
        let finish = match (base.len(), votes.negative, transform) {
            (_, _, Transform::Softmax) => {
                return refuse(node, "SOFTMAX of one sum for two classes is not supported");
            }
            (0 | 1, false, _) => Finish::Complement,
            (0..=2, _, Transform::Logistic) => Finish::LogisticPair,
            (0..=2, _, Transform::None) => Finish::Negate,
            _ => return refuse(node, format!("{} base values for two classes", base.len())),
        };
        let base = vec![base.last().copied().unwrap_or(0.0)];
        return Ok(Shape { targets: 1, base, finish, merged: true, softmax: false });
    }
    let base = match base.len() {
        0 => vec![0.0; classes],
        // With votes for both of two classes, runtimes disagree about what base values are added to.
        count if count == classes && classes > 2 => base,
        count => {
            return refuse(
                node,
                format!("{count} base values for {classes} classes with votes of their own"),
            );
        }
    };
    Ok(Shape::of(classes, base, transform))
}

/// The factor on leaves that makes a sum the aggregate.
fn aggregate(node: &NodeProto, trees: usize) -> Result<f64, ImportError> {
    match node.text("aggregate_function").as_deref() {
        None | Some("SUM") => Ok(1.0),
        Some("AVERAGE") => Ok(1.0 / trees as f64),
        Some(other) => {
            refuse(node, format!("aggregate_function {other} is not supported: SUM and AVERAGE are"))
        }
    }
}

/// The nodes' attribute lists, all of one length.
struct Lists<'a> {
    trees: &'a [i64],
    ids: &'a [i64],
    features: &'a [i64],
    values: &'a [f32],
    modes: &'a [Vec<u8>],
    when_true: &'a [i64],
    when_false: &'a [i64],
}

fn build_trees(node: &NodeProto, features: &[Feature], votes: &Votes) -> Result<Vec<Tree>, ImportError> {
    let lists = Lists {
        trees: node.ints("nodes_treeids"),
        ids: node.ints("nodes_nodeids"),
        features: node.ints("nodes_featureids"),
        values: node.floats("nodes_values"),
        modes: node.attribute("nodes_modes").map_or(&[], |attribute| &attribute.strings),
        when_true: node.ints("nodes_truenodeids"),
        when_false: node.ints("nodes_falsenodeids"),
    };
    let count = lists.trees.len();
    let lengths = [lists.ids.len(), lists.features.len(), lists.when_true.len(), lists.when_false.len()];
    if lengths != [count; 4] || lists.values.len() != count || lists.modes.len() != count || count == 0 {
        return refuse(node, "its nodes_ attributes are empty, or differ in length");
    }
    let mut places = HashMap::with_capacity(count);
    let mut members: Vec<Vec<usize>> = Vec::new();
    let mut tree_places = HashMap::new();
    for place in 0..count {
        let tree = lists.trees[place];
        if places.insert((tree, lists.ids[place]), place).is_some() {
            return refuse(node, format!("tree {tree} has two nodes {}", lists.ids[place]));
        }
        let index = *tree_places.entry(tree).or_insert_with(|| {
            members.push(Vec::new());
            members.len() - 1
        });
        members[index].push(place);
    }
    if let Some((tree, leaf)) = votes.by_leaf.keys().find(|leaf| !places.contains_key(leaf)) {
        return refuse(node, format!("votes are given for node {leaf} of tree {tree}, which is not there"));
    }
    members.iter().map(|members| build_tree(node, &lists, &places, members, features, votes)).collect()
}

fn build_tree(
    node: &NodeProto,
    lists: &Lists<'_>,
    places: &HashMap<(i64, i64), usize>,
    members: &[usize],
    features: &[Feature],
    votes: &Votes,
) -> Result<Tree, ImportError> {
    let tree = lists.trees[members[0]];
    let is_leaf = |place: usize| lists.modes[place] == b"LEAF";
    let mut children = HashMap::with_capacity(members.len());
    let mut has_parent = HashSet::with_capacity(members.len());
    for &place in members.iter().filter(|&&place| !is_leaf(place)) {
        let child = |id: i64| places.get(&(tree, id)).copied();
        let (Some(a), Some(b)) = (child(lists.when_true[place]), child(lists.when_false[place])) else {
            return refuse(
                node,
                format!("node {} of tree {tree} has a child that is not there", lists.ids[place]),
            );
        };
        if !has_parent.insert(a) | !has_parent.insert(b) {
            return refuse(
                node,
                format!("a child of node {} of tree {tree} has two parents", lists.ids[place]),
            );
        }
        children.insert(place, [a, b]);
    }
    let roots: Vec<usize> = members.iter().copied().filter(|place| !has_parent.contains(place)).collect();
    let [root] = roots[..] else {
        return refuse(
            node,
            format!("tree {tree} has {} roots: every node but one needs a parent", roots.len()),
        );
    };
    // Depth first: so children get later indices than their parent. One root and one parent each make it a tree, with
    // cycles, if any, out of reach of the root.
    let mut order = Vec::with_capacity(members.len());
    let mut pending = vec![root];
    while let Some(place) = pending.pop() {
        order.push(place);
        pending.extend(children.get(&place).into_iter().flatten().rev());
    }
    if order.len() != members.len() {
        return refuse(
            node,
            format!("tree {tree} has nodes that its root does not reach: they form a cycle"),
        );
    }
    let mut indices = HashMap::with_capacity(order.len());
    let (mut branches, mut leaves) = (0, 0);
    for &place in &order {
        let counter = if is_leaf(place) { &mut leaves } else { &mut branches };
        indices.insert(place, if is_leaf(place) { !*counter } else { *counter });
        *counter += 1i32;
    }
    let mut built = Tree { branches: Vec::new(), root: indices[&root], leaves: Vec::new() };
    for place in order {
        if is_leaf(place) {
            let leaf = votes.by_leaf.get(&(tree, lists.ids[place])).cloned().unwrap_or_default();
            built.leaves.push(leaf);
            continue;
        }
        let number = lists.features[place];
        let Some(feature) = usize::try_from(number).ok().and_then(|number| features.get(number)) else {
            return refuse(node, format!("feature {number} is not one of the {} inputs", features.len()));
        };
        let mode = String::from_utf8_lossy(&lists.modes[place]);
        let Some(comparison) = comparison(&mode) else {
            return refuse(node, format!("mode {mode} of node {} is not known", lists.ids[place]));
        };
        let [a, b] = children[&place];
        let branch = Branch {
            feature: feature.element,
            threshold: lists.values[place],
            comparison,
            when_true: indices[&a],
            when_false: indices[&b],
        };
        let Some(branch) = feature.branch(branch) else {
            return refuse(node, format!("{mode} of a feature that a Scaler made is not supported"));
        };
        built.branches.push(branch);
    }
    Ok(built)
}

fn comparison(mode: &str) -> Option<Comparison> {
    Some(match mode {
        "BRANCH_LEQ" => Comparison::LessOrEqual,
        "BRANCH_LT" => Comparison::Less,
        "BRANCH_GTE" => Comparison::GreaterOrEqual,
        "BRANCH_GT" => Comparison::Greater,
        "BRANCH_EQ" => Comparison::Equal,
        "BRANCH_NEQ" => Comparison::NotEqual,
        _ => return None,
    })
}
