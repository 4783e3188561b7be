//! The operator: glue around `lockstep_operator::operate`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_operator::operate::main()
}
