//! The segments of openings: where they are, reading them, deleting them, and what a crash does to them.
//!
//! All openings form one sequence of bytes, in which a position is an offset. It lies in files of some size, the segments,
//! each named after the position of its first byte. The committer appends to the newest through
//! [`opening_writer`](crate::opening_writer); readers open the file they need for each call and see no further than the
//! published end. The one lock guards the list of segments and that end. The committer takes it when a group had
//! openings; no file is read, written or deleted under it.
//!
//! **After a crash** the newest segment is read from its begin, and the first record that is not whole ends it. A leaf is
//! written only after its opening was fsynced, so what is cut there belongs to no durable leaf. Every other segment was
//! complete before the next was begun: it must end where the next begins. Damage within one is found by whoever reads it,
//! and passed where that is certain (`damage`); in the newest, a damaged record that leads to an intact one is none that
//! was torn, and is left for the reader.

mod damage;

pub use damage::Damage;

use crate::error::ReadError;
use crate::opening_record::{Header, MAX_OPENING, record_len};
use crate::recovery::sync_dir;
use haca_wire::{Digest, RequestId};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where an opening is; they are ordered as they were written.
///
/// The offset of its first byte among all openings that the log ever had. The default is the very first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OpeningPosition(pub u64);

/// What a leaf commits to, as it was handed over with the leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Where it is.
    pub position: OpeningPosition,
    /// Where the next one is, or will be.
    pub next: OpeningPosition,
    /// Hash of its leaf.
    pub leaf_hash: Digest,
    /// The request that its leaf is of.
    pub request: RequestId,
    /// What was handed over.
    pub bytes: Vec<u8>,
}

pub(crate) struct Openings {
    dir: PathBuf,
    kept: Mutex<Kept>,
    /// The end has moved, or the log closes.
    changed: Condvar,
    /// Held while segments are deleted: from the first on, so that none is missing between two others.
    releasing: Mutex<()>,
}

struct Kept {
    /// Where each segment begins. The last is written.
    segments: VecDeque<u64>,
    /// Behind the last opening that may be read.
    end: u64,
    closing: bool,
}

impl Openings {
    /// Finds the segments, if there are any, and the end of the newest. What lies behind that stays there until
    /// [`Openings::cut`].
    pub(crate) fn open(dir: &Path) -> Result<Self, ReadError> {
        let mut segments = list(dir).map_err(failed(dir))?;
        segments.sort_unstable();
        for pair in segments.windows(2) {
            let path = segment_path(dir, pair[0]);
            let (length, expected) = (file_len(&path)?, pair[1] - pair[0]);
            if length != expected {
                return Err(ReadError::LostOpenings { path, length, expected });
            }
        }
        let end = match segments.last() {
            Some(start) => recall(dir, *start)?,
            None => 0,
        };
        Ok(Self {
            dir: dir.to_owned(),
            kept: Mutex::new(Kept { segments: segments.into(), end, closing: false }),
            changed: Condvar::new(),
            releasing: Mutex::default(),
        })
    }

    /// Cuts off, durably, what lies behind the last opening. If intact openings may be among it, a copy stays beside the
    /// segment: then it was not a write that ended early.
    pub(crate) fn cut(&self) -> Result<(), ReadError> {
        let (last, end) = {
            let kept = self.lock();
            (kept.segments.back().copied(), kept.end)
        };
        let Some(start) = last else { return Ok(()) };
        let path = self.path(start);
        let length = file_len(&path)?;
        if length != end - start {
            let bytes = length - (end - start);
            if damage::may_hold_record(&path, start, end, start + length).map_err(failed(&path))? {
                let kept = self.dir.join(format!("{start:020}.{end:020}.damaged"));
                self.keep_aside(&path, end - start, &kept).map_err(failed(&kept))?;
                tracing::error!(kept = %kept.display(), bytes, "an opening is damaged; what lies behind it is kept aside");
            } else {
                tracing::warn!(path = %path.display(), bytes, "cutting a torn opening");
            }
            let cut = File::options().write(true).open(&path).and_then(|file| {
                file.set_len(end - start)?;
                file.sync_all()
            });
            cut.map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Copies, durably, what a segment has from an offset on.
    fn keep_aside(&self, path: &Path, offset: u64, kept: &Path) -> std::io::Result<()> {
        let mut segment = File::open(path)?;
        segment.seek(SeekFrom::Start(offset))?;
        let mut copy = File::create(kept)?;
        std::io::copy(&mut segment, &mut copy)?;
        copy.sync_all()?;
        sync_dir(&self.dir)
    }

    /// Behind the last opening that may be read.
    pub(crate) fn end(&self) -> OpeningPosition {
        OpeningPosition(self.lock().end)
    }

    /// Bytes in segments.
    pub(crate) fn bytes(&self) -> u64 {
        let kept = self.lock();
        // A new segment can begin where nothing may be read yet.
        kept.segments.front().map_or(0, |first| kept.end.saturating_sub(*first))
    }

    /// The openings from a position on, until they make up `max_bytes`.
    pub(crate) fn read(&self, from: OpeningPosition, max_bytes: usize) -> Result<Vec<Opening>, ReadError> {
        let (mut openings, mut at, mut bytes) = (Vec::new(), from.0, 0);
        while let Some(mut records) = self.records(at)? {
            loop {
                match records.next() {
                    Ok(Some(opening)) => {
                        at = opening.next.0;
                        bytes += record_len(opening.bytes.len());
                        openings.push(opening);
                    }
                    Ok(None) => break,
                    Err(error) if openings.is_empty() => return Err(error),
                    // What was read is handed out; who goes on from there meets the error.
                    Err(_) => return Ok(openings),
                }
                if bytes >= max_bytes {
                    return Ok(openings);
                }
            }
        }
        Ok(openings)
    }

    /// The records of one segment from a position on, or from the first that is still there; none if there is nothing
    /// behind it.
    fn records(&self, at: u64) -> Result<Option<Records>, ReadError> {
        loop {
            let (start, at, end) = {
                let kept = self.lock();
                let following = kept.segments.partition_point(|start| *start <= at).max(1);
                let Some(start) = kept.segments.get(following - 1).copied() else { return Ok(None) };
                let at = at.max(start);
                if at >= kept.end {
                    return Ok(None);
                }
                (start, at, kept.segments.get(following).map_or(kept.end, |next| kept.end.min(*next)))
            };
            let path = self.path(start);
            match Records::open(&path, start, at, end) {
                // Deleted since: what follows it is looked for once more.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && self.lock().segments.front() > Some(&start) => {
                }
                opened => return opened.map(Some).map_err(failed(&path)),
            }
        }
    }

    /// Waits until there is something behind `position` or the log closes; whether there is.
    pub(crate) fn wait(&self, position: OpeningPosition, timeout: Duration) -> bool {
        let waits = |kept: &mut Kept| kept.end <= position.0 && !kept.closing;
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.end > position.0
    }

    /// Deletes the segments that lie wholly before `position`, save the newest.
    pub(crate) fn release(&self, position: OpeningPosition) -> Result<(), ReadError> {
        let _releasing = self.releasing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let first = {
                let mut kept = self.lock();
                match kept.segments.get(1) {
                    Some(second) if *second <= position.0 => kept.segments.pop_front(),
                    _ => None,
                }
            };
            let Some(start) = first else { return Ok(()) };
            let path = self.path(start);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    self.lock().segments.push_front(start);
                    return Err(failed(&path)(error));
                }
                // Each before the next: a power cut must not bring back the first of two without the second.
                _ => sync_dir(&self.dir).map_err(failed(&self.dir))?,
            }
        }
    }

    /// Lets readers see what lies before `end`.
    pub(crate) fn publish(&self, end: OpeningPosition) {
        self.lock().end = end.0;
        self.changed.notify_all();
    }

    /// Ends every wait.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    /// The segment that is written at `end`, and where it begins: the newest, or a new one if that is long enough.
    pub(crate) fn segment_to_write(&self, end: u64, segment_bytes: u64) -> Result<(File, u64), ReadError> {
        let newest = self.lock().segments.back().copied();
        if let Some(start) = newest.filter(|start| end - start < segment_bytes) {
            let path = self.path(start);
            let file = File::options().write(true).open(&path).map_err(failed(&path))?;
            return Ok((file, start));
        }
        let path = self.path(end);
        // The file may be there, empty, if an attempt failed after creating it.
        let create = || File::options().write(true).create(true).truncate(true).open(&path);
        let created = match create() {
            Err(error) if error.kind() == ErrorKind::NotFound && newest.is_none() => {
                create_dir(&self.dir).and_then(|()| create())
            }
            created => created,
        };
        let file = created.map_err(failed(&path))?;
        sync_dir(&self.dir).map_err(failed(&self.dir))?;
        self.lock().segments.push_back(end);
        Ok((file, end))
    }

    /// The error of a segment.
    pub(crate) fn failed(&self, start: u64, source: Error) -> ReadError {
        failed(&self.path(start))(source)
    }

    fn path(&self, start: u64) -> PathBuf {
        segment_path(&self.dir, start)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records of one segment, one after the other.
struct Records {
    file: BufReader<File>,
    path: PathBuf,
    start: u64,
    at: u64,
    end: u64,
}

impl Records {
    /// Of the segment that begins at `start`, those from `at` to `end`.
    fn open(path: &Path, start: u64, at: u64, end: u64) -> std::io::Result<Self> {
        let mut file = BufReader::with_capacity(READ_AHEAD, File::open(path)?);
        file.seek(SeekFrom::Start(at - start))?;
        Ok(Self { file, path: path.to_owned(), start, at, end })
    }

    fn next(&mut self) -> Result<Option<Opening>, ReadError> {
        if self.at == self.end {
            return Ok(None);
        }
        match self.record() {
            Ok(Some(opening)) => {
                self.at = opening.next.0;
                Ok(Some(opening))
            }
            Ok(None) => Err(ReadError::DamagedOpening { path: self.path.clone(), position: self.at }),
            Err(error) => Err(failed(&self.path)(error)),
        }
    }

    /// The next record, if it is whole.
    fn record(&mut self) -> std::io::Result<Option<Opening>> {
        let room = self.end - self.at;
        let mut header = Header([0; Header::LEN]);
        if room < Header::LEN as u64 || !self.fill(&mut header.0)? {
            return Ok(None);
        }
        let (len, record_len) = (header.opening_len(), header.record_len() as u64);
        if len > MAX_OPENING || record_len > room {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        if !self.fill(&mut bytes)? || !header.is_intact(&bytes) {
            return Ok(None);
        }
        Ok(Some(Opening {
            position: OpeningPosition(self.at),
            next: OpeningPosition(self.at + record_len),
            leaf_hash: header.leaf_hash(),
            request: header.request(),
            bytes,
        }))
    }

    /// Reads so many bytes; false if the file ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<bool> {
        match self.file.read_exact(bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| true),
        }
    }
}

/// Where the newest segment ends, as far as its records are whole.
fn recall(dir: &Path, start: u64) -> Result<u64, ReadError> {
    let path = segment_path(dir, start);
    // What a start finds may be read, so it must not be lost again, nor the segment itself.
    File::open(&path).and_then(|file| file.sync_all()).map_err(failed(&path))?;
    sync_dir(dir).map_err(failed(dir))?;
    let end = start + file_len(&path)?;
    let mut records = Records::open(&path, start, start, end).map_err(failed(&path))?;
    loop {
        match records.next() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(records.at),
            Err(ReadError::DamagedOpening { .. }) => {
                match damage::behind(&path, start, records.at, end).map_err(failed(&path))? {
                    Some(next) if next < end => {
                        records = Records::open(&path, start, next, end).map_err(failed(&path))?;
                    }
                    _ => return Ok(records.at),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Where each segment in the folder begins.
fn list(dir: &Path) -> std::io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits =
            name.to_str().filter(|name| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit()));
        // So far that the end of a file can be added.
        let start = digits.and_then(|digits| digits.parse::<i64>().ok());
        segments.extend(start.map(i64::cast_unsigned));
    }
    Ok(segments)
}

/// Creates the folder of segments so that it is there after a power cut.
fn create_dir(dir: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => dir.parent().map_or(Ok(()), sync_dir),
    }
}

fn segment_path(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("{start:020}"))
}

fn file_len(path: &Path) -> Result<u64, ReadError> {
    Ok(std::fs::metadata(path).map_err(failed(path))?.len())
}

fn failed(path: &Path) -> impl Fn(Error) -> ReadError {
    move |source| ReadError::Openings { path: path.to_owned(), source }
}

/// Some records of a small model in one read; a longer opening is read past the buffer.
const READ_AHEAD: usize = 64 << 10;
