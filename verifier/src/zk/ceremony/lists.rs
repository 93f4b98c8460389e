//! Lists of compressed points in a ceremony's file.

use group::GroupEncoding as _;
use haca_wire::Digest;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::Watch;
use super::contribution::Wrong;
use crate::zk::curve::{Curve, G1, G2};
use crate::zk::membership::all_in_g1;
use crate::zk::proof::{Malformed, on_curve};

/// Points of one task.
const SHARE: usize = 64;

/// Takes lists off the bytes, one after the other, and checks that each point is on the curve, in its group and not the
/// identity. The caller has made sure that the bytes suffice.
pub(super) struct Lists<'a, W> {
    pub(super) rest: &'a [u8],
    pub(super) watch: &'a W,
}

impl<W: Watch> Lists<'_, W> {
    pub(super) fn g1(&mut self, list: &'static str, count: usize) -> Result<Vec<blstrs::G1Affine>, Wrong> {
        self.take::<G1>(list, count, all_in_g1)
    }

    pub(super) fn g2(&mut self, list: &'static str, count: usize) -> Result<Vec<blstrs::G2Affine>, Wrong> {
        self.take::<G2>(list, count, |points| points.par_iter().all(G2::in_group))
    }

    fn take<C: Curve>(
        &mut self,
        list: &'static str,
        count: usize,
        all_inside: impl Fn(&[C::Affine]) -> bool,
    ) -> Result<Vec<C::Affine>, Wrong> {
        let (bytes, rest) = self.rest.split_at(count * C::COMPRESSED);
        self.rest = rest;
        let shares = bytes.par_chunks(SHARE * C::COMPRESSED).enumerate().map(|(share, bytes)| {
            let points = bytes.chunks_exact(C::COMPRESSED).enumerate().map(|(index, bytes)| {
                let index = share * SHARE + index;
                on_curve::<C>(bytes, '·').map_err(|source| Wrong::ListPoint { list, index, source })
            });
            let points = points.collect::<Result<Vec<_>, _>>();
            self.watch.advance(bytes.len() / C::COMPRESSED);
            points
        });
        let points = shares.collect::<Result<Vec<_>, _>>()?.concat();
        if all_inside(&points) {
            return Ok(points);
        }
        let index = points.iter().position(|point| !C::in_group(point)).unwrap_or_default();
        Err(Wrong::ListPoint { list, index, source: Malformed::NotInGroup('·') })
    }
}

pub(super) fn write<C: Curve>(bytes: &mut Vec<u8>, points: &[C::Affine]) {
    points.iter().for_each(|point| bytes.extend_from_slice(point.to_bytes().as_ref()));
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
