//! Tables that campaigns write into `tests/README.md`.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Mark at the end of each table.
const END: &str = "<!-- end of the table -->";

/// Puts `table` into `tests/README.md`, between the line `begin` and the next end of a table.
pub fn write_table(begin: &str, table: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path).context("read tests/README.md")?;
    let (before, rest) = text.split_once(begin).context("tests/README.md has no place for the table")?;
    let (_, after) = rest.split_once(END).context("tests/README.md has no end of the table")?;
    std::fs::write(&path, format!("{before}{begin}\n{table}{END}{after}")).context("write tests/README.md")
}
