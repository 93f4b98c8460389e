//! ONNX Runtime, from a library that is found at run time.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;

/// Names the library's file.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// How far its answers may be from the shipped ones, as a share of their range: sums of float32 depend on the
/// order in which a batch is worked through.
pub(super) const TOLERANCE: f32 = 1e-5;

/// The file that [`VARIABLE`] names.
///
/// # Errors
/// When it is not set or there is no such file; the error says where to get one.
pub(super) fn library() -> anyhow::Result<PathBuf> {
    let advice = "`pip download --no-deps onnxruntime` fetches a wheel; unzip it and set ORT_DYLIB_PATH to its \
                  onnxruntime/capi/libonnxruntime.so.* (1.17 or later)";
    let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let path = PathBuf::from(path.with_context(|| format!("{VARIABLE} is not set: {advice}"))?);
    anyhow::ensure!(path.is_file(), "{VARIABLE}: there is no file {}: {advice}", path.display());
    Ok(path)
}

/// A loaded model. Runs on the calling thread alone.
#[derive(Debug)]
pub(super) struct Model {
    session: Session,
    columns: usize,
    /// Outlives the session.
    _environment: Environment,
}

impl Model {
    /// Loads an ONNX model whose input is `[rows, columns]` and whose first output is `[rows, …]`, all float32.
    ///
    /// # Errors
    /// When the library does not load or does not take the model.
    pub(super) fn load(library: &Path, onnx: &[u8], columns: usize) -> anyhow::Result<Self> {
        let environment = ort::init_from(library)
            .map_err(|error| anyhow!("cannot load ONNX Runtime: {error}"))?
            .build()
            .map_err(describe)?;
        let session = Session::builder(&environment)
            .map_err(describe)?
            .with_intra_threads(1)
            .map_err(describe)?
            .with_parallel_execution(false)
            .map_err(describe)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(describe)?
            .commit_from_memory(onnx)
            .map_err(describe)?;
        Ok(Self { session, columns, _environment: environment })
    }

    /// Answers rows that lie one after the other.
    ///
    /// # Errors
    /// When the model does not take the rows.
    pub(super) fn run(&mut self, rows: &[f32]) -> anyhow::Result<Vec<f32>> {
        let shape = [rows.len() / self.columns, self.columns];
        let input = TensorRef::from_array_view((shape, rows)).map_err(describe)?;
        let outputs = self.session.run(ort::inputs![input]).map_err(describe)?;
        let (_, values) = outputs[0].try_extract_tensor::<f32>().map_err(describe)?;
        Ok(values.to_vec())
    }
}

/// The library's errors carry the builder they came from, which `anyhow` cannot hold.
fn describe<T>(error: ort::Error<T>) -> anyhow::Error {
    anyhow!("ONNX Runtime: {error}")
}
