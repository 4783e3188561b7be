//! Numbers of calls, launches and instructions, and the texts of faults.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

static COUNTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
/// Texts of the faults, a line each.
static FAULTS: Mutex<String> = Mutex::new(String::new());
/// Most bytes of texts that are kept.
const MAX_FAULTS: usize = 1 << 20;

/// Adds to a count.
pub(crate) fn count(name: &str, more: u64) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    match counts.get_mut(name) {
        Some(count) => *count += more,
        None => {
            counts.insert(name.to_owned(), more);
        }
    }
}

/// Prints a fault and keeps its text.
pub(crate) fn note_fault(text: &str) {
    // Standard error may be closed. The context has its error all the same.
    writeln!(std::io::stderr(), "emulated GPU: {text}").ok();
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    if faults.len() + text.len() < MAX_FAULTS {
        faults.push_str(&text.replace('\0', " "));
        faults.push('\n');
    }
}

/// Writes the report, if `EMULATED_GPU_REPORT` names a file.
pub(crate) fn write_report() {
    let Some(path) = std::env::var_os("EMULATED_GPU_REPORT") else { return };
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let lines: String = counts.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    if let Err(error) = std::fs::write(&path, lines) {
        writeln!(std::io::stderr(), "emulated GPU: cannot write {}: {error}", path.display()).ok();
    }
}

/// Returns a count, for tests: the number of calls of a driver's function by its name, of launches of a kernel by `kernel
/// NAME`, or `instructions`.
///
/// # Safety
/// `name` is a text that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn emulatedGpuCount(name: *const c_char) -> u64 {
    // SAFETY: the caller passes a text with an end.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner).get(name.as_ref()).copied().unwrap_or(0)
}

/// Returns the texts of the process's faults, a line each. The text stays valid, so its memory is never freed.
#[unsafe(no_mangle)]
pub extern "C" fn emulatedGpuFaults() -> *const c_char {
    let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    CString::new(faults.as_str()).unwrap_or_default().into_raw()
}
