//! Control messages and socket addresses, to and from the kernel's layout.

use super::Outgoing;
use quinn_proto::EcnCodepoint;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for every control message either way: packet info of IPv6 (the larger), traffic class, and segment size, each
/// with its header and alignment.
pub(super) const CONTROL_LEN: usize = 128;

/// What the control messages of one receive say.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Received {
    pub(super) stride: Option<usize>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) local_ip: Option<IpAddr>,
}

/// Reads the control messages that the kernel wrote behind a receive.
pub(super) fn parse(mut bytes: &[u8]) -> Received {
    const HEADER: usize = mem::size_of::<libc::cmsghdr>();
    let mut received = Received::default();
    while bytes.len() >= HEADER {
        // SAFETY: there are enough bytes for a header, and any bytes are one; alignment is not assumed.
        let header: libc::cmsghdr = unsafe { bytes.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        let length = header.cmsg_len;
        if length < HEADER || length > bytes.len() {
            break;
        }
        let data = &bytes[HEADER..length];
        match (header.cmsg_level, header.cmsg_type, data) {
            (libc::SOL_UDP, libc::UDP_GRO, &[a, b, c, d, ..]) => {
                received.stride = usize::try_from(i32::from_ne_bytes([a, b, c, d])).ok();
            }
            (libc::IPPROTO_IP, libc::IP_TOS, &[tos, ..])
            | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &[tos, ..]) => {
                received.ecn = EcnCodepoint::from_bits(tos & 0b11);
            }
            // struct in_pktinfo: interface, local address, header's destination address.
            (libc::IPPROTO_IP, libc::IP_PKTINFO, &[_, _, _, _, _, _, _, _, a, b, c, d, ..]) => {
                received.local_ip = Some(Ipv4Addr::new(a, b, c, d).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data) if data.len() >= 16 => {
                received.local_ip = data.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).into());
            }
            _ => {}
        }
        let aligned = length.next_multiple_of(mem::align_of::<libc::cmsghdr>());
        bytes = bytes.get(aligned..).unwrap_or_default();
    }
    received
}

/// Control messages on their way to the kernel. Aligned as `cmsghdr` asks.
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; CONTROL_LEN],
    length: usize,
}

impl Control {
    pub(super) fn new() -> Self {
        Self { bytes: [0; CONTROL_LEN], length: 0 }
    }

    pub(super) fn fill(&mut self, outgoing: &Outgoing) {
        self.length = 0;
        if let Some(segment) = outgoing.segment {
            self.put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        let tos = outgoing.ecn.map(|ecn| (ecn as i32).to_ne_bytes());
        let v4 = outgoing.destination.is_ipv4();
        match tos {
            Some(tos) if v4 => self.put(libc::IPPROTO_IP, libc::IP_TOS, &tos),
            Some(tos) => self.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos),
            None => {}
        }
        match outgoing.source_ip {
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        if self.length == 0 { std::ptr::null_mut() } else { self.bytes.as_mut_ptr().cast() }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        const HEADER: usize = mem::size_of::<libc::cmsghdr>();
        let length = HEADER + data.len();
        let header: [[u8; 4]; 2] = [level.to_ne_bytes(), kind.to_ne_bytes()];
        let at = &mut self.bytes[self.length..];
        at[..8].copy_from_slice(&(length as u64).to_ne_bytes());
        at[8..16].copy_from_slice(header.as_flattened());
        at[HEADER..length].copy_from_slice(data);
        self.length += length.next_multiple_of(8);
    }
}

// `put` writes `cmsghdr` by hand: a 64-bit length, then two 32-bit numbers.
const _: () = assert!(mem::size_of::<libc::cmsghdr>() == 16 && mem::align_of::<libc::cmsghdr>() == 8);

/// A socket address in the kernel's layout.
pub(super) struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

/// The longest address there is here: `sockaddr_in6`.
pub(super) const NAME_LEN: usize = mem::size_of::<libc::sockaddr_in6>();

impl Address {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero bytes are a valid `sockaddr_storage` of no family.
        Self { storage: unsafe { mem::zeroed() }, length: 0 }
    }

    pub(super) fn fill(&mut self, address: SocketAddr) {
        // SAFETY: `sockaddr_storage` is large enough and aligned for either kind of address.
        unsafe {
            match address {
                SocketAddr::V4(v4) => {
                    let storage = &mut *(&raw mut self.storage).cast::<libc::sockaddr_in>();
                    storage.sin_family = libc::AF_INET as libc::sa_family_t;
                    storage.sin_port = v4.port().to_be();
                    storage.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                    self.length = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
                }
                SocketAddr::V6(v6) => {
                    let storage = &mut *(&raw mut self.storage).cast::<libc::sockaddr_in6>();
                    storage.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                    storage.sin6_port = v6.port().to_be();
                    storage.sin6_flowinfo = v6.flowinfo();
                    storage.sin6_addr.s6_addr = v6.ip().octets();
                    storage.sin6_scope_id = v6.scope_id();
                    self.length = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                }
            }
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        (&raw mut self.storage).cast()
    }

    pub(super) fn len(&self) -> libc::socklen_t {
        self.length
    }
}

/// Reads an address that the kernel wrote; `None` for any family but the two of IP.
pub(super) fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk::<2>()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk::<2>()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip = *bytes.get(4..)?.first_chunk::<4>()?;
            Some(SocketAddrV4::new(ip.into(), port).into())
        }
        libc::AF_INET6 => {
            let number = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk::<4>()?));
            let ip = *bytes.get(8..)?.first_chunk::<16>()?;
            Some(SocketAddrV6::new(ip.into(), port, number(4)?, number(24)?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_survive_the_kernel_layout() {
        for text in ["127.0.0.1:4433", "[::1]:9", "[fe80::1%7]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut kernel = Address::new();
            kernel.fill(address);
            // SAFETY: `fill` wrote that many bytes.
            let bytes = unsafe {
                std::slice::from_raw_parts(kernel.as_mut_ptr().cast::<u8>(), kernel.len() as usize)
            };
            assert_eq!(parse_address(bytes), Some(address));
        }
    }

    #[test]
    fn what_is_sent_reads_back() {
        let mut control = Control::new();
        control.fill(&Outgoing {
            destination: "127.0.0.1:1".parse().unwrap(),
            source_ip: None,
            ecn: Some(EcnCodepoint::Ce),
            segment: Some(1200),
        });
        let received = parse(&control.bytes[..control.len()]);
        assert_eq!(received.ecn, Some(EcnCodepoint::Ce));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse_address(&bytes);
        }
    }
}
