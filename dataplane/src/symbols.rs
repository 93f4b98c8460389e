//! The streams that one shard holds for one model: each is the states of one symbol of one session, and the input hash of
//! its last step.
//!
//! All memory is sized up front; a stream is freed when its session ends. A step takes its states when it is staged and
//! leaves the next ones when its answer is signed, so one that is refused or dropped in between changes nothing.

use haca_kernels::StreamExecutor;
use haca_wire::message::infer::Step;
use haca_wire::{Digest, SessionId, tensor};
use std::collections::HashMap;
use std::ops::Range;

use crate::refusal::Reason;

/// One model's streams on one shard, and what takes them through their steps.
pub(crate) struct Steps {
    executor: StreamExecutor,
    places: HashMap<(SessionId, u64), u32>,
    free: Vec<u32>,
    /// By place, as are the states.
    streams: Vec<Stream>,
    states: Vec<i32>,
    /// The states before a first step.
    initial: Box<[i32]>,
    /// By slot of the batch.
    staged: Vec<Staged>,
}

#[derive(Clone, Copy, Default)]
struct Stream {
    /// Input hash of the last step; zero before the first.
    input: Digest,
    /// Counts who had the place: a step whose stream was freed must not leave its states to the next.
    tenant: u32,
    /// A step of it is staged.
    is_waiting: bool,
}

#[derive(Clone, Copy)]
struct Staged {
    place: u32,
    tenant: u32,
    /// Input hash of the step before.
    before: Digest,
}

impl Steps {
    pub(crate) fn new(executor: StreamExecutor, max_symbols: usize) -> Self {
        let initial: Box<[i32]> = executor.stream().initial_states().into();
        Self {
            // Twice the room: a table that is at most half full is tidied up in place.
            places: HashMap::with_capacity(2 * max_symbols),
            free: (0..max_symbols as u32).rev().collect(),
            streams: vec![Stream::default(); max_symbols],
            states: vec![0; max_symbols * initial.len()],
            initial,
            staged: Vec::with_capacity(executor.max_rows()),
            executor,
        }
    }

    pub(crate) fn executor(&self) -> &StreamExecutor {
        &self.executor
    }

    /// Whether a step of this stream is staged.
    pub(crate) fn is_waiting(&self, session: SessionId, symbol: u64) -> bool {
        self.places.get(&(session, symbol)).is_some_and(|place| self.streams[*place as usize].is_waiting)
    }

    /// Stages a step into the next slot. No other of its stream is staged.
    pub(crate) fn stage(
        &mut self,
        session: SessionId,
        step: Step,
        dtype: haca_kernels::Dtype,
        data: &[u8],
    ) -> Result<(), Reason> {
        let slot = self.staged.len();
        let known = self.places.get(&(session, step.symbol)).copied();
        let states = match known {
            None if !step.reset => return Err(Reason::UnknownSymbol(step.symbol)),
            None if self.free.is_empty() => return Err(Reason::SymbolsFull(self.streams.len())),
            Some(place) if !step.reset => &self.states[self.words(place)],
            _ => &self.initial,
        };
        self.executor.stage(slot, dtype, data, states).map_err(|error| Reason::Shape(error.to_string()))?;
        let place = known.unwrap_or_else(|| self.begin(session, step.symbol));
        let stream = &mut self.streams[place as usize];
        stream.is_waiting = true;
        let before = if step.reset { Digest::default() } else { stream.input };
        self.staged.push(Staged { place, tenant: stream.tenant, before });
        Ok(())
    }

    /// Takes a free place, which the caller has found to be there.
    fn begin(&mut self, session: SessionId, symbol: u64) -> u32 {
        let place = self.free.pop().expect("a free place was found before the step was staged");
        self.places.insert((session, symbol), place);
        // Should the first step be dropped, the next may come without a reset.
        let words = self.words(place);
        self.states[words].copy_from_slice(&self.initial);
        self.streams[place as usize].input = Digest::default();
        place
    }

    /// Where the states of a place lie.
    fn words(&self, place: u32) -> Range<usize> {
        let len = self.initial.len();
        place as usize * len..(place as usize + 1) * len
    }

    pub(crate) fn execute(&mut self, rows: usize) {
        self.executor.execute(rows);
    }

    /// From the hashes of the staged steps' tensors to the input hashes of their receipts.
    pub(crate) fn chain(&self, hashes: &mut [Digest]) {
        for (staged, hash) in self.staged.iter().zip(hashes) {
            *hash = tensor::step_hash(&staged.before, hash);
        }
    }

    /// Leaves the states after the staged steps, and their input hashes, with their streams.
    pub(crate) fn keep(&mut self, hashes: &[Digest]) {
        for (slot, (staged, hash)) in self.staged.iter().zip(hashes).enumerate() {
            let words = self.words(staged.place);
            let stream = &mut self.streams[staged.place as usize];
            if stream.tenant == staged.tenant {
                (stream.input, stream.is_waiting) = (*hash, false);
                self.states[words].copy_from_slice(self.executor.states(slot));
            }
        }
        self.staged.clear();
    }

    /// Drops the staged steps: their streams stay as they were.
    pub(crate) fn drop_staged(&mut self) {
        for staged in self.staged.drain(..) {
            let stream = &mut self.streams[staged.place as usize];
            stream.is_waiting &= stream.tenant != staged.tenant;
        }
    }

    /// Frees the streams of a session that is gone.
    pub(crate) fn forget(&mut self, session: SessionId) {
        let (free, streams) = (&mut self.free, &mut self.streams);
        self.places.retain(|(of, _), place| {
            let stays = *of != session;
            if !stays {
                let stream = &mut streams[*place as usize];
                *stream = Stream { tenant: stream.tenant.wrapping_add(1), ..Stream::default() };
                free.push(*place);
            }
            stays
        });
    }
}
