//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces a file, or makes it, whole or not at all; when it returns `Ok` that is durable. What is not whole lies beside
/// it with the extension `new`.
///
/// # Errors
/// What the file system said; what was there before is there.
///
/// # Panics
/// If the path has no folder.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    let folder = path.parent().expect("a file lies in a folder");
    File::open(folder)?.sync_all()
}
