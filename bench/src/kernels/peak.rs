//! What this core does at most, and how much of it an executor does. Of many short runs the fastest counts, since nothing
//! but the core's own limit is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use haca_kernels::{Backend, Work};

use crate::report::Row;

const RUNS: usize = 100;

/// The most that is done in a nanosecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peak {
    /// Multiply-adds of 16 bits into sums of 32, from registers.
    multiply_adds: f64,
    /// Branches compared in 32 bits, and their masks of 32 leaves applied, from registers.
    branches: f64,
    /// Bytes read from the second-level cache.
    bytes: f64,
}

impl Peak {
    /// Measures with the instructions of an executor. The reference has none of its own.
    pub(super) fn measure(backend: Backend) -> Option<Peak> {
        assert!(backend.is_available(), "this processor has no {}", backend.name());
        match backend {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Some(Peak {
                // SAFETY: the processor has AVX2, as was just asserted.
                multiply_adds: fastest(|| unsafe { vectors::multiply_adds_avx2() }),
                // SAFETY: as above.
                branches: fastest(|| unsafe { vectors::branches_avx2() }),
                bytes: cached(),
            }),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Vnni => Some(Peak {
                // SAFETY: the processor has AVX-512 F and VNNI, as was just asserted.
                multiply_adds: fastest(|| unsafe { vectors::multiply_adds_avx512() }),
                // SAFETY: as above.
                branches: fastest(|| unsafe { vectors::branches_avx512() }),
                bytes: cached(),
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peak { multiply_adds, branches, bytes } = self;
        write!(
            f,
            "{multiply_adds:.0} multiply-adds or {branches:.0} branches in a nanosecond from registers, {bytes:.0} bytes \
             from the second-level cache"
        )
    }
}

/// What `run` does in a nanosecond; it says how much that was.
fn fastest(mut run: impl FnMut() -> usize) -> f64 {
    let speed = |_| {
        let start = Instant::now();
        let done = run();
        done as f64 / start.elapsed().as_nanos().max(1) as f64
    };
    (0..RUNS).map(speed).fold(0.0, f64::max)
}

/// How much of the peak is done in a measured time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    /// Of multiply-adds or branches; its name as a metric.
    pub(super) of_peak: Option<(&'static str, f64)>,
    /// Of the second-level cache's bytes, by rows alone: in batches, what is read is for several.
    pub(super) of_l2: Option<f64>,
}

impl Shares {
    /// Of a row in `us`, in calls with `batch` rows.
    pub(super) fn new(metric: &'static str, us: f64, batch: usize, work: Work, peak: &Peak) -> Shares {
        let registers = work.multiply_adds as f64 / peak.multiply_adds + work.branches as f64 / peak.branches;
        let cache = work.bytes as f64 / peak.bytes;
        let of = |least: f64| least / (us * 1e3);
        Shares { of_peak: Some((metric, of(registers))), of_l2: (batch == 1).then(|| of(cache)) }
    }

    /// These as rows beside that of the time.
    pub(super) fn rows(&self, time: &Row) -> Vec<Row> {
        let row = |(metric, share)| {
            Row::new(time.bench, time.case.clone(), (metric, "share"), Some(share), BTreeMap::new())
        };
        self.of_peak.into_iter().chain(self.of_l2.map(|share| ("of_l2_1", share))).map(row).collect()
    }
}

/// Bytes of a buffer read in a nanosecond, over and over.
#[cfg(target_arch = "x86_64")]
fn cached() -> f64 {
    /// More than a first-level cache holds, and less than a second-level one.
    const BYTES: usize = 192 << 10;
    let buffer = vec![vectors::Line::default(); BYTES / size_of::<vectors::Line>()];
    // SAFETY: every executor of vectors needs AVX2.
    fastest(|| unsafe { vectors::read(&buffer) })
}

/// Loops in assembly: a compiler would see that turns change nothing. They say how much they have done.
#[cfg(target_arch = "x86_64")]
mod vectors {
    use core::arch::asm;

    /// Some ten microseconds.
    const TURNS: usize = 4_000;

    /// A line of the cache.
    #[derive(Clone, Copy, Default)]
    #[repr(align(64))]
    pub(super) struct Line(#[allow(dead_code)] [u64; 8]);

    /// Runs lines of assembly [`TURNS`] times.
    macro_rules! turns {
        ($($line:expr),+ ; $($clobber:tt),+) => {
            asm!(
                "2:",
                $($line,)+
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                $(out($clobber) _,)+
                options(nomem, nostack),
            )
        };
    }

    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn multiply_adds_avx2() -> usize {
        // Sixteen vectors of sixteen products.
        macro_rules! pair {
            ($sum:literal, $products:literal) => {
                concat!(
                    "vpmaddwd ymm",
                    $products,
                    ", ymm15, ymm14\n",
                    "vpaddd ymm",
                    $sum,
                    ", ymm",
                    $sum,
                    ", ymm",
                    $products
                )
            };
        }
        // SAFETY: the instructions are the caller's condition, and the registers that change are named.
        unsafe {
            turns!(
                pair!(0, 8), pair!(1, 9), pair!(2, 10), pair!(3, 11), pair!(4, 12), pair!(5, 13), pair!(6, 8), pair!(7, 9),
                pair!(0, 10), pair!(1, 11), pair!(2, 12), pair!(3, 13), pair!(4, 8), pair!(5, 9), pair!(6, 10), pair!(7, 11);
                "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11",
                "ymm12", "ymm13"
            );
        }
        TURNS * 16 * 16
    }

    /// # Safety
    /// The processor must have AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn multiply_adds_avx512() -> usize {
        macro_rules! sum {
            ($sum:literal) => {
                concat!("vpdpwssd zmm", $sum, ", zmm15, zmm14")
            };
        }
        // SAFETY: as above.
        unsafe {
            turns!(
                sum!(0), sum!(1), sum!(2), sum!(3), sum!(4), sum!(5), sum!(6), sum!(7), sum!(8), sum!(9), sum!(10), sum!(11);
                "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11"
            );
        }
        TURNS * 12 * 32
    }

    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn branches_avx2() -> usize {
        macro_rules! branch {
            ($open:literal, $fails:literal) => {
                concat!(
                    "vpcmpgtd ymm",
                    $fails,
                    ", ymm15, ymm14\n",
                    "vpandn ymm",
                    $fails,
                    ", ymm13, ymm",
                    $fails,
                    "\n",
                    "vpandn ymm",
                    $open,
                    ", ymm",
                    $fails,
                    ", ymm",
                    $open
                )
            };
        }
        // SAFETY: as above.
        unsafe {
            turns!(
                branch!(0, 6), branch!(1, 7), branch!(2, 8), branch!(3, 9), branch!(4, 10), branch!(5, 11);
                "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11"
            );
        }
        TURNS * 6 * 8
    }

    /// # Safety
    /// The processor must have AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn branches_avx512() -> usize {
        macro_rules! branch {
            ($open:literal, $fails:literal) => {
                concat!(
                    "vpcmpgtd k",
                    $fails,
                    ", zmm15, zmm14\n",
                    "vpandd zmm",
                    $open,
                    "{{k",
                    $fails,
                    "}}, zmm",
                    $open,
                    ", zmm13"
                )
            };
        }
        // SAFETY: as above.
        unsafe {
            turns!(
                branch!(0, 1), branch!(1, 2), branch!(2, 3), branch!(3, 4), branch!(4, 5), branch!(5, 6);
                "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "k1", "k2", "k3", "k4", "k5", "k6"
            );
        }
        TURNS * 6 * 16
    }

    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn read(lines: &[Line]) -> usize {
        let quarters = lines.as_chunks::<4>().0;
        // SAFETY: as above; every turn reads the four lines at `at`, as many times as there are.
        unsafe {
            asm!(
                "2:",
                "vmovdqa ymm0, [{at}]",
                "vmovdqa ymm1, [{at} + 32]",
                "vmovdqa ymm2, [{at} + 64]",
                "vmovdqa ymm3, [{at} + 96]",
                "vmovdqa ymm0, [{at} + 128]",
                "vmovdqa ymm1, [{at} + 160]",
                "vmovdqa ymm2, [{at} + 192]",
                "vmovdqa ymm3, [{at} + 224]",
                "add {at}, 256",
                "dec {turns}",
                "jnz 2b",
                at = inout(reg) quarters.as_ptr() => _,
                turns = inout(reg) quarters.len() => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                options(readonly, nostack),
            );
        }
        size_of_val(quarters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEAK: Peak = Peak { multiply_adds: 100.0, branches: 50.0, bytes: 10.0 };

    #[test]
    fn shares_are_of_what_the_peak_takes() {
        let work = Work { multiply_adds: 10_000, branches: 0, bytes: 500 };
        let shares = Shares::new("of_peak_1", 0.2, 1, work, &PEAK);
        assert_eq!(shares.of_peak, Some(("of_peak_1", 0.5)));
        assert_eq!(shares.of_l2, Some(0.25));
        let trees = Work { multiply_adds: 0, branches: 1_000, bytes: 500 };
        let shares = Shares::new("of_peak_8", 0.1, 8, trees, &PEAK);
        assert_eq!((shares.of_peak, shares.of_l2), (Some(("of_peak_8", 0.2)), None));
    }

    #[test]
    fn every_executor_of_vectors_has_a_peak() {
        for backend in Backend::available() {
            let peak = Peak::measure(backend);
            assert_eq!(peak.is_some(), backend != Backend::Scalar);
            for figure in peak.iter().flat_map(|peak| [peak.multiply_adds, peak.branches, peak.bytes]) {
                assert!(figure.is_finite() && figure > 0.0);
            }
        }
    }
}
