//! What proving a model takes: the model, its circuit and its keys, on disk and as many as fit in memory.
//!
//! Models are kept by id in a folder of the prover's own: a name that is pushed again must not take away what its
//! pending requests are proven with.

use super::proving_keys::{KeyMaker, Keys};
use haca_kernels::{Backend, Executor, Model};
use haca_settle::write_whole;
use haca_verifier::zk::cache::CacheError;
use haca_verifier::zk::{CIRCUIT_VERSION, Circuit, Prover, ProverError, StatementKind, Unsupported};
use haca_wire::ModelId;
use sha2::{Digest as _, Sha256};
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

    /// Whether a model is there, whole: its id is its file's hash.
    pub(crate) fn has_whole(&self, id: &ModelId) -> bool {
        self.file(id).is_ok_and(|file| Sha256::digest(&file)[..] == id.0)
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

/// Constraints of a model's circuits, as they were counted once: writing one to count them takes as long as a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    open: usize,
    sealed: usize,
}

impl Models {
    fn count_path(&self, id: &ModelId) -> PathBuf {
        self.0.join(format!("{id}-v{CIRCUIT_VERSION}.constraints"))
    }

    fn counted(&self, id: &ModelId) -> Option<Count> {
        // What does not read is counted again.
        let text = fs::read_to_string(self.count_path(id)).ok()?;
        let (open, sealed) = text.trim().split_once(' ')?;
        Some(Count { open: open.parse().ok()?, sealed: sealed.parse().ok()? })
    }

    fn keep_count(&self, id: &ModelId, Count { open, sealed }: Count) -> Result<(), WorkbenchError> {
        let path = self.count_path(id);
        let text = format!("{open} {sealed}\n");
        let written = fs::create_dir_all(&self.0).and_then(|()| write_whole(&path, text.as_bytes()));
        written.map_err(|source| WorkbenchError::Io { path, source })
    }

    /// Keeps a model that is to be proven, unless it has no circuit, or too large a one. Returns why sealed inputs are not
    /// taken, if that is so of the circuit of sealed statements alone.
    pub(crate) fn admit(
        &self,
        model: &Arc<Model>,
        file: &[u8],
        max_constraints: usize,
    ) -> Result<Option<WorkbenchError>, WorkbenchError> {
        let id = ModelId(model.id());
        let (open, sealed) = match self.counted(&id) {
            Some(Count { open, sealed }) => (open, Ok(sealed)),
            None => {
                let circuit = Circuit::new(Arc::clone(model), StatementKind::Open)?;
                let (open, sealed) = (circuit.system().constraints(), circuit.constraints_if_sealed());
                // A model without the second is counted again at each start: such are few.
                if let Ok(sealed) = sealed {
                    self.keep_count(&id, Count { open, sealed })?;
                }
                (open, sealed)
            }
        };
        check_size(open, max_constraints)?;
        self.keep(&id, file)?;
        Ok(match sealed {
            Ok(sealed) => check_size(sealed, max_constraints).err(),
            Err(unsupported) => Some(unsupported.into()),
        })
    }
}

fn check_size(constraints: usize, max: usize) -> Result<(), WorkbenchError> {
    if constraints <= max { Ok(()) } else { Err(WorkbenchError::TooLarge { constraints, max }) }
}

/// A model's circuit, unless it is too large.
fn circuit(
    model: &Arc<Model>,
    statement: StatementKind,
    max_constraints: usize,
) -> Result<Circuit, WorkbenchError> {
    let circuit = Circuit::new(Arc::clone(model), statement)?;
    check_size(circuit.system().constraints(), max_constraints)?;
    Ok(circuit)
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
    keys: Keys,
    max_constraints: usize,
    benches: VecDeque<((ModelId, StatementKind), Bench)>,
    /// Makes keys ahead of their first use, once there was one to make.
    maker: Option<KeyMaker>,
}

impl Workbench {
    pub(crate) fn new(models: Models, keys: &Path, max_constraints: usize) -> Self {
        Self { models, keys: Keys::new(keys), max_constraints, benches: VecDeque::new(), maker: None }
    }

    /// Whether a model's bench is in memory, so that its file is not read.
    pub(crate) fn holds(&self, id: &ModelId, statement: StatementKind) -> bool {
        self.benches.iter().any(|(held, _)| *held == (*id, statement))
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

    /// Has the key of a model's sealed statements made by another thread, unless there is one, or it is larger than a key
    /// should be that perhaps nobody asks for.
    pub(crate) fn make_sealed_key_ahead(&mut self, id: &ModelId) -> Result<(), WorkbenchError> {
        if self.keys.has(id, StatementKind::Sealed) {
            return Ok(());
        }
        let most = self.max_constraints.min(MAX_AHEAD);
        let circuit = &self.get(id, StatementKind::Open)?.circuit;
        if circuit.constraints_if_sealed().is_ok_and(|constraints| constraints <= most) {
            let model = Arc::clone(circuit.model());
            self.maker.get_or_insert_with(|| KeyMaker::start(self.keys.clone())).make(model);
        }
        Ok(())
    }
}

/// Circuits whose keys are in memory: a model has two, one for sealed inputs. A key of 2^16 constraints has some 30 MB.
const MAX_BENCHES: usize = 8;
/// Constraints of circuits whose keys are made before anybody asked for them.
const MAX_AHEAD: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_circuit_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden/dense0.haca");
        let file = fs::read(golden).unwrap();
        let model = Arc::new(Model::load(&file).unwrap());
        let (models, id) = (Models::new(folder.path().join("models")), ModelId(model.id()));
        assert!(matches!(models.admit(&model, &file, 1), Err(WorkbenchError::TooLarge { max: 1, .. })));
        assert!(!models.has_whole(&id), "what is not proven is not kept");
        let count = models.counted(&id).unwrap();
        let written = |statement| Circuit::new(Arc::clone(&model), statement).unwrap().system().constraints();
        assert_eq!([count.open, count.sealed], [StatementKind::Open, StatementKind::Sealed].map(written));
        assert!(models.admit(&model, &file, count.open).unwrap().is_some(), "it is too large sealed");
        assert!(models.has_whole(&id));
        // What was counted is believed; what does not read is counted again.
        models.keep_count(&id, Count { open: count.open + 1, ..count }).unwrap();
        assert!(models.admit(&model, &file, count.open).is_err());
        fs::write(models.count_path(&id), "many").unwrap();
        assert!(models.admit(&model, &file, count.sealed).unwrap().is_none());
        assert_eq!(models.counted(&id), Some(count));
    }

    #[test]
    fn a_key_for_sealed_inputs_is_made_ahead_where_they_are_taken_and_it_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden/dense0.haca");
        let file = fs::read(golden).unwrap();
        let model = Arc::new(Model::load(&file).unwrap());
        let (models, id) = (Models::new(folder.path().join("models")), ModelId(model.id()));
        models.admit(&model, &file, usize::MAX).unwrap();
        let count = models.counted(&id).unwrap();
        let keys = folder.path().join("keys");
        let mut workbench = Workbench::new(models.clone(), &keys, count.sealed - 1);
        workbench.make_sealed_key_ahead(&id).unwrap();
        assert!(workbench.maker.is_none(), "its circuit is too large");
        let mut workbench = Workbench::new(models, &keys, count.sealed);
        workbench.make_sealed_key_ahead(&id).unwrap();
        let maker = workbench.maker.take();
        assert!(maker.is_some());
        let begun = Instant::now();
        while !workbench.keys.has(&id, StatementKind::Sealed) {
            assert!(begun.elapsed() < Duration::from_secs(300), "nobody else makes it");
            std::thread::sleep(Duration::from_millis(10));
        }
        workbench.make_sealed_key_ahead(&id).unwrap();
        assert!(workbench.maker.is_none(), "there is one");
    }
}
