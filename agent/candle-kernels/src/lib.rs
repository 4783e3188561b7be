//! Kernels of candle's CUDA backend as modules of PTX, under the names by which candle-core asks for them.
//!
//! nvcc has made the PTX of `ptx/` from the sources in `cuda/` for compute capability 8.0, and the driver translates it for the
//! GPU that it finds. `compile` makes it anew, and a test holds both together. Entries that are missing here fail by name when
//! candle asks the driver for them.

/// A module of candle's backend.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Id {
    Affine,
    Binary,
    Cast,
    Conv,
    Fill,
    Indexing,
    Quantized,
    Reduce,
    Sort,
    Ternary,
    Unary,
}

/// All modules, in the order of their indices.
pub const ALL_IDS: [Id; 11] = [
    Id::Affine,
    Id::Binary,
    Id::Cast,
    Id::Conv,
    Id::Fill,
    Id::Indexing,
    Id::Quantized,
    Id::Reduce,
    Id::Sort,
    Id::Ternary,
    Id::Unary,
];

/// A module's PTX.
pub struct Module {
    id: Id,
    ptx: &'static str,
}

impl Module {
    /// Returns the place of the module in [`ALL_IDS`].
    #[must_use]
    pub fn index(&self) -> usize {
        self.id as usize
    }

    /// Returns the text of the module.
    #[must_use]
    pub fn ptx(&self) -> &'static str {
        self.ptx
    }
}

/// A module without kernels, for those that no model of ours needs.
const EMPTY: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

pub const AFFINE: Module = Module { id: Id::Affine, ptx: include_str!("../ptx/affine.ptx") };
pub const BINARY: Module = Module { id: Id::Binary, ptx: include_str!("../ptx/binary.ptx") };
pub const CAST: Module = Module { id: Id::Cast, ptx: include_str!("../ptx/cast.ptx") };
pub const CONV: Module = Module { id: Id::Conv, ptx: EMPTY };
pub const FILL: Module = Module { id: Id::Fill, ptx: include_str!("../ptx/fill.ptx") };
pub const INDEXING: Module = Module { id: Id::Indexing, ptx: include_str!("../ptx/indexing.ptx") };
pub const QUANTIZED: Module = Module { id: Id::Quantized, ptx: EMPTY };
pub const REDUCE: Module = Module { id: Id::Reduce, ptx: include_str!("../ptx/reduce.ptx") };
pub const SORT: Module = Module { id: Id::Sort, ptx: EMPTY };
pub const TERNARY: Module = Module { id: Id::Ternary, ptx: include_str!("../ptx/ternary.ptx") };
pub const UNARY: Module = Module { id: Id::Unary, ptx: include_str!("../ptx/unary.ptx") };
