//! Tensors in and out of safetensors files. A tensor that is read has the name, type and shape that was asked for, or there is an error
//! that names the tensor, what it is and what it should be.

use std::path::{Path, PathBuf};

use safetensors::tensor::{SafeTensorError, TensorView};
use safetensors::{Dtype, SafeTensors};

use crate::output::{self, OutputError};

/// Why a file of tensors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{} is not a valid safetensors file: {reason}; write it again with safetensors.torch.save_file or alike", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: SafeTensorError,
    },
    /// No tensor of that name.
    #[error("{} has no tensor `{name}`; it has {found}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The names that are there.
        found: String,
    },
    /// The wrong element type.
    #[error("{}: tensor `{name}` holds {found:?}, but {expected:?} is needed; convert it", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// Its element type.
        found: Dtype,
        /// What is needed.
        expected: Dtype,
    },
    /// The wrong shape.
    #[error("{}: tensor `{name}` has shape {found:?}, but {expected} is needed", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What is needed.
        expected: String,
    },
    /// The results cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// One dimension of an expected shape.
#[derive(Clone, Copy, Debug)]
pub enum Dim {
    /// Any length; the name is used in errors.
    Any(&'static str),
    /// This length; the name is used in errors.
    Exactly(&'static str, usize),
}

/// A file of tensors, read into memory.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A tensor of a file: its shape and the bytes of its elements, little-endian, row-major.
pub struct Tensor<'file> {
    /// Lengths of the dimensions.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: &'file [u8],
}

impl TensorFile {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<TensorFile, TensorError> {
        let bytes = std::fs::read(path).map_err(|source| TensorError::Unreadable { path: path.to_owned(), source })?;
        let file = TensorFile { path: path.to_owned(), bytes };
        file.parsed()?;
        Ok(file)
    }

    /// As the user calls it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether the file has a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.parsed().is_ok_and(|file| file.tensor(name).is_ok())
    }

    /// A tensor by name, type and shape.
    pub fn tensor(&self, name: &str, dtype: Dtype, shape: &[Dim]) -> Result<Tensor<'_>, TensorError> {
        let file = self.parsed()?;
        let Ok(view) = file.tensor(name) else {
            let mut found: Vec<_> = file.names().into_iter().map(|name| format!("`{name}`")).collect();
            found.sort();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(TensorError::Missing { path: self.path.clone(), name: name.to_owned(), found });
        };
        if view.dtype() != dtype {
            return Err(TensorError::WrongType {
                path: self.path.clone(),
                name: name.to_owned(),
                found: view.dtype(),
                expected: dtype,
            });
        }
        let fits = view.shape().len() == shape.len()
            && view.shape().iter().zip(shape).all(|(&found, dim)| match dim {
                Dim::Any(_) => true,
                Dim::Exactly(_, length) => found == *length,
            });
        if !fits {
            return Err(TensorError::WrongShape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: view.shape().to_vec(),
                expected: describe(shape),
            });
        }
        Ok(Tensor { shape: view.shape().to_vec(), bytes: view.data() })
    }

    /// A tensor of 32-bit numbers: its shape and its elements.
    pub fn numbers<T: Number>(&self, name: &str, shape: &[Dim]) -> Result<(Vec<usize>, Vec<T>), TensorError> {
        let tensor = self.tensor(name, T::DTYPE, shape)?;
        let elements = bytemuck::allocation::pod_collect_to_vec(tensor.bytes);
        Ok((tensor.shape, elements))
    }

    fn parsed(&self) -> Result<SafeTensors<'_>, TensorError> {
        SafeTensors::deserialize(&self.bytes).map_err(|reason| TensorError::Damaged { path: self.path.clone(), reason })
    }
}

/// A 32-bit element type.
pub trait Number: bytemuck::Pod {
    /// Its name in a file.
    const DTYPE: Dtype;
}

impl Number for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Number for i32 {
    const DTYPE: Dtype = Dtype::I32;
}

/// Writes named tensors as one file, all or nothing.
pub fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, &[u8])]) -> Result<(), TensorError> {
    let damaged = |reason| TensorError::Damaged { path: path.to_owned(), reason };
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        views.push((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(damaged)?));
    }
    let bytes = safetensors::serialize(views, None).map_err(damaged)?;
    Ok(output::write(path, &bytes)?)
}

fn describe(shape: &[Dim]) -> String {
    let dims: Vec<_> = shape
        .iter()
        .map(|dim| match dim {
            Dim::Any(name) => (*name).to_owned(),
            Dim::Exactly(name, length) => format!("{name} = {length}"),
        })
        .collect();
    format!("[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Dtype, Vec<usize>, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.safetensors");
        write(&path, tensors).unwrap();
        (folder, path)
    }

    #[test]
    fn what_was_written_is_read() {
        let values = [1.0f32, -2.0, 3.5, 0.0, f32::INFINITY, 6.0];
        let (_folder, path) = file(&[("logits", Dtype::F32, vec![2, 3], bytemuck::cast_slice(&values))]);
        let (shape, read) = TensorFile::open(&path)
            .unwrap()
            .numbers::<f32>("logits", &[Dim::Any("tokens"), Dim::Exactly("experts", 3)])
            .unwrap();
        assert_eq!(shape, [2, 3]);
        assert_eq!(read, values);
    }

    #[test]
    fn every_wrong_tensor_is_named() {
        let (folder, path) = file(&[("logits", Dtype::F32, vec![2, 3], &[0; 24])]);
        let file = TensorFile::open(&path).unwrap();
        let place = folder.path().display().to_string();
        let says = |error: TensorError| error.to_string().replace(&place, "");
        let shape = [Dim::Any("tokens"), Dim::Exactly("experts", 4)];
        assert_eq!(
            says(file.numbers::<f32>("logit", &shape).unwrap_err()),
            "/in.safetensors has no tensor `logit`; it has `logits`"
        );
        assert_eq!(
            says(file.numbers::<i32>("logits", &shape).unwrap_err()),
            "/in.safetensors: tensor `logits` holds F32, but I32 is needed; convert it"
        );
        assert_eq!(
            says(file.numbers::<f32>("logits", &shape).unwrap_err()),
            "/in.safetensors: tensor `logits` has shape [2, 3], but [tokens, experts = 4] is needed"
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        let (folder, path) = file(&[("logits", Dtype::F32, vec![2, 3], &[0; 24])]);
        let whole = std::fs::read(&path).unwrap();
        let cut = folder.path().join("cut.safetensors");
        for length in 0..whole.len() {
            std::fs::write(&cut, &whole[..length]).unwrap();
            assert!(matches!(TensorFile::open(&cut), Err(TensorError::Damaged { .. })), "{length} bytes");
        }
    }

    #[test]
    fn a_header_that_promises_too_much_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostile.safetensors");
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(TensorFile::open(&path), Err(TensorError::Damaged { .. })));
    }
}
