//! Packets in and out of the kernel. Nearly everything `unsafe` of the data plane is in this folder.
//!
//! One backend today: [`ring`], a raw io_uring. A second one (AF_XDP) would hand out the same [`Datagram`]s and take
//! the same [`Outgoing`]s.

pub mod bursts;
mod control;
pub mod ring;
pub mod socket;

use quinn_proto::EcnCodepoint;
use std::net::{IpAddr, SocketAddr};

/// What arrived in one receive: one datagram, or several of one sender that the kernel glued together (GRO).
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub remote: SocketAddr,
    /// The address it was sent to, where the socket is bound to all addresses.
    pub local_ip: Option<IpAddr>,
    /// Its congestion mark.
    pub ecn: Option<EcnCodepoint>,
    /// Length of every datagram in `payload` but the last, which may be shorter.
    pub stride: usize,
    /// The datagrams, one after the other.
    pub payload: &'a [u8],
}

/// What is to be sent with one call: one datagram, or several of one length that the kernel cuts (GSO).
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    /// Where to.
    pub destination: SocketAddr,
    /// Which of our addresses it comes from; `None`: the kernel's choice.
    pub source_ip: Option<IpAddr>,
    /// Congestion mark to set.
    pub ecn: Option<EcnCodepoint>,
    /// Length of every datagram but the last, if there are several.
    pub segment: Option<u16>,
}

impl From<&quinn_proto::Transmit> for Outgoing {
    fn from(transmit: &quinn_proto::Transmit) -> Self {
        Self {
            destination: transmit.destination,
            source_ip: transmit.src_ip,
            ecn: transmit.ecn,
            segment: transmit.segment_size.and_then(|size| u16::try_from(size).ok()),
        }
    }
}
