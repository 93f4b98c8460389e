//! Pushing a model into a running node, with the operator's permit.

use crate::client::Client;
use crate::conversation::Session;
use crate::error::ClientError;
use haca_wire::frame::FrameKind;
use haca_wire::message::Encoder;
use haca_wire::message::model::{self, ModelEntry, PushModel, Pushed};
use haca_wire::sign::OperatorKey;
use haca_wire::{Digest, ModelId};
use quinn::{RecvStream, SendStream, WriteError};
use sha2::{Digest as _, Sha256};

/// Bytes of a model file in one frame, unless the node takes less: enough that headers cost nothing, and small
/// enough that progress shows.
const CHUNK: usize = 64 * 1024;

impl Client {
    /// Has the node serve a compiled model file under `name`, at once; a model that had the name loses it.
    /// `progress` is told how many bytes of the file have been handed over, now and then, up to all of them.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the key is not the operator's or the node's loader refuses the file.
    pub async fn push_model(
        &self,
        name: &str,
        file: &[u8],
        operator: &OperatorKey,
        progress: impl FnMut(u64),
    ) -> Result<ModelEntry, ClientError> {
        if !model::is_valid_name(name) {
            return Err(ClientError::ModelName(name.to_owned()));
        }
        let limits = self.welcome().limits;
        let length = file.len() as u64;
        if length > limits.max_model_bytes {
            let limit = limits.max_model_bytes;
            return Err(ClientError::TooLarge { what: "a model file", size: length, limit });
        }
        let id = Sha256::digest(file).into();
        let permit = operator.permit_push(&self.welcome().operator_challenge, &Digest(id), name);
        let announcement =
            PushModel { name: name.to_owned(), id: ModelId(id), length, operator_signature: permit };

        let session = self.session();
        let _credit = self.lanes().credit().await;
        let (send, mut recv) = session.open().await?;
        let chunk = CHUNK.min(limits.max_frame_bytes as usize);
        let payload = exchange(session, send, &mut recv, &announcement, file.chunks(chunk), progress).await?;
        let pushed = Pushed::decode(&payload).map_err(|error| self.undecodable(FrameKind::Pushed, error))?;
        if pushed.model.id != announcement.id || pushed.model.name != name {
            let (name, id) = (pushed.model.name, pushed.model.id);
            let reason = format!("it serves {name:?} with id {id}, not what was pushed");
            return Err(session.end(ClientError::protocol(session.address, reason)));
        }
        Ok(pushed.model)
    }
}

/// Sends all frames while it waits for the answer: the node may refuse before it has read them all.
async fn exchange<'f>(
    session: &Session,
    mut send: SendStream,
    recv: &mut RecvStream,
    announcement: &PushModel,
    chunks: impl Iterator<Item = &'f [u8]>,
    mut progress: impl FnMut(u64),
) -> Result<Vec<u8>, ClientError> {
    let answer = session.answer(recv, FrameKind::Pushed);
    let upload = async move {
        let mut frame = Vec::new();
        announcement.encode(&mut Encoder::new(), &mut frame);
        send.write_all(&frame).await?;
        let mut sent = 0;
        for bytes in chunks {
            frame.clear();
            model::encode_chunk(bytes, &mut frame);
            send.write_all(&frame).await?;
            sent += bytes.len() as u64;
            progress(sent);
        }
        // Fails only where the node has stopped the stream; its answer says why.
        let _ = send.finish();
        Ok(())
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        uploaded = upload => match uploaded {
            Ok(()) | Err(WriteError::Stopped(_)) => answer.await,
            Err(error) => Err(session.write_failed(&error)),
        },
    }
}
