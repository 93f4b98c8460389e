//! `haca verify`.

mod tally;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use haca_kernels::Model;
use haca_verifier::audit::{self, Auditor};
use haca_verifier::receipt::{self, Asked, Given, Opened};
use haca_verifier::seal;
use haca_verifier::zk::{ProofChecker, VerifyingKey};
use haca_verifier::{Policy, Report, Rows, Trust};
use haca_wire::receipt::{MAX_FILE, ReceiptFile, ReceiptProof};
use haca_wire::{Digest, Leaf, ModelId};
use rayon::prelude::*;
use serde_json::json;

use super::infer::salts;
use super::{output, progress, read};
use tally::Tally;

/// Receipts that are checked, printed and forgotten together, so that memory does not grow with their number.
const CHUNK: usize = 2048;

/// Up to this many receipts are shown line by line; more are summed up, unless --verbose is given.
const SHOWN_WHOLE: usize = 3;

/// Checks receipts offline: no network, no server, no trust in the operator. Each receipt gets the same thirteen checks;
/// each of them held, failed, or could not be made, and then the line says what to give.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  haca verify receipts/17.receipt
  haca verify receipts/ --connect-keys data/connect.toml
  haca verify receipts/ --connect-keys data/connect.toml --model mlp.haca --input X.npy --output Y.npy --strict
  haca verify receipts/ --stream --model lstm.haca --input steps.npy
  haca verify receipts/ --connect-keys data/connect.toml --model mlp.haca --input X.npy --key mlp.vk --production
  haca verify sealed/ --connect-keys data/connect.toml --model mlp.haca --output Y.npy --strict
  haca verify sealed/ --connect-keys data/connect.toml --model mlp.haca --input X.npy --salts salts/

With --model and --input, the proofs of receipts of mode zk are verified, too. That of a sealed input needs no --input: if it
holds, --strict asks neither for the input nor for re-execution. With --salts the caller can have both checked. A proof under
a key of a ceremony needs that key by --key. A development key is taken if the log that --connect-keys trusts holds the proof
that names it. Who made such a key can forge proofs under it, and of a sealed input there is nothing else to go by:
--production refuses it.

Exit code 0 if nothing failed; with --strict, if also everything else could be checked.")]
pub(crate) struct Args {
    /// Receipt files, or directories of *.receipt files
    #[arg(value_name = "RECEIPT", required = true)]
    receipts: Vec<PathBuf>,
    /// The connect.toml of the node: the keys to trust
    #[arg(long, value_name = "DIR/connect.toml")]
    connect_keys: Option<PathBuf>,
    /// The compiled model the receipts name; with --input, every answer is computed again
    #[arg(long, value_name = "OUT.haca")]
    model: Option<PathBuf>,
    /// The rows that were asked; each is found by its hash
    #[arg(long, value_name = "X.npy")]
    input: Option<PathBuf>,
    /// Salts of sealed inputs, each named as its receipt: ROW.salt for ROW.receipt
    #[arg(long, value_name = "DIR", requires = "input", conflicts_with = "stream")]
    salts: Option<PathBuf>,
    /// The rows that were answered, in the order of the input
    #[arg(long, value_name = "Y.npy")]
    output: Option<PathBuf>,
    /// The receipts are of one stream: the rows of the input are its steps, from a reset on
    #[arg(long)]
    stream: bool,
    /// Fail also where something could not be checked
    #[arg(long)]
    strict: bool,
    /// The verification key that proofs of mode zk must be under; may be repeated: a model has one for each statement
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Refuse development evidence, which says nothing about hardware, and proofs under development keys
    #[arg(long)]
    production: bool,
    /// Show every receipt line by line, however many there are
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON: one document with every receipt's checks
    #[arg(long)]
    json: bool,
}

/// What the receipts are held against.
struct Shelf {
    trust: Option<Trust>,
    policy: Policy,
    model: Option<Arc<Model>>,
    /// What a replay of the stream answers to each row.
    replayed: Option<Vec<Digest>>,
    input: Option<Rows>,
    /// Where the salts of sealed inputs are.
    salts: Option<PathBuf>,
    output: Option<Rows>,
    /// Ids of the keys that proofs must be under.
    keys: Vec<Digest>,
    proofs: ProofChecker,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let shelf = Shelf::new(&self)?;
        let files = receipt_files(&self.receipts)?;
        let whole = self.verbose || files.len() <= SHOWN_WHOLE;
        let bar = progress::bar(files.len() as u64, "verifying");
        let mut tally = Tally::default();
        if self.json {
            output::print("{\"receipts\": [")?;
        }
        for chunk in files.chunks(CHUNK) {
            let reports: Vec<Report> = chunk
                .par_iter()
                .map_init(
                    || shelf.model.clone().map(Auditor::new),
                    |auditor, path| {
                        bar.inc(1);
                        shelf.check(path, auditor.as_mut())
                    },
                )
                .collect();
            let mut text = String::new();
            for (path, report) in chunk.iter().zip(&reports) {
                if self.json {
                    let separator = if tally.receipts() == 0 { "\n" } else { ",\n" };
                    text += separator;
                    text += &as_json(path, report)?.to_string();
                } else if whole {
                    text += &as_text(path, report);
                }
                tally.count(path, report);
            }
            output::print(&text)?;
        }
        bar.finish_and_clear();
        if self.json {
            output::print(&format!("\n], \"summary\": {}}}\n", tally.as_json()))?;
        } else if files.len() > 1 {
            output::print(&tally.as_text(whole))?;
        }
        tally.conclude(self.strict)
    }
}

impl Shelf {
    fn new(args: &Args) -> anyhow::Result<Shelf> {
        let trust = match &args.connect_keys {
            None => None,
            Some(path) => {
                Some(Trust::from_connect(&read::connect(path)?).with_context(|| path.display().to_string())?)
            }
        };
        let model = args.model.as_deref().map(read::model).transpose()?;
        let rows = |path: &Option<PathBuf>, dims: Option<&[u32]>, what| {
            path.as_deref().map(|path| rows(path, dims, what)).transpose()
        };
        let output = rows(&args.output, model.as_deref().map(Model::output_shape), "output")?;
        let stream = match model.as_deref().filter(|_| args.stream) {
            Some(model) => Some(Arc::new(model.stream().with_context(|| model.name().to_owned())?)),
            None => None,
        };
        let dims = match &stream {
            Some(stream) => Some(stream.step_shape()),
            None => model.as_deref().map(Model::input_shape),
        };
        let mut input = rows(&args.input, dims, "input")?;
        if args.stream {
            input = input.map(Rows::into_steps);
        }
        let replayed = match (stream, &input) {
            (Some(stream), Some(steps)) => {
                Some(audit::replay(stream, steps).with_context(|| format!("{}: no replay", steps.name()))?)
            }
            _ => None,
        };
        let policy = if args.production { Policy::PRODUCTION } else { Policy::DEVELOPMENT };
        let keys = args.key.iter().map(|path| key_id(path)).collect::<anyhow::Result<_>>()?;
        let proofs = ProofChecker::new(model.clone());
        let salts = args.salts.clone();
        Ok(Shelf { trust, policy, model, replayed, input, salts, output, keys, proofs })
    }

    fn check(&self, path: &Path, auditor: Option<&mut Auditor>) -> Report {
        let bytes = match read_receipt(path) {
            Ok(bytes) => bytes,
            Err(error) => return receipt::unreadable(format!("the file cannot be read: {error}")),
        };
        let opened = self.open(path, &bytes);
        let given = Given {
            trust: self.trust.as_ref(),
            policy: self.policy,
            input: self.input.as_ref(),
            output: self.output.as_ref(),
            model: self.model.as_ref().map(|model| ModelId(model.id())),
            keys: &self.keys,
            opened: opened.as_ref().map(|opened| match opened {
                Ok(Ok(row)) => Opened::Row(*row),
                Ok(Err(why)) => Opened::NoRow(why),
                Err(why) => Opened::NoSalt(why),
            }),
        };
        let mut proof = |leaf: &Leaf, carried: &ReceiptProof, asked: Option<Asked<'_>>| {
            self.proofs.check(leaf, carried, asked)
        };
        match (&self.replayed, auditor) {
            (Some(hashes), _) => {
                let mut rerun = |row: usize, _: &[u8]| Ok(hashes[row]);
                receipt::check_bytes(&bytes, &given, Some(&mut rerun), Some(&mut proof))
            }
            (None, None) => receipt::check_bytes(&bytes, &given, None, Some(&mut proof)),
            (None, Some(auditor)) => {
                let mut rerun =
                    |_: usize, row: &[u8]| auditor.output_hash(row).map_err(|error| error.to_string());
                receipt::check_bytes(&bytes, &given, Some(&mut rerun), Some(&mut proof))
            }
        }
    }
}

impl Shelf {
    /// The row that the commitment of a sealed receipt opens to with its salt, or why it opens to none; or why the salt is
    /// not there. `None` if there are no salts, or it is not sealed.
    fn open(&self, path: &Path, bytes: &[u8]) -> Option<Result<Result<usize, String>, String>> {
        let (Some(salts), Some(rows)) = (&self.salts, &self.input) else { return None };
        let leaf = ReceiptFile::decode(bytes).ok()?.receipt.leaf().ok().filter(|leaf| leaf.sealed)?;
        let salt = match salts::read(salts, path) {
            Ok(salt) => salt,
            Err(why) => return Some(Err(why)),
        };
        // The receipt's name is its row's number, if nobody has given it another.
        let named = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let named = named.filter(|row| *row < rows.len());
        let opens = |row: &usize| seal::commitment(&salt, rows.row(*row)) == leaf.input;
        let found = named.into_iter().chain(0..rows.len()).find(opens);
        Some(Ok(found.ok_or_else(|| {
            format!(
                "the commitment opens to none of the {} rows of {} with its salt",
                rows.len(),
                rows.name()
            )
        })))
    }
}

/// The id of a verification key, once it was seen to be one.
fn key_id(path: &Path) -> anyhow::Result<Digest> {
    let key = VerifyingKey::from_bytes(&read::bytes(path)?).with_context(|| path.display().to_string())?;
    Ok(key.id())
}

/// An array's rows, of the shape the model has, or else of the shape the array has.
fn rows(path: &Path, dims: Option<&[u32]>, what: &str) -> anyhow::Result<Rows> {
    let array = read::array(path)?;
    let own: Vec<u32>;
    let dims = match dims {
        Some(dims) => {
            read::rows_fit(path, &array, dims, what)?;
            dims
        }
        None => {
            let dims = array.shape[1..].iter().map(|&dim| u32::try_from(dim));
            own =
                dims.collect::<Result<_, _>>().with_context(|| format!("{}: a dimension", path.display()))?;
            &own
        }
    };
    Ok(Rows::new(path, dims, array.rows(), &array.data)?)
}

/// A receipt's bytes; of a longer file only as much as shows that it is none.
fn read_receipt(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files named, and those in the directories named; rows in the order of their numbers.
fn receipt_files(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|error| read::refused(path, &error))? {
            let entry = entry.map_err(|error| read::refused(path, &error))?.path();
            if entry.extension().is_some_and(|extension| extension == "receipt") {
                found.push(entry);
            }
        }
        ensure!(
            !found.is_empty(),
            "{}: no *.receipt file in this directory; haca infer --receipts DIR writes them",
            path.display()
        );
        found.sort_by_cached_key(|path| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (stem.parse::<u64>().unwrap_or(u64::MAX), stem)
        });
        files.extend(found);
    }
    Ok(files)
}

fn as_text(path: &Path, report: &Report) -> String {
    let lines: String = report.to_string().lines().map(|line| format!("  {line}\n")).collect();
    format!("{}: {}\n{lines}", path.display(), report.verdict().as_str())
}

fn as_json(path: &Path, report: &Report) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(report)?;
    value["file"] = json!(path);
    Ok(value)
}
