//! Blocks of 256 columns that the product decodes before it reads them.

use std::marker::PhantomData;

use super::GROUP_SIZE;
use super::layout::{BlockLayout, Float, QUADS, array_at};
use crate::context::Context;
use crate::simd::int8::{Int8Kernel, Int8Simd, VECTOR_BYTES};
use crate::simd::{LANES, Simd, dispatch_int8};

/// Columns of a block.
pub(super) const COLUMNS: usize = 256;
/// Groups of 32 columns in a block.
pub(super) const GROUPS: usize = COLUMNS / GROUP_SIZE;
/// Vectors of four columns in a group.
pub(super) const GROUP_VECTORS: usize = 2 * QUADS;

const GROUP_BYTES: usize = GROUP_VECTORS * VECTOR_BYTES;
const SCALES_OFFSET: usize = GROUPS * GROUP_BYTES;
const SCALE_BYTES: usize = 4 * LANES;
/// Bytes of a decoded block.
pub(super) const BYTES: usize = SCALES_OFFSET + 2 * GROUPS * SCALE_BYTES;

/// The numbers of a panel's block: a byte for each, four columns of sixteen rows after another, and then up to sixteen
/// scales of sixteen rows in f32.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct DecodedBlock([u8; BYTES]);

impl DecodedBlock {
    pub(super) const ZERO: DecodedBlock = DecodedBlock([0; BYTES]);

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the vectors of a group.
    #[inline(always)]
    pub(super) fn group(&mut self, group: usize) -> &mut [[u8; VECTOR_BYTES]] {
        self.0[group * GROUP_BYTES..][..GROUP_BYTES].as_chunks_mut().0
    }

    #[inline(always)]
    pub(super) fn store_scales<S: Simd>(&mut self, s: S, index: usize, scales: S::V) {
        let mut lanes = [0.0; LANES];
        s.store(scales, &mut lanes);
        let (to, _) = self.0[SCALES_OFFSET + index * SCALE_BYTES..].as_chunks_mut::<4>();
        for lane in 0..LANES {
            to[lane] = lanes[lane].to_le_bytes();
        }
    }
}

/// Loads the scales that [`DecodedBlock::store_scales`] stored.
#[inline(always)]
pub(super) fn load_scales<S: Int8Simd>(s: S, block: &[u8], index: usize) -> Float<S> {
    let bytes: &[u8; SCALE_BYTES] = array_at(block, SCALES_OFFSET + index * SCALE_BYTES);
    let mut lanes = [0.0; LANES];
    for (lane, number) in lanes.iter_mut().enumerate() {
        *number = f32::from_le_bytes(*array_at(bytes, 4 * lane));
    }
    s.float().load(&lanes)
}

/// Loads four columns of sixteen rows.
#[inline(always)]
pub(super) fn load_quants<S: Int8Simd, const HALF: usize>(s: S, block: &[u8], group: usize, quad: usize) -> S::B {
    s.load(array_at(block, group * GROUP_BYTES + (HALF * QUADS + quad) * VECTOR_BYTES))
}

/// Implements the functions of [`BlockLayout`] that read a decoded block, with `$scales` of them for each group.
macro_rules! read_decoded_blocks {
    ($scales:literal) => {
        const SCALES_PER_GROUP: usize = $scales;
        const IS_DECODED: bool = true;

        #[inline(always)]
        fn scales<S: Int8Simd>(s: S, block: &[u8], group: usize, half: usize) -> Float<S> {
            decoded::load_scales(s, block, group * $scales + half * ($scales - 1))
        }
        #[inline(always)]
        fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, block: &[u8], group: usize, quad: usize) -> S::B {
            decoded::load_quants::<S, HALF>(s, block, group, quad)
        }
    };
}
pub(super) use read_decoded_blocks;

/// Decodes a panel's block with the context's instruction set.
pub(super) fn decode<L: BlockLayout>(ctx: &Context, panel: &[u8], to: &mut DecodedBlock) {
    dispatch_int8(ctx, Decoder::<L> { panel, to, layout: PhantomData });
}

struct Decoder<'a, L> {
    panel: &'a [u8],
    to: &'a mut DecodedBlock,
    layout: PhantomData<L>,
}

impl<L: BlockLayout> Int8Kernel for Decoder<'_, L> {
    #[inline(always)]
    fn run<S: Int8Simd>(self, s: S) {
        L::decode(s, self.panel, self.to);
    }
}
