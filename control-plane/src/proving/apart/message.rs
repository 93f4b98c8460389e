//! Messages of the services' protocol, as bytes. Every number is little-endian; a frame says how long its message is, so
//! the last part of each has what is left.
//!
//! | message | bytes | |
//! |---|---|---|
//! | `Hello` | 0..2 | version of this protocol, `u16`, 3 |
//! | | 2 | role: 0 prover, 1 verifier |
//! | | 3 | zero |
//! | | 4..8 | version of the circuits that it knows, `u32` |
//! | | 8..40 | the service's Ed25519 key |
//! | | 40..104 | its signature over `haca service session v1`, a zero byte, the role, and 32 bytes that the TLS session exports under the label `EXPORTER haca service` |
//! | `Welcome` | 0..32 | the node's key |
//! | | 32..40 | length of the longest model file, `u64` |
//! | `Refusal` | 0 | 1 if trying again may help, else 0 |
//! | | 1.. | why, UTF-8, at most 1024 bytes |
//! | `Ask` | 0..8 | leaves under the last checkpoint that a verifier has checked, `u64`; of a prover, zero |
//! | `Prove` | 0..8 | position of the opening, `u64`: names the job |
//! | | 8..16 | index of the receipt's leaf, `u64` |
//! | | 16..280 | the receipt's leaf |
//! | | 280.. | its opening |
//! | `MakeReady` | 0..32 | model id |
//! | | 32 | 1 if sealed inputs are taken, else 0 |
//! | `GetModel` | 0..32 | model id |
//! | `Model` | 0.. | the model's file |
//! | `Proven` | 0..8 | position of the opening |
//! | | 8..200 | the proof |
//! | | 200.. | the verification key |
//! | `Unprovable` | 0..8 | position of the opening |
//! | | 8.. | why, UTF-8, at most 1024 bytes |
//! | `Judge` | | see [`Docketed`] |
//! | `Rulings` | | of each case, in order: 1 and the 264 bytes of a verdict; or 0, and a text: its length, `u16`, at most 1024, and UTF-8 |

use crate::proving::docket::Ruling;
use crate::proving::queue::{Announced, Job};
use haca_settle::OpeningPosition;
use haca_verifier::zk::CIRCUIT_VERSION;
use haca_wire::event::{Event, PROOF_LEN};
use haca_wire::sign::{Role, SIGNATURE_LEN};
use haca_wire::{Digest, Leaf, ModelId, NodeId};

/// ALPN of the protocol. Another version is another protocol.
pub(super) const ALPN: &[u8] = b"haca-service/3";
/// What the TLS session exports is for this.
pub(super) const EXPORTER: &[u8] = b"EXPORTER haca service";
const VERSION: u16 = 3;
/// Texts for a person.
const MAX_TEXT: usize = 1024;

/// A message that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message does not read: {0}")]
pub(super) struct Unread(pub(super) &'static str);

/// Takes fields off the front of a message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Unread> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Unread("it is too short"))?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8], Unread> {
        let (slice, rest) = self.0.split_at_checked(length).ok_or(Unread("it is too short"))?;
        self.0 = rest;
        Ok(slice)
    }

    pub(super) fn number(&mut self) -> Result<u64, Unread> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(super) fn short(&mut self) -> Result<usize, Unread> {
        Ok(usize::from(u16::from_le_bytes(self.take()?)))
    }

    pub(super) fn count(&mut self) -> Result<usize, Unread> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    fn flag(&mut self) -> Result<bool, Unread> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Unread("a flag is neither 0 nor 1")),
        }
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn end(&self) -> Result<(), Unread> {
        if self.0.is_empty() { Ok(()) } else { Err(Unread("it is too long")) }
    }
}

fn text(bytes: &[u8]) -> Result<String, Unread> {
    if bytes.len() > MAX_TEXT {
        return Err(Unread("a text is too long"));
    }
    // It is shown to a person, so no byte of it may do more than be seen.
    let text = std::str::from_utf8(bytes).map_err(|_| Unread("a text is not UTF-8"))?;
    Ok(text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect())
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Who a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) role: Role,
    /// Version of the circuits that it knows: proofs of others it can neither make nor judge.
    pub(super) circuits: u32,
    pub(super) key: Digest,
    pub(super) signature: [u8; SIGNATURE_LEN],
}

impl Hello {
    pub(super) const LEN: usize = 104;

    pub(super) fn encode(&self) -> Vec<u8> {
        let (version, circuits) = (VERSION.to_le_bytes(), self.circuits.to_le_bytes());
        [&version[..], &[self.role as u8, 0], &circuits, &self.key.0, &self.signature].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unread> {
        let mut fields = Fields(bytes);
        if u16::from_le_bytes(fields.take()?) != VERSION {
            return Err(Unread("its version is not known here; use the node's release"));
        }
        let [role, 0] = fields.take()? else { return Err(Unread("a reserved byte is not zero")) };
        let role = Role::from_wire(role).ok_or(Unread("its role is not known"))?;
        let circuits = u32::from_le_bytes(fields.take()?);
        let hello = Hello { role, circuits, key: Digest(fields.take()?), signature: fields.take()? };
        fields.end().map(|()| hello)
    }

    /// Whether it knows the circuits of this release.
    pub(super) fn check_circuits(&self) -> Result<(), Refusal> {
        let Hello { role, circuits, .. } = self;
        match *circuits == CIRCUIT_VERSION {
            true => Ok(()),
            false => Err(Refusal {
                may_pass: false,
                why: format!(
                    "this {role} is of a release with circuits of version {circuits}, the node's are of version \
                     {CIRCUIT_VERSION}; use the node's release"
                ),
            }),
        }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) node: NodeId,
    pub(super) max_model_bytes: u64,
}

impl Welcome {
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.node.0[..], &self.max_model_bytes.to_le_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unread> {
        let mut fields = Fields(bytes);
        let welcome = Welcome { node: NodeId(fields.take()?), max_model_bytes: fields.number()? };
        fields.end().map(|()| welcome)
    }
}

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) may_pass: bool,
    pub(super) why: String,
}

impl Refusal {
    pub(super) fn encode(&self) -> Vec<u8> {
        [&[u8::from(self.may_pass)], cut(&self.why).as_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unread> {
        let mut fields = Fields(bytes);
        Ok(Refusal { may_pass: fields.flag()?, why: text(fields.rest())? })
    }
}

pub(super) fn encode_ask(checked: u64) -> Vec<u8> {
    checked.to_le_bytes().to_vec()
}

pub(super) fn decode_ask(bytes: &[u8]) -> Result<u64, Unread> {
    let mut fields = Fields(bytes);
    let checked = fields.number()?;
    fields.end().map(|()| checked)
}

pub(super) fn decode_model(bytes: &[u8]) -> Result<ModelId, Unread> {
    ModelId::from_slice(bytes).ok_or(Unread("a model id has 32 bytes"))
}

pub(super) fn encode_announced(Announced { model, sealed }: Announced) -> Vec<u8> {
    [&model.0[..], &[sealed.into()]].concat()
}

pub(super) fn decode_announced(bytes: &[u8]) -> Result<Announced, Unread> {
    let mut fields = Fields(bytes);
    let announced = Announced { model: ModelId(fields.take()?), sealed: fields.flag()? };
    fields.end().map(|()| announced)
}

pub(super) fn encode_job(job: &Job) -> Vec<u8> {
    let (position, index) = (job.position.0.to_le_bytes(), job.index.to_le_bytes());
    [&position[..], &index, &job.leaf.encode(), &job.opening].concat()
}

pub(super) fn decode_job(bytes: &[u8]) -> Result<Job, Unread> {
    let mut fields = Fields(bytes);
    let (position, index) = (OpeningPosition(fields.number()?), fields.number()?);
    let leaf = Leaf::decode(fields.slice(Leaf::LEN)?).map_err(|_| Unread("a leaf"))?;
    Ok(Job { position, index, leaf, opening: fields.rest().to_vec() })
}

/// A proof that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) position: OpeningPosition,
    pub(super) proof: [u8; PROOF_LEN],
    pub(super) key: Vec<u8>,
}

impl Proven {
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.position.0.to_le_bytes()[..], &self.proof, &self.key].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unread> {
        let mut fields = Fields(bytes);
        let position = OpeningPosition(fields.number()?);
        Ok(Proven { position, proof: fields.take()?, key: fields.rest().to_vec() })
    }
}

pub(super) fn encode_unprovable(position: OpeningPosition, why: &str) -> Vec<u8> {
    [&position.0.to_le_bytes()[..], cut(why).as_bytes()].concat()
}

pub(super) fn decode_unprovable(bytes: &[u8]) -> Result<(OpeningPosition, String), Unread> {
    let mut fields = Fields(bytes);
    Ok((OpeningPosition(fields.number()?), text(fields.rest())?))
}

pub(super) fn encode_rulings(rulings: &[Ruling]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rulings.len() * (1 + Leaf::LEN));
    for ruling in rulings {
        match ruling {
            Ruling::Verdict(verdict) => {
                bytes.push(1);
                bytes.extend_from_slice(&verdict.encode());
            }
            Ruling::None(why) => {
                let why = cut(why);
                bytes.push(0);
                bytes.extend_from_slice(&(why.len() as u16).to_le_bytes());
                bytes.extend_from_slice(why.as_bytes());
            }
        }
    }
    bytes
}

pub(super) fn decode_rulings(bytes: &[u8]) -> Result<Vec<Ruling>, Unread> {
    let (mut fields, mut rulings) = (Fields(bytes), Vec::new());
    while !fields.0.is_empty() {
        rulings.push(match fields.flag()? {
            true => match Event::decode(fields.slice(Leaf::LEN)?) {
                Ok(Event::Verdict(verdict)) => Ruling::Verdict(Box::new(verdict)),
                _ => return Err(Unread("a verdict")),
            },
            false => {
                let length = fields.short()?;
                Ruling::None(text(fields.slice(length)?)?)
            }
        });
    }
    Ok(rulings)
}

#[cfg(test)]
#[path = "message/tests.rs"]
mod tests;
