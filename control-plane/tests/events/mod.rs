//! The events that a node left in its log.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

use crate::node::open_log;
use haca_wire::event::{Event, proof_id};
use haca_wire::{Leaf, RequestId};
use std::collections::HashMap;
use std::path::Path;

/// Of each request the events that the log holds, counted: proofs and verdicts.
pub(crate) fn events(data: &Path) -> HashMap<RequestId, (usize, usize)> {
    let log = open_log(data);
    let handle = log.handle();
    let leaves: Vec<_> =
        (0..handle.status().tree_size).map(|index| handle.leaf(index).unwrap().unwrap()).collect();
    let mut found = HashMap::new();
    for bytes in &leaves {
        let of_receipt = |index: u64| Leaf::decode(&leaves[index as usize]).unwrap();
        match Event::decode(bytes) {
            Ok(Event::Proof(proof)) => {
                let receipt = of_receipt(proof.index);
                assert_eq!(proof.id, proof_id(&receipt.hash()));
                found.entry(receipt.request).or_insert((0, 0)).0 += 1;
            }
            Ok(Event::Verdict(verdict)) => {
                assert!(verdict.accepted && verdict.is_signed());
                let Ok(Event::Proof(proof)) = Event::decode(&leaves[verdict.index as usize]) else {
                    panic!("a verdict is on a proof")
                };
                assert_eq!(proof.hash(), verdict.proof);
                found.entry(of_receipt(proof.index).request).or_insert((0, 0)).1 += 1;
            }
            Err(_) => drop(Leaf::decode(bytes).unwrap()),
        }
    }
    log.close().unwrap();
    found
}
