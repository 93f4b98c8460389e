//! How a pushed model gets from a stream into every shard's table.
//!
//! A shard collects the file; one registry thread checks it, writes it into the data directory, loads it and posts the
//! change to every shard; the caller is answered once every shard has been told. Loading takes milliseconds, so no shard
//! does it.

use crate::models::{ModelError, Registry};
use crate::session::Message;
use crate::shard::inbox::{Inbox, Letter};
use crossbeam_channel::{Receiver, Sender, bounded};
use haca_settle::write_whole;
use haca_wire::Status;
use haca_wire::message::Refusal;
use haca_wire::message::model::{ModelEntry, PushModel};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that may be on their way at a time, on all shards together. Each may take `max_model_bytes`.
pub(crate) const MAX_PUSHES: usize = 4;

/// A model file that is arriving. Holds one of the node's places for pushes.
pub(crate) struct Push {
    announced: PushModel,
    file: Vec<u8>,
    _place: Place,
}

impl Push {
    /// Takes the next bytes; `false` if they are more than were announced.
    pub(crate) fn append(&mut self, chunk: &[u8]) -> bool {
        let fits = (self.file.len() + chunk.len()) as u64 <= self.announced.length;
        if fits {
            self.file.extend_from_slice(chunk);
        }
        fits
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.file.len() as u64 == self.announced.length
    }
}

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A whole file, and whom to tell.
pub(crate) struct PushJob {
    pub(crate) push: Push,
    pub(crate) reply: Box<dyn FnOnce(Result<ModelEntry, Refusal>) + Send>,
}

/// A shard's end of the way to the registry.
#[derive(Clone)]
pub(crate) struct Pusher {
    jobs: Sender<PushJob>,
    places: Arc<AtomicUsize>,
}

impl Pusher {
    pub(crate) fn new() -> (Self, Receiver<PushJob>) {
        let (jobs, receiver) = bounded(MAX_PUSHES);
        (Self { jobs, places: Arc::default() }, receiver)
    }

    /// Makes room for a file; `None` if as many as may be are on their way.
    pub(crate) fn begin(&self, announced: PushModel) -> Option<Push> {
        let taken = self.places.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.places));
        // Memory is taken as bytes arrive: an announcement alone costs nothing.
        (taken < MAX_PUSHES).then(|| Push { announced, file: Vec::new(), _place: place })
    }

    pub(crate) fn submit(&self, job: PushJob) {
        // Every push holds a place, and there are as many places in the channel, so this fails only if nobody listens.
        if let Err(error) = self.jobs.try_send(job) {
            let detail = "the node takes no models any more; see its log".to_owned();
            (error.into_inner().reply)(Err(Refusal { status: Status::Draining, detail, retry_after_us: 0 }));
        }
    }
}

/// The folder the models are kept in, and the registry's whole work.
pub(crate) struct RegistryThread {
    pub(crate) registry: Registry,
    pub(crate) folder: PathBuf,
    pub(crate) inboxes: Vec<Arc<Inbox<Message>>>,
}

/// Why a model that was kept cannot be served any more.
#[derive(Debug, thiserror::Error)]
pub enum KeptModelError {
    /// The folder or file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file is not a model.
    #[error("{path}: {source}; move the file away, then push the model again")]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ModelError,
    },
}

impl RegistryThread {
    /// Serves what the folder holds; to be called before the thread starts.
    pub(crate) fn load_kept(&mut self) -> Result<(), KeptModelError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| KeptModelError::Io { path, source }
        };
        std::fs::create_dir_all(&self.folder).map_err(fail(&self.folder))?;
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(fail(&self.folder))? {
            files.push(entry.map_err(fail(&self.folder))?.path());
        }
        files.retain(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        files.sort();
        for path in files {
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else {
                continue;
            };
            let file = std::fs::read(&path).map_err(fail(&path))?;
            let prepared = (self.registry.prepare(&name, &file, None))
                .map_err(|source| KeptModelError::Model { path: path.clone(), source })?;
            let (_, changes) = self.registry.commit(prepared);
            self.post(changes);
        }
        Ok(())
    }

    /// Takes jobs until every shard's end is gone.
    pub(crate) fn run(mut self, jobs: Receiver<PushJob>) {
        for PushJob { push, reply } in jobs {
            reply(self.add(&push));
        }
    }

    fn add(&mut self, push: &Push) -> Result<ModelEntry, Refusal> {
        let Push { announced, file, .. } = push;
        let refuse = |status, detail| Refusal { status, detail, retry_after_us: 0 };
        let prepared = self.registry.prepare(&announced.name, file, Some(announced.id)).map_err(|error| {
            let status = match error {
                ModelError::Full(_) => Status::LimitExceeded,
                ModelError::Load(_) | ModelError::Id { .. } | ModelError::Rank => Status::ModelRefused,
            };
            refuse(status, error.to_string())
        })?;
        let path = self.folder.join(format!("{}.{EXTENSION}", announced.name));
        write_whole(&path, file).map_err(|error| {
            tracing::error!(name = %announced.name, %error, folder = %self.folder.display(), "model not kept");
            let detail = format!("the node could not write the model into its data directory: {error}; not served");
            refuse(Status::ModelRefused, detail)
        })?;
        let (entry, changes) = self.registry.commit(prepared);
        self.post(changes);
        tracing::info!(name = %entry.name, id = %entry.id, handle = entry.handle, "model pushed");
        Ok(entry)
    }

    fn post(&self, changes: Vec<crate::models::TableChange>) {
        for (inbox, change) in self.inboxes.iter().zip(changes) {
            let mut letter = Letter::Application(Message::Adopt(Box::new(change)));
            // A full inbox is being emptied by its shard at this moment.
            while let Err(back) = inbox.send(letter) {
                letter = back;
                std::thread::yield_now();
            }
        }
    }
}

const EXTENSION: &str = "haca";
