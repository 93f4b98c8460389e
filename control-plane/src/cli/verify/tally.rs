//! The sum over many receipts.

use std::path::{Path, PathBuf};

use anyhow::bail;
use haca_verifier::{Check, Outcome, Report, Verdict};
use serde_json::json;

use crate::cli::output;

/// Failed receipts whose lines the sum shows; of the others it says how many there are.
const SHOWN: usize = 20;

/// What was found over all receipts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    held: usize,
    incomplete: usize,
    failed: usize,
    checks: [Counts; Check::ALL.len()],
    /// The first failures: file, check and reason.
    failures: Vec<(PathBuf, Check, String)>,
}

/// The outcomes of one check.
#[derive(Debug, Default)]
struct Counts {
    held: usize,
    failed: usize,
    not_checked: usize,
    /// Why and what to give, as the first receipt had it.
    missing: Option<(String, String)>,
}

impl Tally {
    pub(super) fn receipts(&self) -> usize {
        self.held + self.incomplete + self.failed
    }

    pub(super) fn count(&mut self, path: &Path, report: &Report) {
        match report.verdict() {
            Verdict::Held => self.held += 1,
            Verdict::Incomplete => self.incomplete += 1,
            Verdict::Failed => self.failed += 1,
        }
        for ((check, outcome), counts) in report.lines().zip(&mut self.checks) {
            match outcome {
                Outcome::Held(_) => counts.held += 1,
                Outcome::Failed(reason) => {
                    counts.failed += 1;
                    if self.failed <= SHOWN {
                        self.failures.push((path.to_owned(), check, reason.clone()));
                    }
                }
                Outcome::NotChecked { why, give } => {
                    counts.not_checked += 1;
                    counts.missing.get_or_insert_with(|| (why.clone(), give.clone()));
                }
            }
        }
    }

    /// The table; and, unless every receipt has been shown whole, what failed and what to give.
    pub(super) fn as_text(&self, shown_whole: bool) -> String {
        let mut table = output::table(["check", "held", "failed", "not checked"], 1);
        for (check, counts) in Check::ALL.into_iter().zip(&self.checks) {
            let numbers = [counts.held, counts.failed, counts.not_checked].map(|count| count.to_string());
            let [held, failed, not_checked] = numbers;
            table.add_row([check.as_str().to_owned(), held, failed, not_checked]);
        }
        let mut text = format!("{}\n", output::lines(&table));
        if !shown_whole {
            for (path, check, reason) in &self.failures {
                text += &format!("{}: {check} failed: {reason}\n", path.display());
            }
            if self.failed > SHOWN {
                text += &format!("{} more receipts failed; --verbose shows them\n", self.failed - SHOWN);
            }
            for (check, counts) in Check::ALL.into_iter().zip(&self.checks) {
                if let Some((why, give)) = &counts.missing {
                    text += &format!("{check} not checked: {why}; to check it: {give}\n");
                }
            }
        }
        let Tally { held, incomplete, failed, .. } = self;
        text +=
            &format!("{} receipts: {held} held, {incomplete} incomplete, {failed} failed\n", self.receipts());
        text
    }

    pub(super) fn as_json(&self) -> serde_json::Value {
        let checks: Vec<_> = (Check::ALL.into_iter().zip(&self.checks))
            .map(|(check, counts)| {
                json!({
                    "check": check.as_str(),
                    "held": counts.held,
                    "failed": counts.failed,
                    "not_checked": counts.not_checked,
                })
            })
            .collect();
        json!({
            "receipts": self.receipts(),
            "held": self.held,
            "incomplete": self.incomplete,
            "failed": self.failed,
            "checks": checks,
        })
    }

    /// The command's end.
    pub(super) fn conclude(&self, strict: bool) -> anyhow::Result<()> {
        let receipts = self.receipts();
        if let Some((path, check, reason)) = self.failures.first() {
            let path = path.display();
            bail!(
                "{} of {receipts} receipts failed, first {path}: {check}: {reason}; do not rely on what failed",
                self.failed
            );
        }
        if strict && self.incomplete > 0 {
            bail!(
                "{} of {receipts} receipts could not be checked in full, and --strict asks for that; give what the lines marked 'not checked' name",
                self.incomplete
            );
        }
        Ok(())
    }
}
