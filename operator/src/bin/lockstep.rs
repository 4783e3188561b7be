//! The `lockstep` command: glue around `lockstep_operator::cli`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_operator::cli::main()
}
