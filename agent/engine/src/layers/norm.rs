//! RMS norms, and the residual stream that they read.

use candle_core::{Device, Tensor};
use lockstep_kernels::{add_rms_norm, rms_norm};

use super::Pass;
use crate::EngineError;
use crate::config::ModelConfig;
use crate::loader::Loader;

/// RMS norm `x / sqrt(mean(x²) + eps) · weight`, where the weight is the stored one plus the family's offset.
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub fn load(loader: &Loader<'_>, name: &str, size: usize, config: &ModelConfig) -> Result<Self, EngineError> {
        let stored = loader.vector(&format!("{name}.weight"), size)?;
        let offset = config.norm_offset;
        let weight = if offset == 0.0 { stored } else { (stored + f64::from(offset))? };
        Ok(Self { weight, eps: config.rms_norm_eps })
    }

    /// Computes the norm of each row of `[tokens, hidden]`.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        Ok(rms_norm(pass.context, x, &self.weight, self.eps)?)
    }

    /// Computes the norm of the stream, and adds the pending summand on the way.
    pub fn forward_residual(&self, pass: &Pass<'_>, stream: &mut Residual) -> Result<Tensor, EngineError> {
        match stream.pending.take() {
            None => self.forward(pass, &stream.sum),
            Some(added) => {
                let (sum, normed) = add_rms_norm(pass.context, &added, &stream.sum, &self.weight, self.eps)?;
                stream.sum = sum;
                Ok(normed)
            }
        }
    }

    /// Computes the norm of each head of `[tokens, heads, head_dim]`.
    pub fn forward_heads(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let (tokens, heads, head_dim) = x.dims3()?;
        let rows = x.reshape((tokens * heads, head_dim))?;
        Ok(self.forward(pass, &rows)?.reshape((tokens, heads, head_dim))?)
    }
}

/// Residual stream `[tokens, hidden]` in f32. The last summand waits until the next norm adds it.
pub struct Residual {
    sum: Tensor,
    pending: Option<Tensor>,
}

impl Residual {
    pub fn new(x: Tensor) -> Self {
        Self { sum: x, pending: None }
    }

    /// Adds `x`. A norm must lie between two additions.
    pub fn add(&mut self, x: Tensor) {
        debug_assert!(self.pending.is_none(), "two additions without a norm between them");
        self.pending = Some(x);
    }

    /// Moves the stream to `device`. Returns true if it was elsewhere.
    pub fn move_to(&mut self, device: &Device) -> Result<bool, EngineError> {
        if self.sum.device().same_device(device) {
            return Ok(false);
        }
        self.sum = self.sum.to_device(device)?;
        self.pending = self.pending.take().map(|added| added.to_device(device)).transpose()?;
        Ok(true)
    }

    /// Returns the device of the stream.
    pub fn device(&self) -> &Device {
        self.sum.device()
    }

    /// Returns the stream with its last summand added, as the next stage takes it.
    pub fn into_sum(self) -> Result<Tensor, EngineError> {
        match self.pending {
            None => Ok(self.sum),
            Some(added) => Ok((added + self.sum)?),
        }
    }

    /// Returns the stream of some rows.
    pub fn select_rows(&self, rows: &Tensor) -> Result<Self, EngineError> {
        let pending = self.pending.as_ref().map(|added| added.index_select(rows, 0)).transpose()?;
        Ok(Self { sum: self.sum.index_select(rows, 0)?, pending })
    }
}
