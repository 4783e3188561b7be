//! The PTX that is checked in belongs to the sources that are checked in.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

#[test]
fn the_ptx_was_made_from_these_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = std::fs::read_to_string(folder.join("ptx/SOURCES")).expect("ptx/SOURCES");
    let mut found = String::new();
    for part in ["cuda", "ptx"] {
        let files =
            std::fs::read_dir(folder.join(part)).expect("a folder").map(|entry| entry.expect("a file").file_name());
        let mut files: Vec<_> = files.map(|name| name.into_string().expect("a name")).collect();
        files.retain(|name| name != "SOURCES");
        files.sort();
        for name in files {
            let path = format!("{part}/{name}");
            let digest = Sha256::digest(std::fs::read(folder.join(&path)).expect("a file"));
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(found, "{digest}  {path}").expect("a string");
        }
    }
    let recorded: Vec<_> = recorded.lines().skip(1).collect();
    assert_eq!(found.lines().collect::<Vec<_>>(), recorded, "run make ptx, and commit ptx/");
}
