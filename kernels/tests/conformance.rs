//! ONNX's own backend node tests, through import, compilation and every executor.
//!
//! `conformance/node_tests.py` adapts the tests that come with the PyPI package `onnx`; without Python or that package
//! there is nothing to run, and a message says so. `HACA_PYTHON` names the interpreter. The result is kept in
//! `CONFORMANCE.md`, which `HACA_REGENERATE=1` writes anew.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use haca_kernels::import::{CompileOptions, ImportError, compile};
use haca_kernels::{Backend, Dtype, Executor, Model, npy};

/// Largest error that passes, as a share of the range of the expected output and zero.
const TOLERANCE: f32 = 1e-3;

/// How one test ended.
enum Outcome {
    Passed,
    Refused(String),
    Failed(String),
    NotAdapted(String),
}

/// A line of `cases.tsv`.
struct Case<'a> {
    operator: &'a str,
    name: &'a str,
    adaptation: &'a str,
    rows: usize,
    /// Names of the outputs; of a case that is not adapted, the reason.
    outputs: &'a str,
}

impl Case<'_> {
    fn parse(line: &str) -> Case<'_> {
        let [operator, name, adaptation, rows, outputs] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        Case { operator, name, adaptation, rows: rows.parse().unwrap(), outputs }
    }

    fn run(&self, folder: &Path) -> Outcome {
        if self.adaptation == "none" {
            return Outcome::NotAdapted(self.outputs.to_owned());
        }
        let onnx = std::fs::read(folder.join(format!("{}.onnx", self.name))).unwrap();
        let rows = npy::read(folder.join(format!("{}.rows.npy", self.name))).unwrap();
        for output in self.outputs.split(',') {
            let expected = npy::read(folder.join(format!("{}.{output}.npy", self.name))).unwrap();
            let checked = std::panic::catch_unwind(|| self.check(&onnx, &rows, output, &expected));
            match checked.unwrap_or_else(|_| Outcome::Failed("panic".into())) {
                Outcome::Passed => {}
                other => return other,
            }
        }
        Outcome::Passed
    }

    /// Compiles for one output, and compares it on the rows of the test.
    fn check(&self, onnx: &[u8], rows: &npy::Array, output: &str, expected: &npy::Array) -> Outcome {
        let options = CompileOptions { output: Some(output.to_owned()), ..CompileOptions::default() };
        let model = match compile(onnx, rows, &options, &mut |_| ()) {
            Ok(compiled) => Arc::new(Model::load(&compiled.file).unwrap()),
            Err(ImportError::Unsupported(_)) => {
                return Outcome::Refused("the operator is not supported".into());
            }
            Err(ImportError::Node { what, .. }) => return Outcome::Refused(what),
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let mut answers = Vec::new();
        for backend in Backend::available() {
            let mut executor = Executor::with_backend(Arc::clone(&model), self.rows, backend);
            for slot in 0..self.rows {
                let row: Vec<u8> = rows.row(slot).iter().flat_map(|x| x.to_le_bytes()).collect();
                if let Err(error) = executor.stage(slot, Dtype::F32, &row) {
                    return Outcome::Refused(error.to_string());
                }
            }
            executor.execute(self.rows);
            let mut all = Vec::new();
            for slot in 0..self.rows {
                let mut bytes = vec![0; model.output_len() * 4];
                executor.write_output(slot, Dtype::F32, &mut bytes);
                all.extend(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
            }
            answers.push(all);
        }
        if answers.windows(2).any(|pair| pair[0] != pair[1]) {
            return Outcome::Failed("executors disagree".into());
        }
        if answers[0].len() != expected.data.len() {
            return Outcome::Failed(format!("{} answers, not {}", answers[0].len(), expected.data.len()));
        }
        let (least, most) = expected.data.iter().fold((0f32, 0f32), |(l, m), &x| (l.min(x), m.max(x)));
        let largest = answers[0].iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if largest <= TOLERANCE * (most - least) {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("{output} is off by {:.1e} of range", largest / (most - least)))
        }
    }
}

/// The text of `CONFORMANCE.md`.
fn table(version: &str, cases: &[(Case<'_>, Outcome)], rest: &[Case<'_>]) -> String {
    let mut counts: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    let mut reasons: [BTreeMap<(&str, &str), Vec<&str>>; 3] = Default::default();
    for (case, outcome) in cases {
        let (place, reason) = match outcome {
            Outcome::Passed => (0, None),
            Outcome::Refused(reason) => (1, Some(reason)),
            Outcome::Failed(reason) => (2, Some(reason)),
            Outcome::NotAdapted(reason) => (3, Some(reason)),
        };
        counts.entry(case.operator).or_default()[place] += 1;
        if let Some(reason) = reason {
            reasons[place - 1].entry((case.operator, reason)).or_default().push(case.name);
        }
    }
    let mut text = format!(
        "# Conformance with ONNX's node tests\n\n\
         The backend node tests of {version}, run by\n\n\
         \x20   HACA_PYTHON=…/python HACA_REGENERATE=1 cargo test -p haca-kernels --test conformance\n\n\
         where that Python has the package `onnx`; this file is what that wrote. Each test of an operator of SPEC.md is \
         adapted to a model with one float32 input whose first dimension is the batch, as `conformance/node_tests.py` \
         says: other inputs become initialisers, a batch dimension is put in front where the operator has none, \
         LayerNormalization loses the outputs that serve training, and ONNX's reference evaluator confirms that the \
         adapted model gives what the test expects. It is calibrated on the rows of the test and 64 changed copies, and compiled with default options. It passes if all executors \
         agree and no answer is further from the expected one than {TOLERANCE} of the range of the expected output \
         and zero. Refused: the compiler said no, with the reason below. Not adapted: the test has no form that could \
         be asked of a served model. A second form, `joined`, takes all inputs of the operator as computed \
         values.\n\n| operator | passed | refused | failed | not adapted |\n|---|---|---|---|---|\n"
    );
    for (operator, [passed, refused, failed, none]) in &counts {
        writeln!(text, "| `{operator}` | {passed} | {refused} | {failed} | {none} |").unwrap();
    }
    let total = |place: usize| counts.values().map(|count| count[place]).sum::<usize>();
    writeln!(text, "| all | {} | {} | {} | {} |", total(0), total(1), total(2), total(3)).unwrap();
    for (title, reasons) in ["Refused", "Failed", "Not adapted"].iter().zip(&reasons) {
        write!(text, "\n## {title}\n\n").unwrap();
        for ((operator, reason), names) in reasons {
            writeln!(text, "- `{operator}`: {reason}: {}", names.join(", ")).unwrap();
        }
        if reasons.is_empty() {
            text += "None.\n";
        }
    }
    text +=
        "\n## Not run\n\nNode tests of operators that are not imported, and of functions written out:\n\n";
    let names: Vec<String> = rest.iter().map(|case| format!("{} ({})", case.operator, case.name)).collect();
    text + &names.join(", ") + ".\n"
}

#[test]
fn onnx_node_tests_pass_or_are_refused_for_a_reason() {
    let python = std::env::var_os("HACA_PYTHON").unwrap_or_else(|| "python3".into());
    let has_onnx =
        Command::new(&python).args(["-c", "import onnx"]).output().is_ok_and(|o| o.status.success());
    if !has_onnx {
        // Straight to stderr: what a passing test prints is not shown.
        let what = "conformance: skipped, there is no Python with the package onnx; HACA_PYTHON names one";
        writeln!(std::io::stderr(), "{what}").unwrap();
        return;
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node_tests");
    let script = own.join("conformance/node_tests.py");
    let written = Command::new(&python).arg(script).arg(&folder).status().unwrap();
    assert!(written.success(), "node_tests.py failed");
    let listed = std::fs::read_to_string(folder.join("cases.tsv")).unwrap();
    let (version, lines) = listed.split_once('\n').unwrap();
    let (rest, cases): (Vec<_>, Vec<_>) =
        lines.lines().map(Case::parse).partition(|case| case.adaptation == "rest");
    let outcomes = cases.into_iter().map(|case| {
        let outcome = case.run(&folder);
        (case, outcome)
    });
    let outcomes: Vec<(Case<'_>, Outcome)> = outcomes.collect();
    let text = table(version, &outcomes, &rest);
    let kept = own.join("CONFORMANCE.md");
    if std::env::var_os("HACA_REGENERATE").is_some() {
        std::fs::write(&kept, &text).unwrap();
    } else if let Ok(kept) = std::fs::read_to_string(&kept)
        && kept.contains(&format!("node tests of {version},"))
    {
        assert!(
            kept == text,
            "the outcomes are not those of CONFORMANCE.md; HACA_REGENERATE=1 writes it anew"
        );
    }
    let failed = |(case, outcome): &(Case<'_>, Outcome)| match outcome {
        Outcome::Failed(reason) => Some(format!("{}: {reason}", case.name)),
        _ => None,
    };
    let failed: Vec<String> = outcomes.iter().filter_map(failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
