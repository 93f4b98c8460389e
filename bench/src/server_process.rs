//! A server under measurement, in a process of its own so that its CPU time can be told apart.
//!
//! Both ends of the contract are here. The bench starts itself again with a hidden subcommand; the child says
//! `ready …` on its first line of output and lives until its standard input closes, so that it cannot outlive
//! the bench, however that ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::Context;

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

    /// CPU time of all its threads so far, in user and kernel mode, to a clock tick (10 ms).
    ///
    /// # Errors
    /// When the process is gone or `/proc` is not mounted.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks =
            cpu_ticks(&stat).with_context(|| format!("{path} is not as proc(5) describes: {stat:?}"))?;
        // SAFETY: sysconf has no preconditions.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        anyhow::ensure!(per_second > 0, "the system does not say how long a clock tick is");
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
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

/// utime + stime, fields 14 and 15 of proc_pid_stat(5). The second field may hold spaces and parentheses, so
/// counting starts after its last closing one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_an_odd_process_name() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 17 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(267));
    }

    #[test]
    fn a_short_stat_line_is_refused() {
        assert_eq!(cpu_ticks("12 (a) S 1 2 3"), None);
        assert_eq!(cpu_ticks(""), None);
    }
}
