//! Bounds and defaults of a group's settings, the same in the custom resource and in the agent's flags.
//!
//! A bound that is not here may differ. The custom resource allows a recovery timeout of at most 1 h, and the agent allows
//! one of at most 24 h.

/// Most ranks of a group. Each rank links to every other, so the bound also holds for a rank's sockets.
pub const MAX_WORLD_SIZE: u32 = 1024;
/// Most ranks of one node.
pub const MAX_LOCAL_WORLD_SIZE: u32 = 64;
/// Most pipeline stages of a group. As many plans, and one more, are on their way at once.
pub const MAX_STAGES: u32 = 64;

/// Most sequences that may run at once.
pub const MAX_NUM_SEQS: u32 = 4096;
/// Sequences that run at once by default.
pub const DEFAULT_NUM_SEQS: u32 = 64;

/// Most tokens of one step.
pub const MAX_NUM_BATCHED_TOKENS: u32 = 1 << 20;
/// Tokens of one step by default.
pub const DEFAULT_NUM_BATCHED_TOKENS: u32 = 4096;

/// Most tokens of one sequence.
pub const MAX_CONTEXT_LENGTH: u32 = 1 << 24;

/// Percentage of free memory that the KV cache of a rank takes by default, on devices and in Kubernetes.
pub const DEFAULT_KV_CACHE_PERCENT: u16 = 90;

/// Seconds that a request waits by default for its group to form again.
pub const DEFAULT_RECOVERY_TIMEOUT_S: u64 = 120;
