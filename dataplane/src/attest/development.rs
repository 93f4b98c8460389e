//! The development issuer: a root key in the node's own data directory. It proves nothing about hardware. It is there so
//! that everything around evidence can be built and tried without a TEE, and a production policy refuses it.

use crate::clock::unix_now;
use crate::keys::{KeyError, seed};
use haca_wire::evidence::{Binding, DevelopmentEvidence};
use std::path::Path;
use std::time::Duration;

/// How long evidence holds; a node that runs longer is to be restarted.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Issues evidence for `binding` under the development root of this data directory, made if it is not there.
///
/// # Errors
/// If the root key cannot be read or made.
pub fn issue(data: &Path, binding: Binding) -> Result<DevelopmentEvidence, KeyError> {
    let root = seed(&data.join("development-issuer.key"))?;
    let now = unix_now();
    Ok(DevelopmentEvidence::issue(&root, binding, now, now + VALIDITY.as_nanos() as u64))
}
