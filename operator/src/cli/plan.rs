//! `lockstep plan`: what would run.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lockstep_proto::names::port;

use crate::plan::{Addresses, LocalPorts, format_plan, plan};
use crate::resource::load;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The InferenceCluster, a YAML file
    file: PathBuf,
    /// Form of the plan
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The plan of `lockstep up`, with the default ports, instead of that of Kubernetes
    #[arg(long)]
    local: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// One YAML document
    Yaml,
    /// One JSON document
    Json,
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let mut cluster = load(&options.file)?;
    let addresses = if options.local {
        super::up::settle(&mut cluster, &options.file)?;
        Addresses::Local {
            host: super::up::LOOPBACK.into(),
            ports: LocalPorts { grpc: port::GRPC, http: port::HTTP, control: port::CONTROL },
            threads: super::up::threads_per_rank(&cluster.spec),
        }
    } else {
        let namespace = cluster.metadata.namespace.clone().unwrap_or_else(|| "default".into());
        Addresses::Kubernetes { namespace }
    };
    let plan = plan(&cluster, &addresses);
    let printed = match options.output {
        Form::Text => format_plan(&plan),
        Form::Yaml => serde_yaml::to_string(&plan)?,
        Form::Json => serde_json::to_string_pretty(&plan)? + "\n",
    };
    Ok(super::print(&printed)?)
}
