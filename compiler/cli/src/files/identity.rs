//! What makes two names the same file.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A regular file that is there.
    There(Inode),
    /// A name in a folder that is there.
    New { folder: Inode, name: OsString },
    /// A device, a pipe, a folder or nothing: writing there destroys no file.
    Nothing,
}

/// A file of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    device: u64,
    number: u64,
}

impl Identity {
    /// Whether both are the same file. New names that differ in the case of letters only may be one file: whether they are depends on the
    /// file system, and whoever finds out otherwise has lost a result.
    pub fn is_same(&self, other: &Identity) -> bool {
        match (self, other) {
            (Identity::There(one), Identity::There(other)) => one == other,
            (Identity::New { folder, name }, Identity::New { folder: other_folder, name: other_name }) => {
                folder == other_folder && (name == other_name || lowercase(name) == lowercase(other_name))
            }
            _ => false,
        }
    }
}

fn lowercase(name: &OsString) -> Option<String> {
    name.to_str().map(str::to_lowercase)
}

/// Of a path, through links.
pub fn of_path(path: &Path) -> Identity {
    match path.metadata() {
        Ok(metadata) => of_metadata(&metadata),
        // Also of a link that leads nowhere: what is written replaces the link.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
                _ => PathBuf::from("."),
            };
            match (folder.metadata(), path.file_name()) {
                (Ok(folder), Some(name)) => Identity::New { folder: inode(&folder), name: name.to_owned() },
                _ => Identity::Nothing,
            }
        }
        Err(_) => Identity::Nothing,
    }
}

/// Of an open stream.
pub fn of_stream(stream: &impl AsFd) -> Identity {
    let metadata = stream.as_fd().try_clone_to_owned().and_then(|own| File::from(own).metadata());
    metadata.map_or(Identity::Nothing, |metadata| of_metadata(&metadata))
}

fn of_metadata(metadata: &Metadata) -> Identity {
    if metadata.is_file() { Identity::There(inode(metadata)) } else { Identity::Nothing }
}

fn inode(metadata: &Metadata) -> Inode {
    use std::os::unix::fs::MetadataExt as _;
    Inode { device: metadata.dev(), number: metadata.ino() }
}
