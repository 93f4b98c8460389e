//! Receipts in the log: `AwaitReceipts` and `ReceiptStates`.

use super::{DecodeError, Encoder, decode_root, digests_to_bytes, required_path};
use crate::fb;
use crate::frame::FrameKind;
use crate::ids::{Digest, RequestId};
use crate::vocabulary::{LogOutcome, Stage};

/// Asks the node to answer once the log holds these requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitReceipts {
    /// How far the receipts must have come.
    pub stage: Stage,
    /// The requests.
    pub ids: Vec<RequestId>,
}

/// What the log says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Whether it holds a leaf for it.
    pub outcome: LogOutcome,
    /// The leaf's index in the log.
    pub index: u64,
    /// The hash of the leaf that the log holds.
    pub leaf_hash: Digest,
    /// The path from the leaf to the checkpoint's root; empty at [`Stage::Durable`].
    pub path: Vec<Digest>,
}

/// The answer, in the order that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptStates {
    /// One entry for each id.
    pub entries: Vec<LogEntry>,
    /// Size of the tree that the paths lead to; zero at [`Stage::Durable`].
    pub tree_size: u64,
    /// The checkpoint of that tree, a C2SP signed note; empty at [`Stage::Durable`].
    pub checkpoint: String,
}

impl AwaitReceipts {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::AwaitReceipts, out, |builder| {
            let ids: Vec<_> = self.ids.iter().map(|id| fb::RequestId::new(&id.0)).collect();
            let ids = Some(builder.create_vector(&ids));
            fb::AwaitReceipts::create(builder, &fb::AwaitReceiptsArgs { stage: self.stage.to_fb(), ids })
        });
    }

    /// Reads the payload of an `AwaitReceipts` frame. The frame's limit bounds how many ids there are.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let request = decode_root::<fb::AwaitReceipts<'_>>(payload)?;
        let stage = Stage::from_wire(request.stage().0);
        Ok(Self {
            stage: stage.ok_or(DecodeError::Field("stage", "0 durable, 1 checkpointed"))?,
            ids: request.ids().iter().map(|id| RequestId(id.bytes().into())).collect(),
        })
    }
}

impl ReceiptStates {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::ReceiptStates, out, |builder| {
            let entries: Vec<_> = (self.entries.iter())
                .map(|entry| {
                    let path = Some(builder.create_vector(&digests_to_bytes(&entry.path)));
                    let args = fb::LogEntryArgs {
                        outcome: entry.outcome.to_fb(),
                        index: entry.index,
                        leaf_hash: Some(&fb::Digest::new(&entry.leaf_hash.0)),
                        path,
                    };
                    fb::LogEntry::create(builder, &args)
                })
                .collect();
            let entries = Some(builder.create_vector(&entries));
            let checkpoint = Some(builder.create_string(&self.checkpoint));
            let args = fb::ReceiptStatesArgs { entries, tree_size: self.tree_size, checkpoint };
            fb::ReceiptStates::create(builder, &args)
        });
    }

    /// Reads the payload of a `ReceiptStates` frame. Nothing is verified yet.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let states = decode_root::<fb::ReceiptStates<'_>>(payload)?;
        let entry = |entry: fb::LogEntry<'_>| -> Result<LogEntry, DecodeError> {
            let outcome = LogOutcome::from_wire(entry.outcome().0);
            Ok(LogEntry {
                outcome: outcome.ok_or(DecodeError::Field("outcome", "not a known outcome"))?,
                index: entry.index(),
                leaf_hash: Digest(entry.leaf_hash().map_or([0; 32], |hash| hash.bytes().into())),
                path: required_path("path", entry.path())?,
            })
        };
        Ok(Self {
            entries: states.entries().iter().map(entry).collect::<Result<_, DecodeError>>()?,
            tree_size: states.tree_size(),
            checkpoint: states.checkpoint().unwrap_or_default().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEADER_LEN;

    #[test]
    fn both_directions_round_trip() {
        let mut encoder = Encoder::new();
        let ask =
            AwaitReceipts { stage: Stage::Checkpointed, ids: vec![RequestId([1; 16]), RequestId([2; 16])] };
        let mut out = Vec::new();
        ask.encode(&mut encoder, &mut out);
        assert_eq!(AwaitReceipts::decode(&out[HEADER_LEN..]), Ok(ask));

        let entry = |index| LogEntry {
            outcome: LogOutcome::Logged,
            index,
            leaf_hash: Digest([3; 32]),
            path: vec![Digest([4; 32]); 5],
        };
        let states =
            ReceiptStates { entries: vec![entry(1), entry(2)], tree_size: 9, checkpoint: "note".into() };
        let mut out = Vec::new();
        states.encode(&mut encoder, &mut out);
        assert_eq!(ReceiptStates::decode(&out[HEADER_LEN..]), Ok(states));
    }
}
