//! The progress of a transfer that was cut off, beside the file that it reads or writes.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// `FILE.progress`: what is done, and of which transfer.
pub struct ProgressFile {
    path: PathBuf,
    of: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    done: Done,
    of: String,
}

/// The records that are done: their number, and what tells them from others.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Done {
    pub count: usize,
    pub content: u64,
}

impl ProgressFile {
    /// `of` tells one transfer from another: its server, its conditions.
    pub fn beside(file: &Path, of: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        let mut path = file.to_owned().into_os_string();
        path.push(".progress");
        Self { path: path.into(), of: format!("{:016x}", hasher.finish()) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The records that are done; none without a file.
    ///
    /// # Errors
    /// If the file is of another transfer, or cannot be read.
    pub fn done(&self) -> Result<Done, Failure> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Done::default()),
            Err(error) => return Err(Failure::reading(&self.path)(error)),
        };
        match serde_json::from_str::<Content>(&text) {
            Ok(content) if content.of == self.of => Ok(content.done),
            _ => Err(self.foreign()),
        }
    }

    /// The failure if it is of another transfer.
    pub fn foreign(&self) -> Failure {
        Failure::usage(format!(
            "{} is of another file, server or condition: remove it to begin again",
            self.path.display()
        ))
    }

    /// Never half a file, even if the power goes.
    pub fn set(&self, done: Done) -> Result<(), Failure> {
        let content = Content { done, of: self.of.clone() };
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let text = serde_json::to_string(&content).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(&new, text));
        written.and_then(|()| fs::rename(new, &self.path)).map_err(Failure::writing(&self.path))
    }

    /// The transfer is complete.
    pub fn remove(&self) {
        // There is none if nothing was to be done.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_goes_on_with_its_own_progress_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.jsonl");
        let progress = ProgressFile::beside(&file, &("here", 7));
        assert_eq!(progress.done().unwrap(), Done::default());
        let done = Done { count: 200, content: 7 };
        progress.set(done).unwrap();
        assert_eq!(progress.done().unwrap(), done);
        assert!(ProgressFile::beside(&file, &("there", 7)).done().is_err());
        progress.remove();
        assert_eq!(progress.done().unwrap(), Done::default());
    }
}
