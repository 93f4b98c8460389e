//! A disk to fill: a small tmpfs in a mount namespace of its own, where a test starts its own binary again.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the disk is mounted, for the test that is started on it.
const FOLDER: &str = "HACA_SMALL_DISK";

/// Runs a test of this binary on such a disk. Where no namespace can be made for it, says so and returns.
pub(crate) fn run_on_it(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let in_namespace = |script: &str| {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(FOLDER, folder.path())
            .output()
    };
    let mount = format!("mount -t tmpfs -o size=64m none \"${FOLDER}\"");
    match in_namespace(&mount) {
        Ok(output) if output.status.success() => {}
        other => {
            println!("skipped: no mount namespace can be made here: {other:?}");
            return;
        }
    }
    let output = in_namespace(&format!("{mount} && \"$0\" {test} --exact --nocapture")).unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("1 passed"), "the test was not found");
}

/// Where the disk is, for a test that [`run_on_it`] started.
pub(crate) fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Takes what room there is, but for so many bytes.
pub(crate) fn fill_up_to(path: &Path, room: u64) {
    let mut file = File::create(path).unwrap();
    let mut taken = 0;
    while let Ok(written @ 1..) = file.write(&[1; 4096]) {
        taken += written as u64;
    }
    file.set_len(taken.saturating_sub(room)).unwrap();
}
