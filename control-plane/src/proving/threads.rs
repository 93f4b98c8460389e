//! Threads of services, of low priority, and what becomes known when one ends.

use super::ProvingError;
use crossbeam_channel::bounded;
use haca_dataplane::background;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// The first service that panicked. It is not started again: what made it panic is on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(Arc<OnceLock<&'static str>>);

impl Broken {
    pub(super) fn service(&self) -> Option<&'static str> {
        self.0.get().copied()
    }

    /// Runs a service to its end, and tells at once if that is a panic.
    fn watch(&self, service: &'static str, run: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            tracing::error!(
                service,
                "a service of mode zk panicked: restart the node; what is not proven is then"
            );
            let _ = self.0.set(service);
        }
    }
}

/// Starts a service's thread.
pub(super) fn spawn(
    service: &'static str,
    shards: Vec<usize>,
    broken: &Broken,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, ProvingError> {
    let broken = broken.clone();
    let thread = std::thread::Builder::new().name(service.to_owned()).spawn(move || {
        background::yield_cores(&shards);
        broken.watch(service, run);
    });
    thread.map_err(|source| ProvingError::Thread { service, source })
}

/// The same with a pool of its own, whose threads inherit the priority.
pub(super) fn spawn_with_pool(
    service: &'static str,
    shards: Vec<usize>,
    threads: usize,
    broken: &Broken,
    run: impl FnOnce(rayon::ThreadPool) + Send + 'static,
) -> Result<JoinHandle<()>, ProvingError> {
    let failed = move |source| ProvingError::Thread { service, source };
    let (ready, is_ready) = bounded(1);
    let thread = spawn(service, shards, broken, move || {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |index| format!("{service}-{index}"))
            .build();
        match pool {
            Ok(pool) => {
                let _ = ready.send(Ok(()));
                run(pool);
            }
            Err(error) => drop(ready.send(Err(std::io::Error::other(error)))),
        }
    })?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(source)) => Err(failed(source)),
        Err(gone) => Err(failed(std::io::Error::other(gone))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_panics_is_named_at_once_and_one_that_ends_is_not() {
        let broken = Broken::default();
        spawn("quiet", Vec::new(), &broken, || {}).unwrap().join().unwrap();
        assert_eq!(broken.service(), None);
        spawn("loud", Vec::new(), &broken, || panic!("a bug")).unwrap().join().unwrap();
        assert_eq!(broken.service(), Some("loud"));
    }
}
