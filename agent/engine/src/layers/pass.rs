//! One pass through a model: the batch, the computing context and the communicator of the layers.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};
use lockstep_collectives::{CollectiveError, Communicator, SliceMut};
use lockstep_kernels::{AttentionSeq, Context};

use crate::EngineError;

/// Tokens of one step, sequence after sequence.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// Token id of each row. Empty on a stage that has no embedding.
    pub ids: Vec<u32>,
    /// Position of each row.
    pub positions: Vec<u32>,
    /// Rows of each sequence, in order.
    pub seqs: Vec<AttentionSeq<'a>>,
}

/// Data that every layer of one pass gets.
pub struct Pass<'a> {
    pub context: &'a Context,
    pub batch: &'a Batch<'a>,
    /// Communicator of this stage's ranks.
    pub communicator: &'a mut dyn Communicator,
    pub progress: &'a AtomicU64,
}

impl Pass<'_> {
    /// Returns the same pass, computed with `context`.
    pub fn with_context<'b>(&'b mut self, context: &'b Context) -> Pass<'b> {
        Pass { context, batch: self.batch, communicator: &mut *self.communicator, progress: self.progress }
    }

    /// Records progress of the step.
    pub fn tick(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Computes the sum of every rank's `x`, in rank order, in the memory of `x`. No other tensor may refer to this
    /// memory. A tensor on a device is copied to the host and back.
    ///
    /// # Errors
    /// [`EngineError::Collective`].
    pub fn all_reduce_sum(&mut self, x: Tensor) -> Result<Tensor, EngineError> {
        self.tick();
        if self.communicator.group().world_size() == 1 {
            return Ok(x);
        }
        let device = x.device().clone();
        let x = x.to_device(&Device::Cpu)?;
        let op = AllReduce { communicator: RefCell::new(&mut *self.communicator), failure: RefCell::new(None) };
        let result = x.inplace_op1(&op);
        if let Some(failure) = op.failure.into_inner() {
            return Err(failure.into());
        }
        result?;
        self.tick();
        Ok(x.to_device(&device)?)
    }
}

/// All-reduce as an operation in place, so that the ranks send and receive a tensor's own memory.
struct AllReduce<'a> {
    communicator: RefCell<&'a mut dyn Communicator>,
    failure: RefCell<Option<CollectiveError>>,
}

impl InplaceOp1 for AllReduce<'_> {
    fn name(&self) -> &'static str {
        "all-reduce"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("all-reduce needs contiguous f32")
        };
        let slice = SliceMut::F32(&mut values[start..end]);
        if let Err(failure) = self.communicator.borrow_mut().all_reduce_sum(slice) {
            self.failure.replace(Some(failure));
        }
        Ok(())
    }
}
