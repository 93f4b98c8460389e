//! Runs the real binary.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A file of the shipped models.
pub(crate) fn shipped(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/models")).join(name)
}

/// What `haca` did with these arguments.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `haca` with arguments of any kind: texts, paths.
#[macro_export]
macro_rules! haca {
    ($($arg:expr),* $(,)?) => { $crate::tool::haca([$(std::ffi::OsString::from(&$arg)),*]) };
}

/// Runs `haca` with these arguments.
pub(crate) fn haca<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_haca")).args(args).output().expect("the binary runs");
    Ran {
        code: status.code().expect("it was not killed"),
        stdout: String::from_utf8(stdout).expect("it prints UTF-8"),
        stderr: String::from_utf8(stderr).expect("it prints UTF-8"),
    }
}

impl Ran {
    /// Asserts that it is done, and returns what it printed.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Asserts that it failed and that the message has all of these words.
    #[track_caller]
    pub(crate) fn failed(self, words: &[&str]) -> Ran {
        assert_eq!(self.code, 1, "{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in: {}", self.stderr);
        }
        self
    }

    /// Reads standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}
