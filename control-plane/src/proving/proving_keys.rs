//! Keys of models: each is made once, and of sealed statements ahead of its first use.
//!
//! [`KeyMaker`] computes on one thread of its own, beside the prover's, so that no proof waits for a key that nobody has asked
//! for; who asks for the key that it is making waits for it. What it makes goes to the folder and is not held: a model takes
//! memory once somebody asks about it. Threads inherit priority and cores of the one that the maker is started on. A key that
//! is being made when the process ends is made again.

use crossbeam_channel::{Receiver, Sender, bounded};
use haca_kernels::Model;
use haca_verifier::zk::cache::{CacheError, KeyCache};
use haca_verifier::zk::{Circuit, ProvingKey, StatementKind};
use haca_wire::ModelId;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// The folder of keys. Of threads that want the same key one makes it, and the others wait for that.
#[derive(Clone)]
pub(super) struct Keys {
    cache: KeyCache,
    turns: Arc<Turns>,
}

type Name = (ModelId, StatementKind);

#[derive(Default)]
struct Turns {
    taken: Mutex<HashSet<Name>>,
    freed: Condvar,
}

/// Nobody else loads or makes this key until it is dropped.
struct Turn<'a>(&'a Turns, Name);

impl Turns {
    fn take(&self, name: Name) -> Turn<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.freed.wait_while(taken, |taken| taken.contains(&name));
        free.unwrap_or_else(PoisonError::into_inner).insert(name);
        Turn(self, name)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        self.0.freed.notify_all();
    }
}

impl Keys {
    pub(super) fn new(folder: &Path) -> Self {
        Self { cache: KeyCache::new(folder), turns: Arc::default() }
    }

    /// Whether there is a key. It may still turn out to be damaged.
    pub(super) fn has(&self, model: &ModelId, statement: StatementKind) -> bool {
        self.cache.has(&model.0, statement)
    }

    /// A circuit's key. One of a `development` setup is made if there is none: seconds for a large circuit.
    pub(super) fn load_or_make(&self, circuit: &Circuit) -> Result<ProvingKey, CacheError> {
        let _turn = self.turns.take((ModelId(circuit.model().id()), circuit.statement()));
        self.cache.load_or_make(circuit)
    }
}

/// Where keys are made ahead. When it is dropped its thread ends after the key that it is making, whatever waits; nobody waits
/// for the thread.
pub(super) struct KeyMaker {
    waiting: Sender<Arc<Model>>,
    dropped: Arc<AtomicBool>,
}

impl KeyMaker {
    pub(super) fn start(keys: Keys) -> Self {
        let (maker, models) = Self::new();
        let dropped = Arc::clone(&maker.dropped);
        let started = std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || make_all(&keys, &models, &dropped));
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for keys: those of sealed inputs are made with their first requests");
        }
        maker
    }

    fn new() -> (Self, Receiver<Arc<Model>>) {
        let (waiting, models) = bounded(MAX_WAITING);
        (Self { waiting, dropped: Arc::default() }, models)
    }

    /// Has the key of a model's sealed statements made, unless too many wait: then it is made with its first request.
    pub(super) fn make(&self, model: Arc<Model>) {
        let _ = self.waiting.try_send(model);
    }
}

impl Drop for KeyMaker {
    fn drop(&mut self) {
        self.dropped.store(true, Relaxed);
    }
}

fn make_all(keys: &Keys, models: &Receiver<Arc<Model>>, dropped: &AtomicBool) {
    // The arithmetic would go to all cores without a pool.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "keys-pool".to_owned());
    let pool = match pool.build() {
        Ok(pool) => pool,
        Err(error) => return tracing::warn!(%error, "no thread for keys that are made ahead"),
    };
    for model in models {
        if dropped.load(Relaxed) {
            return;
        }
        let id = ModelId(model.id());
        if keys.has(&id, StatementKind::Sealed) {
            continue;
        }
        let begun = Instant::now();
        let make = || pool.install(|| make_sealed(keys, model));
        match catch_unwind(AssertUnwindSafe(make)) {
            Ok(Ok(())) => {
                tracing::info!(model = %id, seconds = begun.elapsed().as_secs_f64(), "ready for sealed inputs");
            }
            Ok(Err(error)) => tracing::warn!(model = %id, %error, "no key for sealed inputs yet"),
            Err(_) => tracing::error!(model = %id, "making the key for sealed inputs panicked"),
        }
    }
}

fn make_sealed(keys: &Keys, model: Arc<Model>) -> Result<(), super::WorkbenchError> {
    let circuit = Circuit::new(model, StatementKind::Sealed)?;
    keys.load_or_make(&circuit)?;
    Ok(())
}

/// Models whose keys wait to be made.
const MAX_WAITING: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;
    use std::fs;

    fn dense() -> Arc<Model> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden/dense0.haca");
        Arc::new(Model::load(&fs::read(golden).unwrap()).unwrap())
    }

    #[test]
    fn a_key_is_made_by_one_at_a_time() {
        let (turns, other) = (Turns::default(), (ModelId([1; 32]), StatementKind::Open));
        let name = (ModelId([1; 32]), StatementKind::Sealed);
        let (says, said) = unbounded();
        std::thread::scope(|scope| {
            let first = turns.take(name);
            drop(turns.take(other));
            scope.spawn(|| {
                let _second = turns.take(name);
                says.send("second").unwrap();
            });
            says.send("first").unwrap();
            drop(first);
        });
        assert_eq!(said.try_iter().collect::<Vec<_>>(), ["first", "second"]);
        assert!(turns.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn a_key_that_is_made_ahead_is_on_disk_and_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let model = dense();
        let (keys, name) = (Keys::new(folder.path()), (ModelId(model.id()), StatementKind::Sealed));
        let make = || {
            let (sender, models) = unbounded();
            sender.send(Arc::clone(&model)).unwrap();
            drop(sender);
            make_all(&keys, &models, &AtomicBool::new(false));
        };
        assert!(!keys.has(&name.0, name.1));
        make();
        assert!(keys.has(&name.0, name.1) && !keys.has(&name.0, StatementKind::Open));
        let circuit = Circuit::new(Arc::clone(&model), name.1).unwrap();
        let key = keys.load_or_make(&circuit).unwrap().verifying_key().id();
        make();
        assert_eq!(keys.load_or_make(&circuit).unwrap().verifying_key().id(), key);
    }

    #[test]
    fn models_that_wait_when_the_maker_is_dropped_get_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, model) = (Keys::new(folder.path()), dense());
        let (maker, models) = KeyMaker::new();
        maker.make(Arc::clone(&model));
        assert_eq!(models.len(), 1);
        let dropped = Arc::clone(&maker.dropped);
        drop(maker);
        make_all(&keys, &models, &dropped);
        assert!(!keys.has(&ModelId(model.id()), StatementKind::Sealed));
    }
}
