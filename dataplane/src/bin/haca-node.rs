//! `haca-node`: the data plane alone, with nothing in it that answering requests does not need. What is measured for
//! attestation is this binary; `haca up` is the same node with health, metrics and a command line around it.
//!
//! Usage: `haca-node DATA_DIRECTORY [CONFIG.toml]`. Serves until SIGTERM or SIGINT, then drains and exits with 0.

use haca_dataplane::{Config, Node};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (data, config) = match &arguments[..] {
        [data] if !data.starts_with('-') => (data, None),
        [data, config] if !data.starts_with('-') => (data, Some(config)),
        _ => {
            eprintln!("usage: haca-node DATA_DIRECTORY [CONFIG.toml]");
            return ExitCode::from(2);
        }
    };
    match serve(Path::new(data), config.map(Path::new)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("haca-node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(data: &Path, config: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let config = match config {
        None => Config::default(),
        Some(path) => {
            let at = |error: &dyn Error| format!("{}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| at(&error))?;
            toml::from_str(&text).map_err(|error| at(&error))?
        }
    };
    // Before any thread is started, so that all of them inherit it and a signal that comes early is not lost.
    let signals = Signals::block()?;
    let node = Node::start(data, &config, None)?;
    println!("haca-node serves on {}", node.connect().address);
    signals.wait()?;
    Ok(node.stop()?)
}

/// SIGTERM and SIGINT, held back until they are waited for.
struct Signals(libc::sigset_t);

impl Signals {
    fn block() -> std::io::Result<Self> {
        // SAFETY: the set is initialised by `sigemptyset` before it is read; the calls write to nothing else.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
                0 => Ok(Self(set)),
                error => Err(std::io::Error::from_raw_os_error(error)),
            }
        }
    }

    fn wait(&self) -> std::io::Result<()> {
        let mut signal = 0;
        // SAFETY: both pointers are to live values.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(()),
            error => Err(std::io::Error::from_raw_os_error(error)),
        }
    }
}
