//! Tensors in and out of safetensors files. A tensor that is read has the name, type and shape that was asked for, or there is an error
//! that names the tensor, what it is and what it should be.

use safetensors::tensor::{SafeTensorError, TensorView};
use safetensors::{Dtype, SafeTensors};

use crate::failure::Failure;
use crate::files::{self, InputPath, OutputError, OutputPath, Wanted};

/// Why a file of tensors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// Not a safetensors file, or a damaged one.
    #[error(
        "{} is not a valid safetensors file: {reason}; write it again with safetensors.torch.save_file or alike",
        path
    )]
    Damaged { path: String, reason: SafeTensorError },
    /// No tensor of that name.
    #[error("{} has no tensor `{name}`; it has {found}", path)]
    Missing {
        path: String,
        name: String,
        /// The names that are there.
        found: String,
    },
    /// The wrong element type.
    #[error("{}: tensor `{name}` holds {found:?}, but {expected:?} is needed; convert it", path)]
    WrongType {
        path: String,
        name: String,
        /// Its element type.
        found: Dtype,
        expected: Dtype,
    },
    #[error("{}: tensor `{name}` has shape {found:?}, but {expected} is needed", path)]
    WrongShape {
        path: String,
        name: String,
        /// Its shape.
        found: Vec<usize>,
        expected: String,
    },
    /// A number that must not be there.
    #[error("{path}: tensor `{name}` is {number} at {place:?}, and {needed}")]
    Number { path: String, name: String, number: f32, place: Vec<usize>, needed: &'static str },
    /// The results cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl From<TensorError> for Failure {
    fn from(error: TensorError) -> Failure {
        Failure::Message(error.to_string())
    }
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
    name: String,
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
    pub fn open(path: &InputPath) -> Result<TensorFile, Failure> {
        Ok(TensorFile::parse(path.to_string(), path.read(Wanted::Tensors)?)?)
    }

    fn parse(name: String, bytes: Vec<u8>) -> Result<TensorFile, TensorError> {
        let file = TensorFile { name, bytes };
        file.parsed()?;
        Ok(file)
    }

    /// As the user calls it.
    pub fn name(&self) -> String {
        self.name.clone()
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
            return Err(TensorError::Missing { path: self.name.clone(), name: name.to_owned(), found });
        };
        if view.dtype() != dtype {
            return Err(TensorError::WrongType {
                path: self.name.clone(),
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
                path: self.name.clone(),
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

    /// A tensor in which there is no NaN; infinities, which switch experts off or on, may be there.
    pub fn without_nan(&self, name: &str, shape: &[Dim]) -> Result<Vec<f32>, TensorError> {
        self.all_are(|number| !number.is_nan(), "must be a number", name, shape)
    }

    /// A tensor of finite numbers.
    pub fn finite(&self, name: &str, shape: &[Dim]) -> Result<Vec<f32>, TensorError> {
        self.all_are(f32::is_finite, "must be finite", name, shape)
    }

    fn all_are(
        &self,
        holds: impl Fn(f32) -> bool,
        needed: &'static str,
        name: &str,
        shape: &[Dim],
    ) -> Result<Vec<f32>, TensorError> {
        let (shape, numbers) = self.numbers::<f32>(name, shape)?;
        match numbers.iter().position(|&number| !holds(number)) {
            None => Ok(numbers),
            Some(at) => Err(TensorError::Number {
                path: self.name.clone(),
                name: name.to_owned(),
                number: numbers[at],
                place: place(at, &shape),
                needed,
            }),
        }
    }

    fn parsed(&self) -> Result<SafeTensors<'_>, TensorError> {
        SafeTensors::deserialize(&self.bytes).map_err(|reason| TensorError::Damaged { path: self.name.clone(), reason })
    }
}

/// The index along each dimension.
fn place(at: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = at;
    let mut place: Vec<usize> = Vec::with_capacity(shape.len());
    for &length in shape.iter().rev() {
        // Where there is an element, no dimension is empty.
        place.push(rest % length.max(1));
        rest /= length.max(1);
    }
    place.reverse();
    place
}

/// A 32-bit element type.
pub trait Number: bytemuck::Pod {
    const DTYPE: Dtype;
}

impl Number for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Number for i32 {
    const DTYPE: Dtype = Dtype::I32;
}

/// Writes named tensors as one file, all or nothing.
pub fn write(path: &OutputPath, tensors: &[(&str, Dtype, Vec<usize>, &[u8])]) -> Result<(), TensorError> {
    let bytes = serialize(tensors).map_err(|reason| TensorError::Damaged { path: path.to_string(), reason })?;
    Ok(files::write(path, &bytes)?)
}

fn serialize<'t>(tensors: &[(&'t str, Dtype, Vec<usize>, &'t [u8])]) -> Result<Vec<u8>, SafeTensorError> {
    let view = |(name, dtype, shape, bytes): &(&'t str, Dtype, Vec<usize>, &'t [u8])| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (*name, view))
    };
    let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(view).collect::<Result<_, _>>()?;
    safetensors::serialize(views, None)
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

    fn file(tensors: &[(&str, Dtype, Vec<usize>, &[u8])]) -> TensorFile {
        TensorFile::parse("in.safetensors".into(), serialize(tensors).unwrap()).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let values = [1.0f32, -2.0, 3.5, 0.0, f32::INFINITY, 6.0];
        let (shape, read) = file(&[("logits", Dtype::F32, vec![2, 3], bytemuck::cast_slice(&values))])
            .numbers::<f32>("logits", &[Dim::Any("tokens"), Dim::Exactly("experts", 3)])
            .unwrap();
        assert_eq!(shape, [2, 3]);
        assert_eq!(read, values);
    }

    #[test]
    fn every_wrong_tensor_is_named() {
        let file = file(&[("logits", Dtype::F32, vec![2, 3], &[0; 24])]);
        let shape = [Dim::Any("tokens"), Dim::Exactly("experts", 4)];
        assert_eq!(
            file.numbers::<f32>("logit", &shape).unwrap_err().to_string(),
            "in.safetensors has no tensor `logit`; it has `logits`"
        );
        assert_eq!(
            file.numbers::<i32>("logits", &shape).unwrap_err().to_string(),
            "in.safetensors: tensor `logits` holds F32, but I32 is needed; convert it"
        );
        assert_eq!(
            file.numbers::<f32>("logits", &shape).unwrap_err().to_string(),
            "in.safetensors: tensor `logits` has shape [2, 3], but [tokens, experts = 4] is needed"
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = serialize(&[("logits", Dtype::F32, vec![2, 3], &[0; 24])]).unwrap();
        for length in 0..whole.len() {
            let cut = TensorFile::parse("cut".into(), whole[..length].to_vec());
            assert!(matches!(cut, Err(TensorError::Damaged { .. })), "{length} bytes");
        }
    }

    #[test]
    fn a_header_that_promises_too_much_is_an_error() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        assert!(matches!(TensorFile::parse("hostile".into(), bytes), Err(TensorError::Damaged { .. })));
    }
}
