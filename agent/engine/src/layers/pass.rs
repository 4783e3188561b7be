//! One pass through a model: the batch, and what layers compute and talk with.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};
use lockstep_collectives::{CollectiveError, Communicator, SliceMut};
use lockstep_kernels::{AttentionSeq, Context};

use crate::EngineError;

/// The tokens of one step, sequence after sequence.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// One id a row; none on a stage that has no embedding.
    pub ids: Vec<u32>,
    /// One position a row.
    pub positions: Vec<u32>,
    /// Which rows belong to which sequence, in order.
    pub seqs: Vec<AttentionSeq<'a>>,
}

/// What every layer of one pass is given.
pub struct Pass<'a> {
    pub kernels: &'a Context,
    pub batch: &'a Batch<'a>,
    /// Of this stage's ranks.
    pub communicator: &'a mut dyn Communicator,
    pub progress: &'a AtomicU64,
}

impl Pass<'_> {
    /// The same pass, computed with `kernels`.
    pub fn on<'b>(&'b mut self, kernels: &'b Context) -> Pass<'b> {
        Pass { kernels, batch: self.batch, communicator: &mut *self.communicator, progress: self.progress }
    }

    /// Says that something moved.
    pub fn tick(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum of every rank's `x`, in rank order, in the memory of `x`: a fresh result that nothing else refers to. What
    /// is not in the host's memory goes there and comes back.
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

/// An all-reduce as an operation in place, so that a tensor's own memory is what is sent and received.
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
