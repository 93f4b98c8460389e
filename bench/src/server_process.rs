//! A server under measurement, in a process of its own so that its CPU time can be told apart.
//!
//! Both ends of the contract are here. The bench starts itself again with a hidden subcommand; the child says
//! `ready …` on its first line of output and lives until its standard input closes, so that it cannot outlive
//! the bench, however that ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

const READY: &str = "ready ";

/// A running server. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    announcement: String,
}

impl ServerProcess {
    /// Starts this program again with `arguments` and waits for it to be ready.
    ///
    /// # Errors
    /// When the process cannot be started or ends before it is ready; what it said is on our standard error.
    pub(crate) fn spawn(arguments: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", arguments.join(" ")))?;
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        // From here on the child is ended whatever happens.
        let mut server = Self { child, announcement: String::new() };
        read.with_context(|| format!("cannot read from `{}`", arguments.join(" ")))?;
        server.announcement = line
            .strip_prefix(READY)
            .with_context(|| format!("`{}` ended before it was ready: {line:?}", arguments.join(" ")))?
            .trim_end()
            .to_owned();
        Ok(server)
    }

    /// What the server said about itself when it was ready.
    pub(crate) fn announcement(&self) -> &str {
        &self.announcement
    }

    /// CPU time of all its threads so far, in user and kernel mode, to the nanosecond.
    ///
    /// Read from the process's CPU clock rather than from `/proc/PID/stat`, which counts in 10 ms ticks and
    /// takes some 20 µs to read: a stall for a client that is reading it in the middle of a run.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let pid = self.child.id() as libc::pid_t;
        let mut clock: libc::clockid_t = 0;
        // SAFETY: `clock` is a valid place for the result.
        let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the result; the kernel checks `clock`.
        if error != 0 || unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
            bail!("cannot read the CPU time of process {pid}: it has ended");
        }
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Its end was asked for by closing its input; a server that ignores that is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Called by the server: says it is ready, with what its clients need to know, and ends the process once the
/// bench closes our standard input.
///
/// # Errors
/// When nobody reads our output, or the watching thread cannot be started.
pub(crate) fn announce(what: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{READY}{what}").context("cannot announce that the server is ready")?;
    stdout.flush().context("cannot announce that the server is ready")?;
    let watch = || {
        // Whether it was closed or broke: nobody is left who wants this server.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    };
    thread::Builder::new().name("stdin".into()).spawn(watch).context("cannot watch standard input")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_while_the_child_works_and_is_gone_with_it() {
        let child =
            Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut server = ServerProcess { child, announcement: String::new() };
        let first = server.cpu_time().unwrap();
        while server.cpu_time().unwrap() == first {}
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        assert!(server.cpu_time().unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn a_program_that_ends_without_being_ready_is_an_error() {
        // The test binary does not know this argument: it complains and exits.
        let error = ServerProcess::spawn(&["--no-such-argument"]).unwrap_err();
        assert!(error.to_string().contains("ended before it was ready"), "{error}");
    }
}
