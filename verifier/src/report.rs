//! What a verification found: one line for each check, always all of them, always in this order.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

/// What is checked. The order is the one a report has; the names are stable and may be scripted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// The file is a receipt and its leaf reads.
    Leaf,
    /// The path leads from the leaf to the root of its batch.
    Path,
    /// The batch root is signed under the node key that the leaf names.
    Signature,
    /// That node key is the trusted one.
    NodeKey,
    /// The attestation evidence is the one the leaf names, holds, and is acceptable under the policy.
    Evidence,
    /// The log's tree, as the checkpoint states it, holds the leaf.
    Inclusion,
    /// The checkpoint is signed by the trusted log.
    Checkpoint,
    /// The input is at hand.
    Input,
    /// The output is at hand.
    Output,
    /// The model is at hand.
    Model,
    /// The model at hand, run on the input at hand, gives the output of the receipt bit for bit.
    ReExecution,
    /// In mode `zk`: the proof that the file carries is of this receipt, and holds for the model and the input at hand
    /// under an acceptable key.
    Proof,
    /// In mode `zk`: the trusted verifier accepted that proof, and the log holds both.
    Verdict,
}

impl Check {
    /// Every check, in the order of a report.
    pub const ALL: [Check; 13] = [
        Check::Leaf,
        Check::Path,
        Check::Signature,
        Check::NodeKey,
        Check::Evidence,
        Check::Inclusion,
        Check::Checkpoint,
        Check::Input,
        Check::Output,
        Check::Model,
        Check::ReExecution,
        Check::Proof,
        Check::Verdict,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Check::Leaf => "leaf",
            Check::Path => "path",
            Check::Signature => "signature",
            Check::NodeKey => "node key",
            Check::Evidence => "evidence",
            Check::Inclusion => "inclusion",
            Check::Checkpoint => "checkpoint",
            Check::Input => "input",
            Check::Output => "output",
            Check::Model => "model",
            Check::ReExecution => "re-execution",
            Check::Proof => "proof",
            Check::Verdict => "verdict",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds; the text says what was found.
    Held(String),
    /// It does not hold; the text says what was found instead.
    Failed(String),
    /// It could not be made.
    NotChecked {
        /// What is missing.
        why: String,
        /// What to give, or to do, so that it can be made.
        give: String,
    },
}

impl Outcome {
    pub(crate) fn not_checked(why: impl Into<String>, give: impl Into<String>) -> Outcome {
        Outcome::NotChecked { why: why.into(), give: give.into() }
    }

    /// `held`, `failed` or `not checked`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Held(_) => "held",
            Outcome::Failed(_) => "failed",
            Outcome::NotChecked { .. } => "not checked",
        }
    }
}

/// The sum of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every check was made and held, save those that another makes up for.
    Held,
    /// Nothing failed, but something could not be checked.
    Incomplete,
    /// Something failed.
    Failed,
}

impl Verdict {
    /// `held`, `incomplete` or `failed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Held => "held",
            Verdict::Incomplete => "incomplete",
            Verdict::Failed => "failed",
        }
    }
}

/// Every check of one receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    outcomes: [Outcome; Check::ALL.len()],
    /// Checks without which nothing is missing, because others say the same.
    made_up_for: &'static [Check],
}

impl Report {
    /// A report in which nothing has been checked yet, for this reason.
    pub(crate) fn unchecked(why: &str, give: &str) -> Report {
        Report { outcomes: std::array::from_fn(|_| Outcome::not_checked(why, give)), made_up_for: &[] }
    }

    pub(crate) fn set(&mut self, check: Check, outcome: Outcome) {
        self.outcomes[check as usize] = outcome;
    }

    /// Notes that nothing is missing if these checks were not made.
    pub(crate) fn make_up_for(&mut self, checks: &'static [Check]) {
        self.made_up_for = checks;
    }

    /// How this check ended.
    pub fn outcome(&self, check: Check) -> &Outcome {
        &self.outcomes[check as usize]
    }

    /// Every check with its outcome, in the fixed order.
    pub fn lines(&self) -> impl Iterator<Item = (Check, &Outcome)> {
        Check::ALL.into_iter().zip(&self.outcomes)
    }

    /// The sum. Of a receipt with a sealed input whose proof holds, neither input nor re-execution are missing.
    pub fn verdict(&self) -> Verdict {
        let mut lines = self.lines();
        let is_missing = |(check, outcome): (Check, &Outcome)| {
            matches!(outcome, Outcome::NotChecked { .. }) && !self.made_up_for.contains(&check)
        };
        if lines.any(|(_, outcome)| matches!(outcome, Outcome::Failed(_))) {
            Verdict::Failed
        } else if self.lines().any(is_missing) {
            Verdict::Incomplete
        } else {
            Verdict::Held
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, outcome) in self.lines() {
            write!(f, "{:<13} {:<12} ", check, outcome.as_str())?;
            match outcome {
                Outcome::Held(detail) | Outcome::Failed(detail) => writeln!(f, "{detail}")?,
                Outcome::NotChecked { why, give } => writeln!(f, "{why}; to check it: {give}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 2)?;
        report.serialize_field("verdict", self.verdict().as_str())?;
        let lines: Vec<Line<'_>> = self.lines().map(|(check, outcome)| Line::new(check, outcome)).collect();
        report.serialize_field("checks", &lines)?;
        report.end()
    }
}

/// One line of a report as programs read it.
#[derive(Serialize)]
struct Line<'a> {
    check: &'static str,
    outcome: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    give: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(check: Check, outcome: &'a Outcome) -> Self {
        let (detail, give) = match outcome {
            Outcome::Held(detail) | Outcome::Failed(detail) => (detail.as_str(), None),
            Outcome::NotChecked { why, give } => (why.as_str(), Some(give.as_str())),
        };
        Line { check: check.as_str(), outcome: outcome.as_str(), detail, give }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_line_decides_the_verdict() {
        let mut report = Report::unchecked("why", "give");
        assert_eq!(report.verdict(), Verdict::Incomplete);
        for check in Check::ALL {
            report.set(check, Outcome::Held("found".into()));
        }
        assert_eq!(report.verdict(), Verdict::Held);
        report.set(Check::Model, Outcome::not_checked("why", "give"));
        assert_eq!(report.verdict(), Verdict::Incomplete);
        report.make_up_for(&[Check::Model]);
        assert_eq!(report.verdict(), Verdict::Held);
        report.set(Check::Input, Outcome::not_checked("why", "give"));
        assert_eq!(report.verdict(), Verdict::Incomplete);
        report.set(Check::Output, Outcome::Failed("found".into()));
        assert_eq!(report.verdict(), Verdict::Failed);
        report.make_up_for(&Check::ALL);
        assert_eq!(report.verdict(), Verdict::Failed);
    }

    #[test]
    fn lines_come_in_the_fixed_order_for_people_and_programs() {
        let mut report = Report::unchecked("no key", "--connect-keys");
        report.set(Check::Leaf, Outcome::Held("read".into()));
        let text = report.to_string();
        let names: Vec<&str> = text.lines().map(|line| line.get(..13).unwrap().trim_end()).collect();
        assert_eq!(names, Check::ALL.map(Check::as_str));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["verdict"], "incomplete");
        assert_eq!(json["checks"][0]["outcome"], "held");
        assert_eq!(json["checks"][3]["check"], "node key");
        assert_eq!(json["checks"][3]["give"], "--connect-keys");
    }
}
