//! Going on behind an opening that is damaged on disk.

use haca_settle::{Damage, LogHandle, OpeningPosition, ReadError};

/// Where the openings go on behind the damaged one at a position, and what is known of it; `None` if that is not certain
/// and segments are not given up.
pub(super) fn pass(
    log: &LogHandle,
    at: OpeningPosition,
    skip_segments: bool,
) -> Result<Option<(Damage, OpeningPosition)>, ReadError> {
    let Some(damage) = log.opening_damage(at)? else { return Ok(None) };
    let given_up = skip_segments.then_some(damage.segment_end);
    Ok(damage.next.or(given_up).map(|next| (damage, next)))
}
