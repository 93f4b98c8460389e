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
pub(crate) const TOLERANCE: f32 = 1e-5;

/// The file that [`VARIABLE`] names.
///
/// # Errors
/// When it is not set or there is no such file; the error says where to get one.
pub(crate) fn library() -> anyhow::Result<PathBuf> {
    let advice = "`pip download --no-deps onnxruntime` fetches a wheel; unzip it and set ORT_DYLIB_PATH to its \
                  onnxruntime/capi/libonnxruntime.so.* (1.17 or later)";
    let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let path = PathBuf::from(path.with_context(|| format!("{VARIABLE} is not set: {advice}"))?);
    anyhow::ensure!(path.is_file(), "{VARIABLE}: there is no file {}: {advice}", path.display());
    Ok(path)
}

/// The loaded library. There is one in a process, and it outlives its models.
#[derive(Debug)]
pub(crate) struct Library(Environment);

impl Library {
    /// Loads the library in `file`.
    ///
    /// # Errors
    /// When it is not one.
    pub(crate) fn load(file: &Path) -> anyhow::Result<Self> {
        let library = ort::init_from(file).map_err(|error| anyhow!("cannot load ONNX Runtime: {error}"))?;
        Ok(Self(library.build().map_err(describe)?))
    }

    /// Loads an ONNX model whose input is `[rows, …]`, with rows of shape `row`, and whose first output is
    /// `[rows, …]`, all float32.
    ///
    /// # Errors
    /// When the library does not take the model.
    pub(crate) fn model(&self, onnx: &[u8], row: &[usize]) -> anyhow::Result<Model> {
        let session = Session::builder(&self.0)
            .map_err(describe)?
            .with_intra_threads(1)
            .map_err(describe)?
            .with_parallel_execution(false)
            .map_err(describe)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(describe)?
            .commit_from_memory(onnx)
            .map_err(describe)?;
        Ok(Model { session, shape: std::iter::once(1).chain(row.iter().copied()).collect() })
    }
}

/// A loaded model. Runs on the calling thread alone.
#[derive(Debug)]
pub(crate) struct Model {
    session: Session,
    /// Shape of a batch; the first is set for each.
    shape: Vec<usize>,
}

impl Model {
    /// Answers rows that lie one after the other.
    ///
    /// # Errors
    /// When the model does not take the rows.
    pub(crate) fn run(&mut self, rows: &[f32]) -> anyhow::Result<Vec<f32>> {
        self.shape[0] = rows.len() / self.shape[1..].iter().product::<usize>();
        let input = TensorRef::from_array_view((&self.shape[..], rows)).map_err(describe)?;
        let outputs = self.session.run(ort::inputs![input]).map_err(describe)?;
        let (_, values) = outputs[0].try_extract_tensor::<f32>().map_err(describe)?;
        Ok(values.to_vec())
    }
}

/// The library's errors carry the builder they came from, which `anyhow` cannot hold.
fn describe<T>(error: ort::Error<T>) -> anyhow::Error {
    anyhow!("ONNX Runtime: {error}")
}
