//! Temporary files and folders, which a signal does not leave behind.
//!
//! Invariants: whatever temporary this process makes is in [`LIVE`] from before it is there until it is gone, or inside of what is; one
//! thread waits for the signals that end a process, ends the assembler if it runs, removes all of it while nothing new can be made, and then
//! lets the signal do what it does by default, so that a shell sees the status that it expects (130 after SIGINT, 143 after SIGTERM).

#![allow(clippy::disallowed_methods, reason = "here is where files are opened, made and removed")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tempfile::{NamedTempFile, TempDir};

/// What has to go.
static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Nothing is made, renamed or removed by others meanwhile.
fn live() -> MutexGuard<'static, Vec<PathBuf>> {
    // A list of paths is whole whatever its holder did.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to wait for signals. A signal that whoever started this process has it ignore, as `nohup` does, stays ignored.
///
/// # Errors
/// Where the system has no thread left; then signals do what they always do.
pub fn watch_signals() -> io::Result<()> {
    const ENDING: [i32; 5] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU];
    const STACK: usize = 128 * 1024;
    let ignored = ignored();
    let heeded = ENDING.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(heeded)?;
    // A file that grows beyond its limit is then an error like any other, and not the end.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    thread::Builder::new().name("signals".into()).stack_size(STACK).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let mut paths = live();
            // What writes into a folder first.
            moe_kernels::assemble::stop(kill);
            paths.drain(..).for_each(|path| remove(&path));
            // Ends the process, which still holds the list: nobody makes anything new.
            let _ = emulate_default_handler(signal);
            drop(paths);
        }
    })?;
    Ok(())
}

/// Ends a program that this process has started and not yet waited for.
fn kill(process: u32) {
    if let Ok(process) = libc::pid_t::try_from(process) {
        // SAFETY: asks the system for something; no memory is touched.
        unsafe { libc::kill(process, libc::SIGKILL) };
    }
}

/// For a process that is about to end for want of memory: removes what can be removed, unless somebody makes something just now.
pub fn discard_all() {
    if let Ok(mut paths) = LIVE.try_lock() {
        paths.drain(..).for_each(|path| remove(&path));
    }
}

/// As a mask, signal 1 in the lowest bit; none where the system does not say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A program that was started may write into a folder while it is removed, though not once it is.
fn remove(path: &Path) {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(_) if path.is_dir() => return remove_one_by_one(path),
            _ => return,
        }
    }
}

/// With one open file at a time, where the system allows no more: removing a folder at once holds one open for each level.
fn remove_one_by_one(folder: &Path) {
    let entries = fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let entries: Vec<PathBuf> = entries.unwrap_or_default();
    for entry in entries {
        let is_folder = entry.symlink_metadata().is_ok_and(|entry| entry.is_dir());
        if is_folder {
            remove_one_by_one(&entry);
        } else {
            // What cannot be removed has nobody to be told.
            let _ = fs::remove_file(&entry);
        }
    }
    let _ = fs::remove_dir(folder);
}

/// The folder of all temporary files that are not beside an output, those of other programs too: while this lives, [`tempfile`] makes
/// its files and folders there.
pub struct Folder(Option<TempDir>);

impl Folder {
    /// Makes it, once in a process. Where it cannot be made, whoever needs a temporary file says so.
    pub fn new() -> Folder {
        let mut paths = live();
        let folder = tempfile::Builder::new().prefix("moec-").tempdir().ok();
        if let Some(folder) = &folder {
            paths.push(folder.path().to_owned());
            // Set already only if there was a folder before, which is gone.
            let _ = tempfile::env::override_temp_dir(folder.path());
        }
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.0.iter().for_each(|folder| discard(folder.path()));
    }
}

/// A file beside the one that it shall replace.
pub struct Beside(NamedTempFile);

impl Beside {
    /// An empty one.
    ///
    /// # Errors
    /// Where the folder takes none.
    pub fn new(folder: &Path) -> io::Result<Beside> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut builder = tempfile::Builder::new();
        // A temporary file is for its owner alone; an output file is like any other, so that the umask decides.
        builder.prefix(".moec-").permissions(fs::Permissions::from_mode(0o666));
        let mut paths = live();
        let file = builder.tempfile_in(folder)?;
        paths.push(file.path().to_owned());
        Ok(Beside(file))
    }

    pub fn file(&mut self) -> &mut File {
        self.0.as_file_mut()
    }

    /// Puts it in the place of another.
    ///
    /// # Errors
    /// Where the system does not let it.
    pub fn replace(self, path: &Path) -> io::Result<()> {
        let held = live();
        let renamed = fs::rename(self.0.path(), path);
        drop(held);
        renamed
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        discard(self.0.path());
    }
}

/// Removes what may be there; whatever removes it once more finds nothing.
fn discard(path: &Path) {
    let mut paths = live();
    remove(path);
    paths.retain(|other| other != path);
}
