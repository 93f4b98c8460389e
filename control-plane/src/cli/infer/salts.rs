//! The salts of sealed inputs: `ROW.salt` beside `ROW.receipt`, for the user's eyes alone.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context;
use haca_wire::Salt;

const PRIVATE: u32 = 0o600;

/// Writes the salt of a row. One that was there before is of an answer that is not kept any more.
pub(crate) fn write(directory: &Path, row: usize, salt: &Salt) -> anyhow::Result<()> {
    let path = directory.join(format!("{row}.salt"));
    let written = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(PRIVATE).open(&path)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        writeln!(file, "{}", salt.reveal())
    };
    written().with_context(|| path.display().to_string())
}

/// Reads the salt of a receipt, which has its name.
///
/// # Errors
/// If the file is not there, cannot be read or is no salt, for a person.
pub(crate) fn read(directory: &Path, receipt: &Path) -> Result<Salt, String> {
    let name = receipt.file_stem().ok_or("the receipt has no name to find its salt by")?;
    let path = directory.join(name).with_added_extension("salt");
    let failed = |why: String| format!("{}: {why}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| failed("not a salt".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_private_to_its_user_and_found_by_its_receipt() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("7.salt");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let salt = Salt([9; Salt::LEN]);
        write(directory.path(), 7, &salt).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(read(directory.path(), Path::new("elsewhere/7.receipt")), Ok(salt));
        let missing = read(directory.path(), Path::new("8.receipt")).unwrap_err();
        assert!(missing.contains("8.salt"), "{missing}");
        std::fs::write(&path, "0909").unwrap();
        assert!(read(directory.path(), Path::new("7.receipt")).is_err());
    }
}
