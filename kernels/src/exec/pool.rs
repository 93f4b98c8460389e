//! Pools of `i16` values, sixteen channels at a time.

use core::arch::x86_64::*;

use super::scratch::Scratch;
use crate::model::graph::{Pool, Reduction, Tensor, Window};
use crate::model::plan::{Arena, Region};
use crate::spec::rounding::requantize;

/// Channels in a vector.
const WIDTH: usize = 16;

/// Whether [`execute`] computes it: `i16` in and out, with sums of 32 bits.
pub(super) fn is_supported(pool: &Pool, input: &Tensor, from: Region, to: Region) -> bool {
    let sums = pool.window.taps() as u128 * u128::from(input.bound());
    from.arena == Arena::I16 && to.arena == Arena::I16 && sums < 1 << 31
}

/// Computes rows `0..rows` of what [`is_supported`].
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn execute(
    pool: &Pool,
    output: &Tensor,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    rows: usize,
) {
    let window = &pool.window;
    let (channels, [places_down, places_across]) = (window.channels as usize, window.places());
    assert!(window.image[0] as usize * window.image[1] as usize * channels <= from.stride);
    assert!(places_down * places_across * channels <= to.stride);
    for row in 0..rows {
        let (x, y) = (scratch.start(from, row), scratch.start(to, row));
        let (values, _, _) = scratch.parts_mut();
        assert!(x + from.stride <= values.len() && y + to.stride <= values.len());
        // SAFETY: just asserted.
        let (x, y) = unsafe { (values.as_ptr().add(x), values.as_mut_ptr().add(y)) };
        for down in 0..places_down {
            for across in 0..places_across {
                let place = Place { window, channels, down, across };
                // SAFETY: a place is within the result, which has room for the channels of all places.
                let y = unsafe { y.add((down * places_across + across) * channels) };
                let whole = channels / WIDTH * WIDTH;
                for channel in (0..whole).step_by(WIDTH) {
                    // SAFETY: so many channels are there from `channel` on, in each pixel and in each place.
                    unsafe {
                        match pool.reduction {
                            Reduction::Max => {
                                _mm256_storeu_si256(y.add(channel).cast(), place.largest(x.add(channel)));
                            }
                            Reduction::Sum => {
                                let sums = place.sums(x.add(channel));
                                for (lane, &sum) in sums.iter().enumerate() {
                                    y.add(channel + lane).write(finish(pool, output, sum));
                                }
                            }
                        }
                    }
                }
                for channel in whole..channels {
                    let mut largest = i16::MIN;
                    let mut sum = 0;
                    place.pixels(|pixel| {
                        // SAFETY: as above, for one channel.
                        let value = unsafe { x.add(pixel + channel).read() };
                        largest = largest.max(value);
                        sum += i32::from(value);
                    });
                    let value = match pool.reduction {
                        Reduction::Max => largest,
                        Reduction::Sum => finish(pool, output, sum),
                    };
                    // SAFETY: as above.
                    unsafe { y.add(channel).write(value) };
                }
            }
        }
    }
}

fn finish(pool: &Pool, output: &Tensor, sum: i32) -> i16 {
    let product = i64::from(sum) * i64::from(pool.multiplier);
    requantize(product, pool.shift.into(), output.minimum, output.maximum) as i16
}

/// A place of the window.
struct Place<'a> {
    window: &'a Window,
    channels: usize,
    down: usize,
    across: usize,
}

impl Place<'_> {
    /// Where each pixel that the kernel meets starts.
    #[inline(always)]
    fn pixels(&self, mut visit: impl FnMut(usize)) {
        let window = self.window;
        let (first_row, end_row) = window.taps_within(0, self.down);
        let (first, end) = window.taps_within(1, self.across);
        let width = window.image[1] as usize;
        let at = |axis: usize, place: usize, tap: usize| {
            place * window.strides[axis] as usize + tap * window.dilations[axis] as usize
                - window.before[axis] as usize
        };
        for i in first_row..end_row {
            let row = at(0, self.down, i) * width;
            for j in first..end {
                visit((row + at(1, self.across, j)) * self.channels);
            }
        }
    }

    /// # Safety
    /// AVX2; sixteen channels of all pixels can be read at `x`.
    #[target_feature(enable = "avx2")]
    unsafe fn largest(&self, x: *const i16) -> __m256i {
        let mut largest = _mm256_set1_epi16(i16::MIN);
        self.pixels(|pixel| {
            // SAFETY: the caller's condition.
            largest = unsafe { _mm256_max_epi16(largest, _mm256_loadu_si256(x.add(pixel).cast())) };
        });
        largest
    }

    /// # Safety
    /// As [`Place::largest`].
    #[target_feature(enable = "avx2")]
    unsafe fn sums(&self, x: *const i16) -> [i32; WIDTH] {
        let mut sums = [_mm256_setzero_si256(); 2];
        self.pixels(|pixel| {
            // SAFETY: the caller's condition.
            let values = unsafe { _mm256_loadu_si256(x.add(pixel).cast()) };
            let low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(values));
            let high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(values));
            sums = [_mm256_add_epi32(sums[0], low), _mm256_add_epi32(sums[1], high)];
        });
        let mut lanes = [0; WIDTH];
        // SAFETY: sixteen lanes of 32 bits are written into an array of sixteen.
        unsafe {
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums[0]);
            _mm256_storeu_si256(lanes.as_mut_ptr().add(8).cast(), sums[1]);
        }
        lanes
    }
}
