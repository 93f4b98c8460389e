//! Tree ensembles in the file.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{list, schema};
use crate::model::LoadError;
use crate::model::graph::{Finish, Trees};

pub(super) fn encode<'a>(b: &mut FlatBufferBuilder<'a>, trees: &Trees) -> WIPOffset<schema::Trees<'a>> {
    let arguments = schema::TreesArgs {
        tree_nodes: Some(b.create_vector(&trees.tree_nodes)),
        roots: Some(b.create_vector(&trees.roots)),
        features: Some(b.create_vector(&trees.features)),
        thresholds: Some(b.create_vector(&trees.thresholds)),
        when_true: Some(b.create_vector(&trees.when_true)),
        when_false: Some(b.create_vector(&trees.when_false)),
        leaf_entries: Some(b.create_vector(&trees.leaf_entries)),
        entry_targets: Some(b.create_vector(&trees.entry_targets)),
        entry_values: Some(b.create_vector(&trees.entry_values)),
        base: Some(b.create_vector(&trees.base)),
        sum_exponent: trees.sum_exponent as i16,
        finish: match trees.finish {
            Finish::Sum => schema::Finish::Sum,
            Finish::Complement => schema::Finish::Complement,
            Finish::Negate => schema::Finish::Negate,
            Finish::Logistic => schema::Finish::Logistic,
            Finish::LogisticPair => schema::Finish::LogisticPair,
        },
    };
    schema::Trees::create(b, &arguments)
}

pub(super) fn decode(trees: schema::Trees<'_>) -> Result<Trees, LoadError> {
    Ok(Trees {
        tree_nodes: list(trees.tree_nodes()),
        roots: list(trees.roots()),
        features: list(trees.features()),
        thresholds: list(trees.thresholds()),
        when_true: list(trees.when_true()),
        when_false: list(trees.when_false()),
        leaf_entries: list(trees.leaf_entries()),
        entry_targets: list(trees.entry_targets()),
        entry_values: list(trees.entry_values()),
        base: list(trees.base()),
        sum_exponent: trees.sum_exponent().into(),
        finish: match trees.finish() {
            schema::Finish::Sum => Finish::Sum,
            schema::Finish::Complement => Finish::Complement,
            schema::Finish::Negate => Finish::Negate,
            schema::Finish::Logistic => Finish::Logistic,
            schema::Finish::LogisticPair => Finish::LogisticPair,
            other => return Err(LoadError::Malformed(format!("unknown finish {}", other.0))),
        },
    })
}
