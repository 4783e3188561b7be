//! `--tensor-parallel-size` and `--pipeline-parallel-size`: vLLM's flags for the ranks of one machine. They stand for the
//! variables that describe a group.

use lockstep_proto::names::env;

use super::args::GlobalArgs;
use super::environment::Environment;
use super::error::ConfigError;
use super::group;
use super::values::Setting;
use super::{MAX_LOCAL_WORLD_SIZE, MAX_STAGES};

const TENSOR: &str = "--tensor-parallel-size";
const PIPELINE: &str = "--pipeline-parallel-size";

/// Returns the variables together with those that the flags stand for.
///
/// # Errors
/// A flag is out of range, or a variable says something else.
pub(super) fn apply(options: &GlobalArgs, variables: &Environment) -> Result<Environment, ConfigError> {
    let mut variables = variables.clone();
    let flag = |typed: &Option<String>, name: &str| {
        typed.as_ref().map(|value| Setting { name: name.to_owned(), value: value.clone() })
    };
    if let Some(flag) = flag(&options.pipeline_parallel_size, PIPELINE) {
        set(&mut variables, &flag, env::PIPELINE_PARALLEL, flag.integer(1..=MAX_STAGES)?)?;
    }
    if let Some(flag) = flag(&options.tensor_parallel_size, TENSOR) {
        let ranks = flag.integer(1..=MAX_LOCAL_WORLD_SIZE)?;
        if let Some(other) = group::first_variable_of_several_nodes(&variables) {
            return Err(ConfigError::contradiction(
                format!("{TENSOR} is {ranks}"),
                format!("{other} describes a group of several nodes"),
                format!("leave the flag out; {} sets the ranks of each node", env::LOCAL_WORLD_SIZE),
            ));
        }
        let stages = variables.setting(env::PIPELINE_PARALLEL)?.map(|setting| setting.integer(1..=MAX_STAGES));
        let all = ranks * stages.transpose()?.unwrap_or(1);
        if all > MAX_LOCAL_WORLD_SIZE {
            return Err(
                flag.invalid(format!("with the pipeline stages these are {all} ranks: at most {MAX_LOCAL_WORLD_SIZE}"))
            );
        }
        set(&mut variables, &flag, env::LOCAL_WORLD_SIZE, all)?;
    }
    Ok(variables)
}

/// Sets the variable of a flag.
///
/// # Errors
/// The variable has another value.
fn set(variables: &mut Environment, flag: &Setting, name: &'static str, value: u32) -> Result<(), ConfigError> {
    let value = value.to_string();
    match variables.setting(name)? {
        Some(other) if other.value != value => Err(ConfigError::contradiction(
            format!("{} is {}", flag.name, flag.value),
            format!("{name} is {}, not {value}", other.value),
            "set one of the two",
        )),
        _ => {
            variables.set(name, value);
            Ok(())
        }
    }
}
