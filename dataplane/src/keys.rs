//! The keys of a node, in its data directory. Each file is private to the user who runs the node.

use crate::quic::TlsIdentity;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A secret of 32 bytes, stored as 64 hexadecimal digits.
pub type Seed = Zeroizing<[u8; 32]>;

/// Why a key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{path}: its mode is {mode:o}, others could read the key; run: chmod 600 {path}")]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not a key.
    #[error(
        "{path}: {what}; restore it from a backup, or remove it to have a new one made (old receipts then name another key)"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The secret in `file`, made if it is not there. Of several who make it at once, all get the same one.
///
/// # Errors
/// If the file cannot be read or made, others can read it, or it is not 64 hexadecimal digits.
pub fn seed(file: &Path) -> Result<Seed, KeyError> {
    if let Some(kept) = kept_seed(file)? {
        return Ok(kept);
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).expect("the kernel's random source does not fail once it is seeded");
    let text = Zeroizing::new(format!("{}\n", haca_wire::Digest(*seed)));
    let fail = |source| KeyError::Io { path: file.to_owned(), source };
    let draft = write_draft(file, text.as_bytes())?;
    // Unlike a rename, a link does not replace what another process has made meanwhile.
    let linked = fs::hard_link(&draft, file);
    fs::remove_file(&draft).map_err(fail)?;
    match linked {
        Ok(()) => Ok(seed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            kept_seed(file)?.ok_or_else(|| fail(io::ErrorKind::NotFound.into()))
        }
        Err(error) => Err(fail(error)),
    }
}

fn kept_seed(file: &Path) -> Result<Option<Seed>, KeyError> {
    let Some(text) = read_private(file)? else { return Ok(None) };
    let digest: haca_wire::Digest = (std::str::from_utf8(&text).unwrap_or_default().trim())
        .parse()
        .map_err(|error| KeyError::Malformed { path: file.to_owned(), what: format!("{error}") })?;
    Ok(Some(Zeroizing::new(digest.0)))
}

/// The TLS key and certificate in `data`, made if the key is not there. Only for the process that has the directory to
/// itself.
///
/// # Errors
/// As for [`seed`].
pub fn tls(data: &Path) -> Result<TlsIdentity, KeyError> {
    let (key_file, certificate_file) = (data.join("tls.key"), data.join("tls.crt"));
    let kept = read_private(&key_file)?;
    if let (Some(key), Some(certificate)) = (&kept, read_private(&certificate_file)?) {
        return Ok(TlsIdentity { certificate: certificate.to_vec().into(), key: key.to_vec().into() });
    }
    let malformed =
        |error: rcgen::Error| KeyError::Malformed { path: key_file.clone(), what: error.to_string() };
    // Callers pin the key, not the certificate: a key without one gets a new one.
    let key = match &kept {
        Some(kept) => rcgen::KeyPair::try_from(&kept[..]),
        None => rcgen::KeyPair::generate(),
    };
    let key = key.map_err(malformed)?;
    let parameters = rcgen::CertificateParams::new(vec!["haca-node".to_owned()]).map_err(malformed)?;
    let certificate = parameters.self_signed(&key).map_err(malformed)?;
    let key = Zeroizing::new(key.serialize_der());
    write_private(&certificate_file, certificate.der())?;
    write_private(&key_file, &key)?;
    Ok(TlsIdentity { certificate: certificate.der().clone(), key: key.to_vec().into() })
}

/// SHA-256 of the SubjectPublicKeyInfo in a certificate: what callers pin.
///
/// # Errors
/// If it is not an X.509 certificate.
pub fn key_pin(certificate: &[u8]) -> Result<haca_wire::Digest, webpki::Error> {
    use sha2::Digest as _;
    let der = rustls::pki_types::CertificateDer::from(certificate);
    let parsed = webpki::EndEntityCert::try_from(&der)?;
    Ok(haca_wire::Digest(sha2::Sha256::digest(parsed.subject_public_key_info()).into()))
}

fn read_private(file: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
    let fail = |source| KeyError::Io { path: file.to_owned(), source };
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::NotPrivate { path: file.to_owned(), mode });
    }
    if metadata.len() > 64 << 10 {
        return Err(KeyError::Malformed { path: file.to_owned(), what: format!("{} bytes", metadata.len()) });
    }
    fs::read(file).map(|bytes| Some(Zeroizing::new(bytes))).map_err(fail)
}

/// Writes a file whole or not at all.
fn write_private(file: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let draft = write_draft(file, bytes)?;
    fs::rename(&draft, file).map_err(|source| KeyError::Io { path: file.to_owned(), source })
}

/// Writes what is to become `file` under a name of this process's own, and returns that once it is on disk.
fn write_draft(file: &Path, bytes: &[u8]) -> Result<PathBuf, KeyError> {
    let draft = file.with_added_extension(format!("{}.new", std::process::id()));
    let fail = |source| KeyError::Io { path: draft.clone(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut writer = options.open(&draft).map_err(fail)?;
    writer.write_all(bytes).and_then(|()| writer.sync_all()).map_err(fail)?;
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.key");
        let made = seed(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*seed(&file).unwrap(), *made);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(seed(&file).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "not a key").unwrap();
        assert!(matches!(seed(&file), Err(KeyError::Malformed { .. })));
    }

    #[test]
    fn the_tls_key_stays_and_its_pin_is_of_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let made = tls(folder.path()).unwrap();
        let again = tls(folder.path()).unwrap();
        assert_eq!(made.certificate, again.certificate);
        fs::remove_file(folder.path().join("tls.crt")).unwrap();
        let third = tls(folder.path()).unwrap();
        assert_eq!(key_pin(&made.certificate).unwrap(), key_pin(&third.certificate).unwrap());
    }
}
