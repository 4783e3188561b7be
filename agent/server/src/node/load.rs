//! From the head's assignment to what a rank is to load.

use std::sync::Arc;

use anyhow::Context as _;
use lockstep_collectives::Grid;
use lockstep_engine::source::ModelFiles;
use lockstep_engine::{BlockFormat, Devices, PlacedLayers, RunnerConfig};

use super::rank::LoadSpec;
use super::{Node, memory};
use crate::config::{DType, Quantization};

impl Node {
    pub(super) fn load_spec(&self, local_rank: usize, files: Arc<dyn ModelFiles>) -> anyhow::Result<LoadSpec> {
        let assignment = self.assignment.clone();
        self.config.common.devices.check_group(assignment.world_size, &self.config.ring)?;
        let (rank, world) = (assignment.first_rank as usize + local_rank, assignment.world_size as usize);
        let stages = assignment.pipeline_parallel_size as usize;
        let grid = Grid::new(rank, world, stages)
            .with_context(|| format!("the head's assignment puts rank {rank} of {world} into {stages} stages"))?;
        let cores = cores();
        let ranks_here = self.ranks_here();
        let given = self.config.common.threads;
        let threads = given.map_or_else(|| (cores / ranks_here).max(1), |threads| threads as usize);
        let runner = RunnerConfig {
            files,
            dtype: weight_dtype(assignment.model.as_ref().map_or("", |model| &model.dtype).parse()?),
            quantization: block_format(assignment.model.as_ref().map_or("", |model| &model.quantization).parse()?),
            grid,
            block_size: assignment.block_size,
            context_length: Some(assignment.context_length).filter(|length| *length > 0),
            max_num_batched_tokens: assignment.max_num_batched_tokens,
            max_num_seqs: assignment.max_num_seqs,
            threads,
            oversubscribed: threads * ranks_here > cores,
            isa: self.config.common.isa.clone(),
            // Those are opened by the rank's own thread.
            devices: Devices::default(),
            progress: self.ranks[local_rank].counters.ticks.clone(),
        };
        let blocks =
            move |places: &[PlacedLayers]| memory::blocks(&assignment, places, ranks_here as u64, memory::free_bytes());
        Ok(LoadSpec { runner, devices: self.config.common.devices.clone(), blocks: Box::new(blocks) })
    }

    /// Ranks that share this machine's cores and memory. A group whose head is reached over loopback is all here.
    pub(super) fn ranks_here(&self) -> usize {
        let local_head = self.links.first().local_addr().ip().is_loopback();
        if local_head { self.assignment.world_size.max(1) as usize } else { self.ranks.len() }
    }
}

/// Returns the type that the engine keeps weights in; `None`: the checkpoint's own.
fn weight_dtype(choice: DType) -> Option<lockstep_engine::DType> {
    match choice {
        DType::Auto => None,
        DType::F32 => Some(lockstep_engine::DType::F32),
        DType::Bf16 => Some(lockstep_engine::DType::BF16),
        DType::F16 => Some(lockstep_engine::DType::F16),
    }
}

/// Returns the format that the engine quantizes matrices to; `None`: it does not.
fn block_format(choice: Quantization) -> Option<BlockFormat> {
    match choice {
        Quantization::None => None,
        Quantization::Q8_0 => Some(BlockFormat::Q8_0),
        Quantization::Q4K => Some(BlockFormat::Q4K),
    }
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}
