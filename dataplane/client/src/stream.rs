//! Streams: one time step in, one row and a verified receipt out, with the states kept by the node.

use crate::client::Client;
use crate::error::ClientError;
use crate::infer::{Call, Inference, of_shape, to_bytes};
use haca_wire::message::infer::Step;
use haca_wire::message::model::ModelEntry;
use haca_wire::{Digest, Mode};

/// A stream of time steps: the node keeps its states for this session, under the symbol. There may be one for each
/// model and symbol; a second one would take the first one's steps for its own, and be found out by the first receipt.
///
/// The receipt of a step carries an input hash over all steps since the reset, so whoever has these can replay the stream.
#[derive(Debug)]
pub struct Stream<'a> {
    client: &'a Client,
    model: ModelEntry,
    mode: Mode,
    symbol: u64,
    /// The input hash of the last step.
    input: Digest,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The next step is the first one.
    Reset,
    Running,
    /// A step was sent and nothing is known of it.
    Lost,
}

impl Client {
    /// A stream that begins with its first step. Sends nothing yet.
    ///
    /// # Errors
    /// If the model takes no streams.
    pub fn stream(&self, model: &ModelEntry, mode: Mode, symbol: u64) -> Result<Stream<'_>, ClientError> {
        if model.step_shape.is_none() {
            return Err(ClientError::NoStreams { model: model.name.clone() });
        }
        let (input, progress) = (Digest::default(), Progress::Reset);
        Ok(Stream { client: self, model: model.clone(), mode, symbol, input, progress })
    }
}

impl Stream<'_> {
    /// Makes the next step the first one again.
    pub fn reset(&mut self) {
        (self.input, self.progress) = (Digest::default(), Progress::Reset);
    }

    /// Sends the next step, and returns the answer once its receipt was verified. A step that is refused changes nothing.
    ///
    /// # Errors
    /// As [`Client::infer`]; [`ClientError::StreamLost`] if it is not known what became of the step before, because its
    /// connection ended, its answer did not stand up, or its future was dropped.
    pub async fn step(&mut self, row: &[f32]) -> Result<Inference, ClientError> {
        let (before, progress) = (self.input, self.progress);
        if progress == Progress::Lost {
            return Err(ClientError::StreamLost { symbol: self.symbol });
        }
        let Some(shape) = self.model.step_shape else {
            return Err(ClientError::NoStreams { model: self.model.name.clone() });
        };
        let data = to_bytes(row);
        let input = of_shape(&self.model, shape, &data)?;
        let step = Step { symbol: self.symbol, reset: progress == Progress::Reset };
        let call = Call { model: &self.model, mode: self.mode, input, id: None, deadline: None, seal: None };
        self.progress = Progress::Lost;
        let answer = self.client.ask(call, Some((step, before))).await;
        match &answer {
            Ok(answer) => (self.input, self.progress) = (answer.leaf.input, Progress::Running),
            Err(ClientError::Refused { .. }) => self.progress = progress,
            Err(_) => {}
        }
        answer
    }
}
