//! A bounded reader and a writer of `.npy` files: little-endian `float32`, row-major, format versions 1 and 2.
//!
//! Format: NumPy enhancement proposal 1 (`numpy.lib.format`).

use std::path::{Path, PathBuf};

use thiserror::Error;

/// More elements than this are refused before anything is allocated for them.
const MAX_ELEMENTS: usize = 1 << 31;
/// NumPy itself refuses longer headers by default.
const MAX_HEADER: usize = 10_000;
const MAX_DIMENSIONS: usize = 32;
const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// A row-major array of floats.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements: as many as the product of `shape`.
    pub data: Vec<f32>,
}

impl Array {
    /// Number of rows: the first dimension.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements in a row: the product of all dimensions but the first.
    pub fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// The elements of row `index`, which must be below [`Array::rows`].
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.row_len()..][..self.row_len()]
    }
}

/// Why a `.npy` file was refused.
#[derive(Debug, Error)]
pub enum NpyError {
    /// The file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's content is not what this reader takes.
    #[error("{path}: {source}", path = path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<NpyError>,
    },
    /// The bytes do not start as a `.npy` file does.
    #[error("not an .npy file: it does not start with \\x93NUMPY; save it with numpy.save")]
    Magic,
    /// A format version other than 1 or 2.
    #[error(".npy format version {0}.{1} is not supported; versions 1.0 and 2.0 are (numpy.save writes 1.0)")]
    Version(u8, u8),
    /// The file ends before its header or its data does.
    #[error("truncated .npy: {expected} bytes of {part} expected, {found} found")]
    Truncated {
        /// Header or data.
        part: &'static str,
        /// Bytes the file announces.
        expected: usize,
        /// Bytes there.
        found: usize,
    },
    /// Bytes follow the data.
    #[error("{0} bytes follow the array's data; the file holds more than one array or is damaged")]
    Trailing(usize),
    /// The header is not the dictionary literal that NumPy writes.
    #[error("malformed .npy header: {0}")]
    Header(&'static str),
    /// The elements are not little-endian float32.
    #[error(
        "elements are {descr} ({meaning}), float32 little-endian ('<f4') is needed: save it with x.astype('<f4')"
    )]
    Dtype {
        /// The type as the header has it.
        descr: String,
        /// The same in words.
        meaning: &'static str,
    },
    /// The array is in column-major order.
    #[error("the array is in Fortran order; save it with numpy.ascontiguousarray(x)")]
    FortranOrder,
    /// The shape has too many elements or dimensions, or its product overflows.
    #[error(
        "shape {0:?} is too large: at most {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS} elements are read"
    )]
    TooLarge(Vec<usize>),
    /// An array to be written whose data do not fill its shape.
    #[error("an array of shape {shape:?} cannot be written from {len} elements")]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// Elements given.
        len: usize,
    },
}

/// Reads a file. Errors name it.
pub fn read(path: impl AsRef<Path>) -> Result<Array, NpyError> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|source| NpyError::Io { path: path.into(), source })?;
    parse(&bytes).map_err(|source| NpyError::InFile { path: path.into(), source: Box::new(source) })
}

/// Parses the bytes of a file.
pub fn parse(bytes: &[u8]) -> Result<Array, NpyError> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return Err(NpyError::Magic) };
    let (length, rest) = match rest {
        [1, 0, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2, 0, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [1 | 2, 0, ..] => {
            return Err(NpyError::Truncated { part: "header", expected: 4, found: rest.len() - 2 });
        }
        [major, minor, ..] => return Err(NpyError::Version(*major, *minor)),
        _ => return Err(NpyError::Truncated { part: "header", expected: 4, found: rest.len() }),
    };
    if length > MAX_HEADER {
        return Err(NpyError::Header("it is longer than 10,000 bytes"));
    }
    let Some((header, data)) = rest.split_at_checked(length) else {
        return Err(NpyError::Truncated { part: "header", expected: length, found: rest.len() });
    };
    let header = std::str::from_utf8(header).map_err(|_| NpyError::Header("it is not text"))?;
    let shape = parse_header(header)?;
    let elements = shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
    let elements = match elements {
        Some(elements) if elements <= MAX_ELEMENTS => elements,
        _ => return Err(NpyError::TooLarge(shape)),
    };
    if data.len() < elements * 4 {
        return Err(NpyError::Truncated { part: "data", expected: elements * 4, found: data.len() });
    }
    if data.len() > elements * 4 {
        return Err(NpyError::Trailing(data.len() - elements * 4));
    }
    let data = data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok(Array { shape, data })
}

/// Writes `array` to `path`, format version 1.0, replacing what was there.
pub fn write(path: impl AsRef<Path>, array: &Array) -> Result<(), NpyError> {
    let path = path.as_ref();
    std::fs::write(path, to_bytes(array)?).map_err(|source| NpyError::Io { path: path.into(), source })
}

/// The bytes of `array` as a file of format version 1.0.
pub fn to_bytes(array: &Array) -> Result<Vec<u8>, NpyError> {
    let elements = array.shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
    if elements != Some(array.data.len()) || array.shape.len() > MAX_DIMENSIONS {
        return Err(NpyError::Shape { shape: array.shape.clone(), len: array.data.len() });
    }
    let dimensions: String = array.shape.iter().map(|dimension| format!("{dimension}, ")).collect();
    let dimensions =
        if array.shape.len() == 1 { dimensions.trim_end() } else { dimensions.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dimensions}), }}");
    // The data start at a multiple of 64 bytes, as the format asks.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + header.len() + array.data.len() * 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(array.data.iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

/// Reads the header's dictionary, checks type and order, and returns the shape.
fn parse_header(header: &str) -> Result<Vec<usize>, NpyError> {
    let inner = header.trim_end().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let mut rest = inner.ok_or(NpyError::Header("it is not a dictionary"))?.trim();
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (name, after) = quoted(rest).ok_or(NpyError::Header("a key is not quoted"))?;
        let after =
            after.trim_start().strip_prefix(':').ok_or(NpyError::Header("':' is missing"))?.trim_start();
        rest = match name {
            "descr" => {
                let (text, after) = quoted(after).ok_or(NpyError::Dtype {
                    descr: after.chars().take(40).collect(),
                    meaning: "a structured type",
                })?;
                descr = Some(text);
                after
            }
            "fortran_order" => {
                if let Some(after) = after.strip_prefix("False") {
                    fortran = Some(false);
                    after
                } else {
                    fortran = Some(true);
                    after
                        .strip_prefix("True")
                        .ok_or(NpyError::Header("fortran_order is neither True nor False"))?
                }
            }
            "shape" => {
                let inner = after.strip_prefix('(').and_then(|text| text.split_once(')'));
                let (dimensions, after) = inner.ok_or(NpyError::Header("shape is not a tuple"))?;
                shape = Some(parse_shape(dimensions)?);
                after
            }
            _ => return Err(NpyError::Header("it has a key other than descr, fortran_order and shape")),
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
        return Err(NpyError::Header("descr, fortran_order or shape is missing"));
    };
    if descr != "<f4" {
        return Err(NpyError::Dtype { descr: format!("'{descr}'"), meaning: type_in_words(descr) });
    }
    if fortran && shape.len() > 1 {
        return Err(NpyError::FortranOrder);
    }
    Ok(shape)
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn parse_shape(text: &str) -> Result<Vec<usize>, NpyError> {
    let mut shape = Vec::new();
    for dimension in text.split(',').map(str::trim).filter(|dimension| !dimension.is_empty()) {
        shape.push(dimension.parse().map_err(|_| NpyError::Header("a dimension is not a whole number"))?);
        if shape.len() > MAX_DIMENSIONS {
            return Err(NpyError::TooLarge(shape));
        }
    }
    Ok(shape)
}

fn type_in_words(descr: &str) -> &'static str {
    match descr.as_bytes() {
        [b'>', ..] => "big-endian",
        [_, b'f', b'8'] => "float64",
        [_, b'f', b'2'] => "float16",
        [_, b'i' | b'u', ..] => "integers",
        [_, b'b', ..] => "booleans",
        _ => "another type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn refusal(header: &str, data: &[u8]) -> String {
        parse(&with_header(header, data)).unwrap_err().to_string()
    }

    #[test]
    fn each_unsuitable_array_is_refused_by_its_reason() {
        let f8 = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n";
        assert!(refusal(f8, &[0; 8]).contains("float64"));
        let big = "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }\n";
        assert!(refusal(big, &[0; 4]).contains("big-endian"));
        let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }\n";
        assert!(refusal(fortran, &[0; 4]).contains("Fortran"));
        let structured = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n";
        assert!(refusal(structured, &[0; 4]).contains("structured"));
        let short = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n";
        assert!(refusal(short, &[0; 4]).contains("truncated"));
        assert!(refusal(short, &[0; 16]).contains("4 bytes follow"));
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }\n";
        assert!(refusal(huge, &[]).contains("too large"));
        assert!(matches!(parse(b"PK\x03\x04"), Err(NpyError::Magic)));
        assert!(matches!(parse(b"\x93NUMPY\x03\x00\x00\x00\x00\x00"), Err(NpyError::Version(3, 0))));
    }

    #[test]
    fn header_of_numpy_is_read_as_numpy_writes_it() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }                    \n";
        let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let array = parse(&with_header(header, &data)).unwrap();
        assert_eq!(array.shape, [2, 3]);
        assert_eq!(array.row(1), [3.0, 4.0, 5.0]);
    }

    proptest! {
        #[test]
        fn arrays_round_trip(shape in prop::collection::vec(0usize..5, 0..4)) {
            let data = (0..shape.iter().product::<usize>()).map(|i| i as f32 / 3.0).collect();
            let array = Array { shape, data };
            let bytes = to_bytes(&array).unwrap();
            prop_assert_eq!((bytes.len() - array.data.len() * 4) % 64, 0);
            prop_assert_eq!(parse(&bytes).unwrap(), array);
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), prefix in 0usize..3) {
            let mut file = MAGIC[..].to_vec();
            file.extend([prefix as u8, 0]);
            file.extend(&bytes);
            let _ = parse(&file);
            let _ = parse(&bytes);
        }

        #[test]
        fn a_changed_header_never_panics(at in 0usize..128, byte: u8, cut in 0usize..200) {
            let mut bytes = to_bytes(&Array { shape: vec![3, 4], data: vec![1.0; 12] }).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = parse(&bytes);
            bytes.truncate(cut);
            let _ = parse(&bytes);
        }
    }
}
