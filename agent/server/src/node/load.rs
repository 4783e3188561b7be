//! Loading: the settings with which each local rank loads its part of the model that the head assigned.

use std::sync::Arc;

use anyhow::Context as _;
use lockstep_collectives::Grid;
use lockstep_engine::source::ModelFiles;
use lockstep_engine::{BlockFormat, Devices, PlacedLayers, RunnerConfig};

use super::rank::LoadSpec;
use super::{Node, memory};
use crate::config::{DType, Quantization};

impl Node {
    /// Returns the settings with which a local rank loads.
    pub(super) fn load_spec(&self, local_rank: usize, files: Arc<dyn ModelFiles>) -> anyhow::Result<LoadSpec> {
        let assignment = self.session.assignment().clone();
        self.config.common.devices.check_group(assignment.world_size, &self.config.ring)?;
        let (rank, world_size) = (assignment.first_rank as usize + local_rank, assignment.world_size as usize);
        let stages = assignment.pipeline_parallel_size as usize;
        let grid = Grid::new(rank, world_size, stages)
            .with_context(|| format!("the head's assignment puts rank {rank} of {world_size} into {stages} stages"))?;
        let num_cores = num_cores();
        let ranks_on_machine = self.ranks_on_machine();
        let threads = match self.config.common.threads {
            Some(threads) => threads as usize,
            None => (num_cores / ranks_on_machine).max(1),
        };
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
            oversubscribed: threads * ranks_on_machine > num_cores,
            isa: self.config.common.isa.clone(),
            // The rank's own thread opens the devices.
            devices: Devices::default(),
            progress: self.ranks[local_rank].counters.progress.clone(),
        };
        let kv_cache_is_fixed = assignment.kv_cache_bytes > 0;
        let count_blocks = move |places: &[PlacedLayers]| {
            let blocks = memory::count_blocks(&assignment, places, ranks_on_machine as u64, memory::free_bytes());
            memory::check_blocks(blocks, places, &assignment)
        };
        let (devices, count_blocks) = (self.config.common.devices.clone(), Box::new(count_blocks));
        Ok(LoadSpec { runner, devices, count_blocks, kv_cache_is_fixed })
    }

    /// Returns the number of ranks that share this machine's cores and memory. If the ring ports listen on loopback,
    /// the whole group is on this machine.
    pub(super) fn ranks_on_machine(&self) -> usize {
        let group_is_local = self.ring_ports.first().local_addr().ip().is_loopback();
        if group_is_local { self.session.assignment().world_size.max(1) as usize } else { self.ranks.len() }
    }
}

/// Returns the number of cores that this process may use.
pub(super) fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Returns the type in which the engine keeps weights, or `None` for the checkpoint's own type.
fn weight_dtype(choice: DType) -> Option<lockstep_engine::DType> {
    match choice {
        DType::Auto => None,
        DType::F32 => Some(lockstep_engine::DType::F32),
        DType::Bf16 => Some(lockstep_engine::DType::BF16),
        DType::F16 => Some(lockstep_engine::DType::F16),
    }
}

/// Returns the format to which the engine quantizes matrices, or `None` if it quantizes none.
fn block_format(choice: Quantization) -> Option<BlockFormat> {
    match choice {
        Quantization::None => None,
        Quantization::Q8_0 => Some(BlockFormat::Q8_0),
        Quantization::Q6K => Some(BlockFormat::Q6K),
        Quantization::Q5K => Some(BlockFormat::Q5K),
        Quantization::Q5_1 => Some(BlockFormat::Q5_1),
        Quantization::Q5_0 => Some(BlockFormat::Q5_0),
        Quantization::Q4K => Some(BlockFormat::Q4K),
        Quantization::Q4_1 => Some(BlockFormat::Q4_1),
        Quantization::Q4_0 => Some(BlockFormat::Q4_0),
        Quantization::Iq4Nl => Some(BlockFormat::Iq4Nl),
        Quantization::Iq4Xs => Some(BlockFormat::Iq4Xs),
        Quantization::Mxfp4 => Some(BlockFormat::Mxfp4),
        Quantization::Q3K => Some(BlockFormat::Q3K),
        Quantization::Q2K => Some(BlockFormat::Q2K),
        Quantization::Tq2_0 => Some(BlockFormat::Tq2_0),
        Quantization::Tq1_0 => Some(BlockFormat::Tq1_0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_a_format_that_is_made() {
        for choice in Quantization::ALL {
            let format = block_format(*choice);
            assert_eq!(format.map_or("none", BlockFormat::name), choice.as_str());
            assert!(format.is_none_or(BlockFormat::is_encodable), "{choice}");
        }
    }
}
