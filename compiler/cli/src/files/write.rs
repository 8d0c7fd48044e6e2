//! Output files are written beside their final name and renamed, so that a failure leaves no partial file and no damaged old one.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use super::{InputPath, OutputPath};
use crate::failure::Failure;
use crate::scratch::Beside;

/// An output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {name}: {source}")]
pub struct OutputError {
    name: String,
    source: io::Error,
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Failure {
        Failure::Message(error.to_string())
    }
}

/// Writes all of `bytes` or nothing.
pub fn write(output: &OutputPath, bytes: &[u8]) -> Result<(), OutputError> {
    let written = match output.path() {
        Some(path) => replace(path, bytes),
        None => stream(bytes),
    };
    written.map_err(|source| OutputError { name: output.to_string(), source: plain(source) })
}

/// Writes a file that is not there yet; one that is there is left as it is.
pub fn create(output: &OutputPath, bytes: &[u8]) -> Result<(), OutputError> {
    let Some(path) = output.path() else { return write(output, bytes) };
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
        file.write_all(bytes).inspect_err(|_| {
            // What was begun here is worth nothing; that it cannot be removed says no more than the first error.
            let _ = std::fs::remove_file(path);
        })
    });
    made.map_err(|source| {
        let exists = source.kind() == io::ErrorKind::AlreadyExists;
        let source = if exists { io::Error::other("it is there already: name another file") } else { source };
        OutputError { name: output.to_string(), source }
    })
}

/// Replaces an input by what it shall be: all or nothing. Standard input is answered on standard output.
pub fn rewrite(input: &InputPath, bytes: &[u8]) -> Result<(), OutputError> {
    write(&OutputPath(input.0.clone()), bytes)
}

/// Whether it can be written, for who would otherwise find out after a long run.
pub fn check(output: &OutputPath) -> Result<(), OutputError> {
    let possible = match output.path() {
        Some(path) if path.metadata().is_ok_and(|old| !old.is_file() && !old.is_dir()) => Ok(()),
        Some(path) => replaceable(path).and_then(|()| Beside::new(folder_of(path)).map(|_| ())),
        None => Ok(()),
    };
    possible.map_err(|source| OutputError { name: output.to_string(), source: plain(source) })
}

/// Whether bytes that are no text can be written there.
pub fn check_binary(output: &OutputPath) -> Result<(), OutputError> {
    if output.is_standard() && io::stdout().is_terminal() {
        let source = io::Error::other("it is a terminal, and this is no text: send it to a file or a program");
        return Err(OutputError { name: output.to_string(), source });
    }
    check(output)
}

/// To standard output. Whoever closed it early, such as `head`, wants no more.
pub fn stream(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Without the name of the temporary file, which means nothing to whoever asked for another one.
fn plain(error: io::Error) -> io::Error {
    if error.get_ref().is_some() { error.kind().into() } else { error }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link stays one: the file that it names is replaced.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let old = path.metadata().ok();
    if old.as_ref().is_some_and(|old| !old.is_file() && !old.is_dir()) {
        // A device or a pipe cannot be replaced.
        return std::fs::write(path, bytes);
    }
    replaceable(path)?;
    let mut beside = Beside::new(folder_of(path))?;
    beside.file().write_all(bytes)?;
    if let Some(old) = old {
        beside.file().set_permissions(old.permissions())?;
    }
    beside.file().sync_all()?;
    beside.replace(path)
}

/// Whether there is nothing that must not be replaced. To rename a file over a read-only one is allowed, and never what its owner wants.
fn replaceable(path: &Path) -> io::Result<()> {
    folder_of(path).metadata()?;
    match path.metadata() {
        Ok(old) if old.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(old) if old.permissions().readonly() => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Place;

    fn output(path: &Path) -> OutputPath {
        OutputPath(Place::File(path.to_owned()))
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        std::fs::create_dir(&target).unwrap();
        let error = write(&output(&target), b"new").unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["out"]);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        std::fs::write(&target, "a longer old text").unwrap();
        write(&output(&target), b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
    }
}
