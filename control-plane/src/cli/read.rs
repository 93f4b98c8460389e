//! The files a person names. Every error begins with the file's name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use haca_kernels::Model;
use haca_kernels::npy::{self, Array};
use haca_verifier::zk::StatementKind;
use haca_wire::connect::Connect;

use super::output;

/// A file's bytes.
pub(crate) fn bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| refused(path, &error))
}

/// What to say of a file that the system does not let us read.
pub(crate) fn refused(path: &Path, error: &io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "give yourself the right to read it, or run as its owner",
        io::ErrorKind::IsADirectory => "give a file in it",
        _ => "check the disk, or copy the file elsewhere",
    };
    anyhow!("{}: {error}; {remedy}", path.display())
}

/// A compiled model.
pub(crate) fn model(path: &Path) -> anyhow::Result<Arc<Model>> {
    let model = Model::load(&bytes(path)?).with_context(|| path.display().to_string())?;
    Ok(Arc::new(model))
}

/// The kind of statement that `--sealed` chooses.
pub(crate) fn statement(sealed: bool) -> StatementKind {
    if sealed { StatementKind::Sealed } else { StatementKind::Open }
}

/// A float32 array.
pub(crate) fn array(path: &Path) -> anyhow::Result<Array> {
    let array = npy::parse(&bytes(path)?).with_context(|| path.display().to_string())?;
    ensure!(
        !array.shape.is_empty(),
        "{}: the array is a single number; give an array of shape [rows, …]",
        path.display()
    );
    Ok(array)
}

/// Checks that the rows of `array` have as many elements as `dims` asks for.
pub(crate) fn rows_fit(path: &Path, array: &Array, dims: &[u32], what: &str) -> anyhow::Result<()> {
    let elements: usize = dims.iter().map(|dim| *dim as usize).product();
    if array.row_len() == elements {
        return Ok(());
    }
    let wanted = dims.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    bail!(
        "{}: the array has shape {:?}, the {what} of the model is {} for each row; give an array of shape [rows, {wanted}]",
        path.display(),
        array.shape,
        output::shape(dims),
    )
}

/// A node's `connect.toml`.
pub(crate) fn connect(path: &Path) -> anyhow::Result<Connect> {
    Ok(Connect::read(path)?)
}
