//! Connections that have not said who they are: so many at a time, and of these so many from one network.
//!
//! Everybody with a real address can connect, and may take some seconds to say who it is. With a bound for each network,
//! one that says nothing keeps out those beside it, and not the services elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Who is there. Networks without strangers are not kept.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<HashMap<IpAddr, usize>>);

/// A stranger's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    place: Arc<Strangers>,
    network: IpAddr,
}

impl Strangers {
    /// A place for one from this address, if there is one.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Stranger> {
        let network = network(address);
        let mut networks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, here) = (networks.values().sum::<usize>(), networks.get(&network).copied().unwrap_or(0));
        (all < MAX_STRANGERS && here < MAX_OF_NETWORK).then(|| {
            networks.insert(network, here + 1);
            Stranger { place: Arc::clone(self), network }
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut networks = self.place.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = networks.get_mut(&self.network) {
            *here -= 1;
            if *here == 0 {
                networks.remove(&self.network);
            }
        }
    }
}

/// What one party is taken to have: an address of IPv4, or the first 64 bits of one of IPv6 (RFC 4291, section 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// Each has a handshake under way, some tens of kilobytes.
const MAX_STRANGERS: usize = 128;
/// Services that come back at once, after the node was away, from behind one address. Others try again.
pub(super) const MAX_OF_NETWORK: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_is_full_keeps_out_no_other_until_all_is() {
        let strangers = Arc::new(Strangers::default());
        let address = |network: u16, host: u16| -> IpAddr { [0x2001, network, 0, 0, 0, 0, 0, host].into() };
        let mut places: Vec<Stranger> =
            (0..MAX_OF_NETWORK as u16).map(|host| strangers.admit(address(1, host)).unwrap()).collect();
        assert!(strangers.admit(address(1, 99)).is_none());
        let full = MAX_STRANGERS / MAX_OF_NETWORK;
        for network in 2..=full as u16 {
            places.extend((0..MAX_OF_NETWORK).map(|_| strangers.admit(address(network, 1)).unwrap()));
        }
        assert!(strangers.admit([192, 0, 2, 1].into()).is_none(), "all places are taken");
        drop(places.pop());
        let last = strangers.admit([192, 0, 2, 1].into()).unwrap();
        drop((last, places));
        assert!(strangers.0.lock().unwrap().is_empty());
    }

    #[test]
    fn an_address_of_one_version_written_in_the_other_is_the_same() {
        let (four, six) = ([192, 0, 2, 1].into(), [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x201].into());
        assert_eq!(network(four), network(six));
        assert_ne!(network(four), network([192, 0, 2, 2].into()));
    }
}
