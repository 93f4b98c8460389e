//! The model table: the registry that one thread keeps, and the copy of it that each shard serves from.
//!
//! Models are loaded and their executors built on the registry's side, so adopting a change costs a shard a few moves.
//! A name always means the model last pushed under it; the one before keeps its handle for requests under way and for
//! callers that have not listed the models again, until the table needs its place.

use crate::batch::ServedModel;
use crate::proving::{AdmitModel, Admitted};
use crate::symbols::Steps;
use haca_kernels::{Dtype, Executor, LoadError, Model, Stream, StreamExecutor};
use haca_wire::message::model::ModelEntry;
use haca_wire::receipt::MAX_BATCH;
use haca_wire::tensor::{MAX_RANK, Shape};
use haca_wire::{ModelId, SessionId};
use std::sync::Arc;
use std::time::Duration;

/// How models are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelLimits {
    /// Names there may be. Superseded models may take as many places again.
    pub max_models: usize,
    /// The most requests that run together.
    pub max_batch: usize,
    /// How long a batch may wait for company.
    pub max_delay: Duration,
    /// Streams that one shard holds for one model.
    pub max_symbols: usize,
    /// Bytes of all their states.
    pub max_state_bytes: usize,
}

impl ModelLimits {
    /// How many streams of a model there may be.
    fn symbols(&self, stream: &Stream) -> usize {
        self.max_symbols.min(self.max_state_bytes / stream.state_bytes().max(1))
    }
}

/// Why a model is not served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The loader refused it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file is another one than was announced.
    #[error("the file's id is {got}, {announced} was announced; compile or copy it again")]
    Id {
        /// Id of what arrived.
        got: ModelId,
        /// Id that was announced.
        announced: ModelId,
    },
    /// Every place is taken.
    #[error("all {0} model names are in use; push under a name that exists, or raise max_models")]
    Full(usize),
    /// A shape the wire cannot carry.
    #[error("a shape of the model has more than {MAX_RANK} dimensions")]
    Rank,
}

/// What the registry tells every shard about one change.
pub(crate) struct TableChange {
    /// The new model, ready to run on that shard.
    pub(crate) added: ServedModel,
    /// The handle to forget, if a place was needed.
    pub(crate) dropped: Option<u32>,
}

/// A model that is ready to be put into the table.
pub(crate) struct Prepared {
    entry: ModelEntry,
    served: Vec<ServedModel>,
}

/// The registry. Owned by the thread that takes pushes; knows the table, not the executors.
pub(crate) struct Registry {
    limits: ModelLimits,
    shards: usize,
    /// `None`: nobody proves.
    admit: Option<Arc<AdmitModel>>,
    /// Handles ascend; the last entry of a name is the one in force.
    entries: Vec<ModelEntry>,
    next_handle: u32,
}

impl Registry {
    pub(crate) fn new(limits: ModelLimits, shards: usize, admit: Option<Arc<AdmitModel>>) -> Self {
        assert!((1..=MAX_BATCH as usize).contains(&limits.max_batch), "the configuration bounds max_batch");
        Self { limits, shards, admit, entries: Vec::new(), next_handle: 1 }
    }

    /// Loads a model and builds what each shard needs to run it. The table stays as it is.
    ///
    /// # Errors
    /// If the model cannot be served.
    pub(crate) fn prepare(
        &self,
        name: &str,
        file: &[u8],
        announced: Option<ModelId>,
    ) -> Result<Prepared, ModelError> {
        let known = self.entries.iter().any(|entry| entry.name == name);
        if !known && self.current().count() >= self.limits.max_models {
            return Err(ModelError::Full(self.limits.max_models));
        }
        let model = Arc::new(Model::load(file)?);
        let got = ModelId(model.id());
        if let Some(announced) = announced.filter(|announced| *announced != got) {
            return Err(ModelError::Id { got, announced });
        }
        let shape = |dims: &[u32]| Shape::new(dims.iter().copied()).ok_or(ModelError::Rank);
        // A model that cannot be streamed is served in whole rows all the same.
        let stream = model.stream().ok().map(Arc::new).filter(|stream| {
            let (state_bytes, most) = (stream.state_bytes(), self.limits.max_state_bytes);
            if state_bytes > most && self.limits.max_symbols > 0 {
                tracing::warn!(
                    name,
                    state_bytes,
                    max_state_bytes = most,
                    "takes no streams: one is too large"
                );
            }
            self.limits.symbols(stream) > 0
        });
        let step_shape = stream.as_ref().map(|stream| shape(stream.step_shape())).transpose()?;
        let admitted = match &self.admit {
            None => Err("this node has no prover".to_owned()),
            Some(admit) => admit(&model, file),
        };
        let (zk_refused, sealed_refused) = match admitted {
            Ok(Admitted { sealed_refused }) => (None, sealed_refused),
            Err(why) => (Some(why), None),
        };
        let entry = ModelEntry {
            handle: self.next_handle,
            name: name.to_owned(),
            id: got,
            input_shape: shape(model.input_shape())?,
            output_shape: shape(model.output_shape())?,
            accepts_i16: model.accepts(Dtype::I16),
            max_batch: self.limits.max_batch as u32,
            step_shape,
            zk_refused,
            sealed_refused,
        };
        let served = (0..self.shards)
            .map(|_| {
                let executor = Executor::new(Arc::clone(&model), self.limits.max_batch);
                let steps = stream.as_ref().map(|stream| {
                    let executor = StreamExecutor::new(Arc::clone(stream), self.limits.max_batch);
                    Steps::new(executor, self.limits.symbols(stream))
                });
                ServedModel::new(entry.clone(), executor, steps, self.limits.max_delay)
            })
            .collect();
        Ok(Prepared { entry, served })
    }

    /// Puts a prepared model into the table and says what each shard is to adopt.
    pub(crate) fn commit(&mut self, prepared: Prepared) -> (ModelEntry, Vec<TableChange>) {
        let Prepared { entry, served } = prepared;
        self.next_handle += 1;
        let dropped = self.make_room(&entry.name);
        self.entries.push(entry.clone());
        let changes = served.into_iter().map(|added| TableChange { added, dropped }).collect();
        (entry, changes)
    }

    /// The models in force, by handle.
    pub(crate) fn current(&self) -> impl Iterator<Item = &ModelEntry> {
        in_force(self.entries.iter())
    }

    /// Drops the oldest superseded model if the places for those are taken. `incoming` is about to be superseded too.
    fn make_room(&mut self, incoming: &str) -> Option<u32> {
        let entries = &self.entries;
        let is_superseded = |at: usize| {
            entries[at].name == incoming
                || entries[at + 1..].iter().any(|later| later.name == entries[at].name)
        };
        let superseded: Vec<usize> = (0..entries.len()).filter(|at| is_superseded(*at)).collect();
        if superseded.len() <= self.limits.max_models {
            return None;
        }
        Some(self.entries.remove(superseded[0]).handle)
    }
}

/// Of entries in the order of their handles, those that no later one of the same name supersedes.
pub(crate) fn in_force<'a>(
    entries: impl DoubleEndedIterator<Item = &'a ModelEntry> + Clone,
) -> impl Iterator<Item = &'a ModelEntry> {
    let later = entries.clone();
    entries.filter(move |entry| {
        !later.clone().any(|other| other.handle > entry.handle && other.name == entry.name)
    })
}

/// One shard's copy of the table.
#[derive(Default)]
pub(crate) struct ModelTable {
    /// Handles ascend.
    models: Vec<ServedModel>,
}

impl ModelTable {
    pub(crate) fn adopt(&mut self, change: TableChange) {
        if let Some(dropped) = change.dropped {
            self.models.retain(|model| model.entry.handle != dropped);
        }
        debug_assert!(self.models.last().is_none_or(|last| last.entry.handle < change.added.entry.handle));
        self.models.push(change.added);
    }

    pub(crate) fn find(&mut self, handle: u32) -> Option<&mut ServedModel> {
        let at = self.models.binary_search_by_key(&handle, |model| model.entry.handle).ok()?;
        self.models.get_mut(at)
    }

    /// Frees the streams of a session that is gone.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.models.iter_mut().for_each(|model| model.forget(session));
    }

    pub(crate) fn current(&self) -> Vec<ModelEntry> {
        in_force(self.models.iter().map(|model| &model.entry)).cloned().collect()
    }

    /// A model whose batch must run by `now`, or, when everything is to be finished, any that has one.
    pub(crate) fn due(&self, now: std::time::Instant, everything: bool) -> Option<u32> {
        let is_due =
            |model: &&ServedModel| model.deadline().is_some_and(|deadline| everything || deadline <= now);
        self.models.iter().find(is_due).map(|model| model.entry.handle)
    }

    pub(crate) fn deadline(&self) -> Option<std::time::Instant> {
        self.models.iter().filter_map(ServedModel::deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(handle: u32, name: &str) -> ModelEntry {
        let shape = Shape::new([1]).expect("one dimension");
        ModelEntry {
            handle,
            name: name.to_owned(),
            id: ModelId([handle as u8; 32]),
            input_shape: shape,
            output_shape: shape,
            accepts_i16: false,
            max_batch: 1,
            step_shape: None,
            zk_refused: None,
            sealed_refused: None,
        }
    }

    fn limits() -> ModelLimits {
        let (max_delay, max_state_bytes) = (Duration::ZERO, 1 << 20);
        ModelLimits { max_models: 2, max_batch: 1, max_delay, max_symbols: 100, max_state_bytes }
    }

    #[test]
    fn large_states_leave_room_for_fewer_streams() {
        use haca_kernels::import::{CompileOptions, compile};
        let onnx = include_bytes!("../../bench/models/orderbook.onnx");
        let rows = include_bytes!("../../bench/models/orderbook_calibration.npy");
        let rows = haca_kernels::npy::parse(rows).unwrap();
        let compiled = compile(onnx, &rows, &CompileOptions::default(), &mut |_| ()).unwrap();
        let stream = Model::load(&compiled.file).unwrap().stream().unwrap();
        let streams = |max_state_bytes| ModelLimits { max_state_bytes, ..limits() }.symbols(&stream);
        let bytes = stream.state_bytes();
        assert_eq!([bytes - 1, 3 * bytes, 200 * bytes].map(streams), [0, 3, 100]);
        let without = ModelLimits { max_state_bytes: bytes - 1, ..limits() };
        let prepared = Registry::new(without, 1, None).prepare("book", &compiled.file, None).unwrap();
        assert_eq!(prepared.entry.step_shape, None);
        let prepared = Registry::new(limits(), 1, None).prepare("book", &compiled.file, None).unwrap();
        assert_eq!(prepared.entry.step_shape, Shape::new([40]));
    }

    #[test]
    fn a_name_means_the_model_last_pushed_under_it() {
        let entries = [entry(1, "a"), entry(2, "b"), entry(3, "a")];
        let handles: Vec<u32> = in_force(entries.iter()).map(|entry| entry.handle).collect();
        assert_eq!(handles, [2, 3]);
    }

    #[test]
    fn only_superseded_models_make_room() {
        let mut registry = Registry::new(limits(), 1, None);
        registry.entries = vec![entry(1, "a"), entry(2, "b"), entry(3, "a")];
        assert_eq!(registry.make_room("b"), None);
        registry.entries.push(entry(4, "b"));
        assert_eq!(registry.make_room("a"), Some(1));
    }
}
