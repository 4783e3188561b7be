//! Control groups of Linux, of version 1 or 2: they freeze processes, and limit their memory and their CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

/// First part of the names of all control groups here.
const NAME: &str = "lockstep-faults";

/// Files of a controller that set what it does.
struct Files {
    file: &'static str,
    free: &'static str,
}

/// Control group of this campaign. It is removed when dropped, and its processes go on outside.
pub struct ControlGroup {
    hierarchy: PathBuf,
    folder: PathBuf,
    files: Files,
    frozen: &'static str,
}

impl ControlGroup {
    /// Makes a control group that can freeze its processes.
    pub fn freezer() -> Result<Self> {
        let (hierarchy, is_v2) = hierarchy("freezer")?;
        let files = match is_v2 {
            true => Files { file: "cgroup.freeze", free: "0" },
            false => Files { file: "freezer.state", free: "THAWED" },
        };
        Self::make(hierarchy, "freezer", files, if is_v2 { "1" } else { "FROZEN" })
    }

    /// Makes a control group that can limit the memory of a node.
    pub fn memory(node: usize) -> Result<Self> {
        let v1 = Files { file: "memory.limit_in_bytes", free: "-1" };
        Self::limiting("memory", node, v1, Files { file: "memory.max", free: "max" })
    }

    /// Makes a control group that can limit the CPU of a node.
    pub fn cpu(node: usize) -> Result<Self> {
        let v1 = Files { file: "cpu.cfs_quota_us", free: "-1" };
        Self::limiting("cpu", node, v1, Files { file: "cpu.max", free: "max" })
    }

    fn limiting(controller: &str, node: usize, v1: Files, v2: Files) -> Result<Self> {
        let (hierarchy, is_v2) = hierarchy(controller)?;
        if is_v2 {
            let enabled = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
            enabled.with_context(|| format!("enable the {controller} controller"))?;
        }
        Self::make(hierarchy, &format!("{controller}-{node}"), if is_v2 { v2 } else { v1 }, "")
    }

    fn make(hierarchy: PathBuf, name: &str, files: Files, frozen: &'static str) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let folder = hierarchy.join(format!("{NAME}-{now}-{name}"));
        fs::create_dir(&folder).with_context(|| format!("make the control group {}", folder.display()))?;
        Ok(Self { hierarchy, folder, files, frozen })
    }

    pub fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).context("move a process to a control group")
    }

    pub fn freeze(&self) -> Result<()> {
        self.set(self.frozen)
    }

    /// Limits the memory of all processes together. Fails while they hold more.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        self.set(&bytes.to_string())
    }

    /// Gives all processes together this much CPU time of each 100 ms.
    pub fn throttle(&self, time: Duration) -> Result<()> {
        self.set(&time.as_micros().to_string())
    }

    /// Thaws the processes, or lifts the limit of their memory or CPU.
    pub fn free(&self) -> Result<()> {
        self.set(self.files.free)
    }

    fn set(&self, value: &str) -> Result<()> {
        let path = self.folder.join(self.files.file);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
    }

    /// Returns a command that joins the control group, and then becomes the command after it.
    pub fn wrapper(&self) -> Vec<String> {
        let join = format!("echo $$ >{}; exec \"$0\" \"$@\"", self.folder.join("cgroup.procs").display());
        vec!["sh".into(), "-c".into(), join]
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.free().ok();
        remove(&self.hierarchy, &self.folder);
    }
}

/// Removes the control groups of campaigns that were killed. A control group with processes stays.
pub fn remove_abandoned() {
    for (hierarchy, _) in ["freezer", "memory", "cpu"].into_iter().flat_map(hierarchy) {
        let folders = fs::read_dir(hierarchy).into_iter().flatten().flatten();
        for folder in folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(NAME)) {
            fs::remove_dir(folder.path()).ok();
        }
    }
}

/// Returns the folder of a controller's hierarchy, and true if that is of version 2.
fn hierarchy(controller: &str) -> Result<(PathBuf, bool)> {
    let (v1, v2) = (Path::new("/sys/fs/cgroup").join(controller), PathBuf::from("/sys/fs/cgroup"));
    match () {
        () if v1.join("cgroup.procs").exists() => Ok((v1, false)),
        () if v2.join("cgroup.controllers").exists() => Ok((v2, true)),
        () => bail!("this machine has no control groups for {controller}"),
    }
}

/// Moves the processes of a control group to the top, and removes it. A process that ends just now holds it for a moment.
fn remove(hierarchy: &Path, folder: &Path) {
    for _ in 0..100 {
        let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            fs::write(hierarchy.join("cgroup.procs"), pid).ok();
        }
        if fs::remove_dir(folder).is_ok() || !folder.exists() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    eprintln!("cannot remove the control group {}", folder.display());
}
