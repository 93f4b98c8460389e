//! The small closed sets of the protocol. The same words appear in the schema, the command line, metrics and docs.

use crate::fb;
use std::fmt;
use std::str::FromStr;

macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $wire:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = fb::$name::$wire.0,)+
        }

        impl $name {
            /// Every value, in wire order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The value's name, as it is written everywhere.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// The value with this number on the wire, if there is one.
            pub fn from_wire(number: u8) -> Option<Self> {
                match fb::$name(number) { $(fb::$name::$wire => Some($name::$variant),)+ _ => None }
            }

            #[allow(dead_code)] // Every set gets it, so that each use reads alike.
            pub(crate) fn to_fb(self) -> fb::$name {
                fb::$name(self as u8)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| UnknownWord {
                    got: text.chars().take(80).collect(),
                    known: Self::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

/// A word that is not in the set it was read for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is none of: {known}")]
pub struct UnknownWord {
    got: String,
    known: String,
}

vocabulary! {
    /// Where on the verification spectrum a request wants to be.
    Mode {
        /// Signed if the node signs such answers, and logged.
        Vanilla = vanilla => "vanilla",
        /// Signed by a key that attestation evidence binds to the node, and logged.
        Tee = tee => "tee",
        /// Logged, then proven with Groth16.
        Zk = zk => "zk",
    }
}

vocabulary! {
    /// Element type of a tensor on the wire; elements are little-endian, row-major.
    Dtype {
        /// IEEE 754 binary32.
        F32 = f32_ => "f32",
        /// The model's own fixed-point numbers, at the scale the model states.
        I16 = i16_ => "i16",
    }
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::I16 => 2,
        }
    }
}

vocabulary! {
    /// How a request or a connection ended.
    Status {
        /// Done; output and receipt follow.
        Ok = ok => "ok",
        /// A queue is full. Try again after the hint.
        Overloaded = overloaded => "overloaded",
        /// The answer could not have been there by the deadline, so it was not computed.
        DeadlineMissed = deadline_missed => "deadline_missed",
        /// No model has this handle; list the models again.
        UnknownModel = unknown_model => "unknown_model",
        /// Shape, element type or a value does not fit the model.
        BadTensor = bad_tensor => "bad_tensor",
        /// The node does not offer this mode, or not yet.
        ModeUnavailable = mode_unavailable => "mode_unavailable",
        /// The node is shutting down and takes no more requests.
        Draining = draining => "draining",
        /// The bytes are not what the protocol says; the connection is closed.
        Malformed = malformed => "malformed",
        /// A limit that `Welcome` stated was passed.
        LimitExceeded = limit_exceeded => "limit_exceeded",
        /// The other side speaks another protocol version.
        VersionMismatch = version_mismatch => "version_mismatch",
        /// The call needs the operator's signature and has none that verifies.
        NotPermitted = not_permitted => "not_permitted",
        /// The model file was refused by the loader.
        ModelRefused = model_refused => "model_refused",
        /// The settlement log cannot take or serve entries now.
        LogUnavailable = log_unavailable => "log_unavailable",
        /// The node holds no stream of this symbol for this session: its first step resets it.
        UnknownSymbol = unknown_symbol => "unknown_symbol",
    }
}

vocabulary! {
    /// How far a receipt has come in its life; each stage includes the ones before.
    Stage {
        /// In the log, and fsync has returned.
        Durable = durable => "durable",
        /// Under a signed checkpoint, so that an inclusion proof exists.
        Checkpointed = checkpointed => "checkpointed",
    }
}

vocabulary! {
    /// What the log says of a request id.
    LogOutcome {
        /// The log holds a leaf for it.
        Logged = logged => "logged",
        /// The log holds none, and none is on its way.
        Unknown = unknown => "unknown",
        /// A second, different leaf came for this id; the log kept the first, at the index given.
        Conflict = conflict => "conflict",
    }
}

vocabulary! {
    /// What became of the proof of a request of mode `zk`.
    ProofOutcome {
        /// Proven, and a verifier accepted the proof; both are in the log.
        Proved = proved => "proved",
        /// A verifier refused the proof.
        Refused = refused => "refused",
        /// There is no proof, and there will be none.
        Failed = failed => "failed",
        /// The log holds no leaf of mode `zk` for this request, and none is on its way.
        Unknown = unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for &status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(Status::from_wire(status as u8), Some(status));
        }
        assert_eq!(Mode::from_wire(3), None);
        assert_eq!("sgx".parse::<Mode>().unwrap_err().to_string(), "\"sgx\" is none of: vanilla, tee, zk");
    }
}
