//! `lockstep plan`: prints the plan of an `InferenceCluster`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lockstep_proto::names::port;

use crate::plan::{Addresses, LocalPorts, format_plan, plan};
use crate::reconcile::validate::check_spec;
use crate::resource::load;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// YAML file with an InferenceCluster
    file: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text)]
    output: PlanFormat,
    /// Print the plan of `lockstep up` with the default ports, instead of the plan for Kubernetes
    #[arg(long)]
    local: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PlanFormat {
    /// Text for people
    Text,
    /// One YAML document
    Yaml,
    /// One JSON document
    Json,
}

pub(super) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let mut cluster = load(&args.file)?;
    let addresses = if args.local {
        super::up::resolve_source(&mut cluster, &args.file)?;
        Addresses::Local {
            host: super::up::LOOPBACK.into(),
            ports: LocalPorts { grpc: port::GRPC, http: port::HTTP, control: port::CONTROL },
            threads: super::up::threads_per_rank(&cluster.spec),
        }
    } else {
        check_spec(&cluster.spec)?;
        Addresses::Kubernetes
    };
    let plan = plan(&cluster, &addresses);
    let printed = match args.output {
        PlanFormat::Text => format_plan(&plan),
        PlanFormat::Yaml => serde_yaml::to_string(&plan)?,
        PlanFormat::Json => serde_json::to_string_pretty(&plan)? + "\n",
    };
    Ok(super::print(&printed)?)
}
