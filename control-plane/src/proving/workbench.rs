//! What proving a model takes: the model, its circuit and its keys, on disk and as many as fit in memory.
//!
//! Models are kept by id in a folder of the prover's own: a name that is pushed again must not take away what its
//! pending requests are proven with.

use haca_kernels::{Backend, Executor, Model};
use haca_settle::write_whole;
use haca_verifier::zk::cache::{CacheError, KeyCache};
use haca_verifier::zk::{Circuit, Prover, ProverError, StatementKind, Unsupported};
use haca_wire::ModelId;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// Why a model is not proven.
#[derive(Debug, thiserror::Error)]
pub enum WorkbenchError {
    /// Its file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Its file is not the model that it is named after.
    #[error("{path}: {what}; push the model again")]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It has no circuit.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Its circuit is larger than this node proves.
    #[error("its circuit has {constraints} constraints, this node proves up to {max} (zk.max_constraints)")]
    TooLarge {
        /// The circuit's.
        constraints: usize,
        /// The setting.
        max: usize,
    },
    /// There is no key.
    #[error(transparent)]
    Key(#[from] CacheError),
    /// The key does not fit.
    #[error(transparent)]
    Prover(#[from] ProverError),
}

impl WorkbenchError {
    /// Whether trying again may help: the system had no room, or no descriptor.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() != io::ErrorKind::NotFound,
            Self::Key(CacheError::Io { .. }) => true,
            _ => false,
        }
    }

    /// The same without the node's paths.
    pub(crate) fn to_caller(&self) -> String {
        match self {
            Self::Unsupported(_) | Self::TooLarge { .. } | Self::Prover(_) => self.to_string(),
            Self::Io { .. } | Self::Model { .. } | Self::Key(_) => {
                "the node cannot keep what proving it takes; see the node's log".to_owned()
            }
        }
    }
}

/// The folder of models.
#[derive(Debug, Clone)]
pub(crate) struct Models(PathBuf);

impl Models {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn path(&self, id: &ModelId) -> PathBuf {
        self.0.join(format!("{id}.haca"))
    }

    /// Keeps a model's file, whole or not at all.
    pub(crate) fn keep(&self, id: &ModelId, file: &[u8]) -> Result<(), WorkbenchError> {
        let path = self.path(id);
        if fs::read(&path).is_ok_and(|kept| kept == file) {
            return Ok(());
        }
        let written = fs::create_dir_all(&self.0).and_then(|()| write_whole(&path, file));
        written.map_err(|source| WorkbenchError::Io { path, source })
    }

    /// Whether there is a file of this name.
    pub(crate) fn has(&self, id: &ModelId) -> bool {
        self.path(id).exists()
    }

    /// A model's file, as it lies there.
    pub(crate) fn file(&self, id: &ModelId) -> Result<Vec<u8>, WorkbenchError> {
        let path = self.path(id);
        fs::read(&path).map_err(|source| WorkbenchError::Io { path, source })
    }

    /// Keeps a file that came from elsewhere, unless it is not this model.
    pub(crate) fn keep_checked(&self, id: &ModelId, file: &[u8]) -> Result<bool, WorkbenchError> {
        let is_it = Model::load(file).is_ok_and(|model| model.id() == id.0);
        if is_it { self.keep(id, file).map(|()| true) } else { Ok(false) }
    }

    pub(crate) fn load(&self, id: &ModelId) -> Result<Arc<Model>, WorkbenchError> {
        let (path, file) = (self.path(id), self.file(id)?);
        let wrong = |what: String| WorkbenchError::Model { path: path.clone(), what };
        let model = Model::load(&file).map_err(|error| wrong(error.to_string()))?;
        match ModelId(model.id()) == *id {
            true => Ok(Arc::new(model)),
            false => Err(wrong(format!("it is model {}", ModelId(model.id())))),
        }
    }
}

/// A model's circuit, unless it is too large.
pub(crate) fn circuit(
    model: &Arc<Model>,
    statement: StatementKind,
    max_constraints: usize,
) -> Result<Circuit, WorkbenchError> {
    let circuit = Circuit::new(Arc::clone(model), statement)?;
    let constraints = circuit.system().constraints();
    match constraints <= max_constraints {
        true => Ok(circuit),
        false => Err(WorkbenchError::TooLarge { constraints, max: max_constraints }),
    }
}

/// Whether the circuit of sealed statements would be too large, of a model with this one of open statements.
pub(crate) fn sealed_refused(open: &Circuit, max_constraints: usize) -> Option<WorkbenchError> {
    let constraints = open.system().constraints() + open.cost_of_sealing();
    (constraints > max_constraints).then_some(WorkbenchError::TooLarge { constraints, max: max_constraints })
}

/// What one model is proven with, by statements of one kind.
pub(crate) struct Bench {
    pub(crate) circuit: Circuit,
    pub(crate) prover: Prover,
    /// Turns a row into the circuit's integers, as the node did.
    pub(crate) stager: Executor,
}

/// The benches that are in memory, the one used last in front.
pub(crate) struct Workbench {
    models: Models,
    keys: KeyCache,
    max_constraints: usize,
    benches: VecDeque<((ModelId, StatementKind), Bench)>,
}

impl Workbench {
    pub(crate) fn new(models: Models, keys: &Path, max_constraints: usize) -> Self {
        Self { models, keys: KeyCache::new(keys), max_constraints, benches: VecDeque::new() }
    }

    /// The bench of a model. A key is made if there is none: seconds for a large circuit.
    pub(crate) fn get(
        &mut self,
        id: &ModelId,
        statement: StatementKind,
    ) -> Result<&mut Bench, WorkbenchError> {
        match self.benches.iter().position(|(held, _)| *held == (*id, statement)) {
            Some(at) => {
                let bench = self.benches.remove(at).expect("it was found at this place");
                self.benches.push_front(bench);
            }
            None => {
                let model = self.models.load(id)?;
                let circuit = circuit(&model, statement, self.max_constraints)?;
                let prover = Prover::new(Arc::clone(circuit.system()), self.keys.load_or_make(&circuit)?)?;
                let stager = Executor::with_backend(model, 1, Backend::Scalar);
                self.benches.truncate(MAX_BENCHES - 1);
                self.benches.push_front(((*id, statement), Bench { circuit, prover, stager }));
            }
        }
        Ok(&mut self.benches[0].1)
    }
}

/// Models whose keys are in memory. A key of 2^16 constraints has some 30 MB.
const MAX_BENCHES: usize = 8;
