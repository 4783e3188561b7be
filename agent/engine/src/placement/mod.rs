//! Where a rank's layers are. Usually that is one place; a rank that has several devices for itself has runs of layers
//! on each, by their free memory, and the rest on the CPU. The residual stream moves on from run to run.

mod accelerator;
mod plan;
mod sizes;

use std::ops::Range;

use lockstep_kernels::Context;

pub use accelerator::Accelerator;
pub use sizes::{Sizes, StepSize};

use crate::EngineError;

/// What a rank may compute on.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// In the order that layers go to them; none: the CPU has all.
    pub accelerators: Vec<Accelerator>,
    /// Whether layers that fit on none of them may lie on the CPU.
    pub rest_on_cpu: bool,
}

/// A run of layers in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedLayers {
    /// `cpu (avx2)`, `cuda:0`, ….
    pub device: String,
    /// By their index in the whole model.
    pub layers: Range<usize>,
    /// Bytes of weights there, the embedding's and the output projection's among them.
    pub weight_bytes: u64,
    /// Bytes of one block of the KV cache, of these layers together.
    pub bytes_per_block: u64,
    /// What the device has free for the KV cache; `None`: it is the host's memory.
    pub free_bytes: Option<u64>,
}

/// Contiguous runs of layers, in order; none is empty.
#[derive(Debug, Clone)]
pub struct Placement {
    parts: Vec<Part>,
    /// What one step takes on a device beside weights and cache.
    working: u64,
}

#[derive(Debug, Clone)]
struct Part {
    context: Context,
    /// `None`: the host's memory.
    accelerator: Option<Accelerator>,
    layers: Range<usize>,
    weight_bytes: u64,
}

/// Free memory that is left alone on a device: one part of so many.
const SPARE: u64 = 20;

impl Placement {
    /// Places a stage's `layers` over `devices`, the rest on the CPU with `host`. `cache`: bytes that one position of one
    /// layer takes.
    ///
    /// # Errors
    /// [`EngineError::DeviceMemory`] where they do not fit and the rest must not be on the CPU; the driver's.
    pub fn new(
        devices: &Devices,
        host: &Context,
        layers: Range<usize>,
        sizes: &Sizes,
        cache: u64,
        step: &StepSize,
    ) -> Result<Self, EngineError> {
        let costs = sizes.costs(cache, step);
        let free = devices.accelerators.iter().map(|accelerator| Ok(usable(accelerator.free_bytes(0)?)));
        let free = free.collect::<Result<Vec<_>, EngineError>>()?;
        let counts = plan::spread(&costs, &free);
        let placed: usize = counts.iter().sum();
        if placed < layers.len() && !devices.accelerators.is_empty() && !devices.rest_on_cpu {
            let (needed, free) = (costs.all(), free.iter().sum());
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
                weight_bytes: sizes.of_run(&run),
                layers: layers.start + run.start..layers.start + run.end,
            }
        };
        let parts = places.filter(|(_, count)| *count > 0).map(part).collect();
        Ok(Self { parts, working: step.working_bytes })
    }

    /// What computes the first layer, and the embedding.
    pub fn first(&self) -> &Context {
        &self.parts[0].context
    }

    /// What computes the last layer, and the output projection.
    pub fn last(&self) -> &Context {
        &self.parts[self.parts.len() - 1].context
    }

    /// What computes a layer, by its index in the whole model.
    pub fn of(&self, layer: usize) -> &Context {
        self.parts.iter().find(|part| part.layers.contains(&layer)).map_or_else(|| self.last(), |part| &part.context)
    }

    /// The runs, as they are now. `block`: bytes of one block of one layer.
    ///
    /// # Errors
    /// The driver's.
    pub fn runs(&self, block: u64) -> Result<Vec<PlacedLayers>, EngineError> {
        let run = |part: &Part| {
            let Part { context, accelerator, layers, weight_bytes } = part;
            let free = accelerator.as_ref().map(|accelerator| accelerator.free_bytes(*weight_bytes)).transpose()?;
            let free_bytes = free.map(|free| usable(free).saturating_sub(self.working));
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

fn usable(free: u64) -> u64 {
    free - free / SPARE
}
