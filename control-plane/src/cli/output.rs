//! What the tool prints: results on standard output, failures on standard error.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// An empty table with this header. Columns from `numbers` on are aligned to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Writes to standard output. Whoever closes the pipe has seen enough: that is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("standard output"),
    }
}

/// Writes a table's lines, without the blanks it pads them with.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().flat_map(|line| [line.trim_end().to_owned(), "\n".to_owned()]).collect()
}

/// Prints a value as one JSON document.
pub(crate) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    print(&format!("{value:#}\n"))
}

/// Lets log lines out, on standard error; `RUST_LOG` chooses which: `debug`, or `warn,haca_settle=trace`.
pub(crate) fn log_to_stderr() {
    let chosen = std::env::var("RUST_LOG").ok().filter(|chosen| !chosen.is_empty());
    let (targets, wrong) = match chosen.map(|chosen| chosen.parse::<Targets>()) {
        None => (Targets::new(), None),
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (Targets::new(), Some(error)),
    };
    let level = targets.default_level().unwrap_or(LevelFilter::INFO);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(targets.with_default(level)).init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG is ignored: levels or targets with levels belong there");
    }
}

/// An error and its causes in one line. Some errors quote their cause in their own text; it is not said twice.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A number of bytes for people.
pub(crate) fn bytes(count: usize) -> String {
    match count {
        0..10_240 => format!("{count} B"),
        10_240..10_485_760 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// A shape as it is written everywhere.
pub(crate) fn shape(dims: &[u32]) -> String {
    format!("[{}]", dims.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no space").context("out.haca: no space").context("compile");
        assert_eq!(describe(&error), "compile: out.haca: no space");
    }

    #[test]
    fn sizes_keep_three_digits() {
        assert_eq!(bytes(264), "264 B");
        assert_eq!(bytes(20_480), "20.0 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
    }
}
