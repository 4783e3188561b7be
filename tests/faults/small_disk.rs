//! Small disk on which nodes work: it holds their logs, caches and temporary files.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::namespaces::run;

const SIZE: &str = "8m";

/// Mounted disk. It is unmounted when dropped.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    pub fn mount(parent: &Path) -> Result<Self> {
        let folder = parent.join("disk");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        run(&format!("mount -t tmpfs -o size={SIZE} tmpfs {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Returns the variables that lead a process's files to this disk.
    pub fn variables(&self) -> Vec<(String, String)> {
        let folder = self.folder.display().to_string();
        ["HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME"].map(|name| (name.to_owned(), folder.clone())).into()
    }

    /// Returns a command that works on this disk with its log there, and then becomes the command after it.
    pub fn wrapper(&self, node: usize) -> Vec<String> {
        let folder = self.folder.display();
        vec!["sh".into(), "-c".into(), format!("cd {folder} && exec \"$0\" \"$@\" >>node-{node}.log 2>&1")]
    }

    /// Fills the disk to its last byte.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler()).context("fill the small disk")?;
        for size in [64 << 10, 1] {
            let bytes = vec![b'x'; size];
            loop {
                match file.write(&bytes) {
                    Ok(_) => (),
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill the small disk"),
                }
            }
        }
        Ok(())
    }

    /// Makes room again.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("make room on the small disk")
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Copies the logs of all nodes.
    pub fn keep_logs(&self, target: &Path) {
        let logs = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|file| file.path());
        for log in logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
            let name = log.file_name().expect("a name");
            fs::copy(&log, target.join(format!("disk-{}", name.display()))).ok();
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(&format!("umount -l {}", self.folder.display())).ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}
