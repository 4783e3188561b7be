//! Placement of a rank's layers on its devices. Usually one place holds all of them. A rank with several devices has a run
//! of layers on each, by their free memory, and the rest on the CPU. The residual stream moves from run to run.

mod accelerator;
mod plan;
mod sizes;

use std::ops::Range;

use lockstep_kernels::Context;

pub use accelerator::Accelerator;
pub use sizes::{Sizes, StepSize};

use crate::EngineError;

/// Devices that a rank may compute on.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// Devices in the order that layers go to them. With none, the CPU has all layers.
    pub accelerators: Vec<Accelerator>,
    /// True if layers that fit on none of them may lie on the CPU.
    pub rest_on_cpu: bool,
}

/// A run of layers in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedLayers {
    /// Name of the device: `cpu (avx2)`, `cuda:0`, ….
    pub device: String,
    /// Indices of the layers in the whole model.
    pub layers: Range<usize>,
    /// Bytes of weights in this place, those of the embedding and the output projection included.
    pub weight_bytes: u64,
    /// Bytes of one block of the KV cache, for these layers together.
    pub bytes_per_block: u64,
    /// Bytes that the device has free for the KV cache. `None`: the cache lies in the host's memory.
    pub free_bytes: Option<u64>,
}

/// Contiguous runs of layers, in order; none is empty.
#[derive(Debug, Clone)]
pub struct Placement {
    parts: Vec<Part>,
    /// Bytes that one step takes on a device beside weights and cache.
    working_bytes: u64,
}

#[derive(Debug, Clone)]
struct Part {
    context: Context,
    /// The device. `None`: the CPU.
    accelerator: Option<Accelerator>,
    layers: Range<usize>,
    weight_bytes: u64,
}

/// Divisor of the share of free memory that stays free on a device: one part in 20.
const SPARE_PARTS: u64 = 20;

impl Placement {
    /// Places a stage's `layers` on `devices`, and the rest on the CPU, whose context is `host`. `cache` is the number
    /// of bytes that one position takes in the KV cache of one layer.
    ///
    /// # Errors
    /// [`EngineError::DeviceMemory`] if the layers do not fit and the rest must not be on the CPU, and those of the
    /// driver.
    pub fn new(
        devices: &Devices,
        host: &Context,
        layers: Range<usize>,
        sizes: &Sizes,
        cache: u64,
        step: &StepSize,
    ) -> Result<Self, EngineError> {
        let costs = sizes.costs(cache, step);
        let free = devices.accelerators.iter().map(|accelerator| Ok(usable_bytes(accelerator.free_bytes(0)?)));
        let free = free.collect::<Result<Vec<_>, EngineError>>()?;
        let counts = plan::spread(&costs, &free);
        let placed: usize = counts.iter().sum();
        if placed < layers.len() && !devices.accelerators.is_empty() && !devices.rest_on_cpu {
            let (needed, free) = (costs.total_bytes(), free.iter().sum());
            return Err(EngineError::DeviceMemory { fit: placed, layers: layers.len(), needed, free });
        }
        let places = devices.accelerators.iter().map(Some).zip(counts).chain([(None, layers.len() - placed)]);
        let mut next = 0;
        let part = |(accelerator, count): (Option<&Accelerator>, usize)| {
            let run = next..next + count;
            next = run.end;
            Part {
                context: accelerator.map_or_else(|| host.clone(), |accelerator| accelerator.context(host)),
                accelerator: accelerator.cloned(),
                weight_bytes: sizes.run_bytes(&run),
                layers: layers.start + run.start..layers.start + run.end,
            }
        };
        let parts = places.filter(|(_, count)| *count > 0).map(part).collect();
        Ok(Self { parts, working_bytes: step.working_bytes })
    }

    /// Returns the context that computes the first layer and the embedding.
    pub fn first(&self) -> &Context {
        &self.parts[0].context
    }

    /// Returns the context that computes the last layer and the output projection.
    pub fn last(&self) -> &Context {
        &self.parts[self.parts.len() - 1].context
    }

    /// Returns the context that computes a layer, by its index in the whole model.
    pub fn context_of(&self, layer: usize) -> &Context {
        self.parts.iter().find(|part| part.layers.contains(&layer)).map_or_else(|| self.last(), |part| &part.context)
    }

    /// Returns the runs as they are now. `block` is the number of bytes of one block of one layer.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn runs(&self, block: u64) -> Result<Vec<PlacedLayers>, EngineError> {
        let run = |part: &Part| {
            let Part { context, accelerator, layers, weight_bytes } = part;
            let free = accelerator.as_ref().map(|accelerator| accelerator.free_bytes(*weight_bytes)).transpose()?;
            let free_bytes = free.map(|free| usable_bytes(free).saturating_sub(self.working_bytes));
            Ok(PlacedLayers {
                device: context.to_string(),
                layers: layers.clone(),
                weight_bytes: *weight_bytes,
                bytes_per_block: block * layers.len() as u64,
                free_bytes,
            })
        };
        self.parts.iter().map(run).collect()
    }
}

/// Returns the part of `free` bytes that may be used.
fn usable_bytes(free: u64) -> u64 {
    free - free / SPARE_PARTS
}
