//! Products of matrices in memory of the emulated GPU, whose addresses are addresses of this process.

use std::ffi::{c_int, c_uint};

use half::{bf16, f16};
use lockstep_emulated_gpu::foreign::{ForeignUse, submit};

/// Partial sums of a product, which the compiler keeps in one vector.
const LANES: usize = 8;

/// Type of a matrix's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// Parses a `cudaDataType`.
    pub(crate) fn parse(kind: c_int) -> Option<Self> {
        match kind {
            0 => Some(Self::F32),
            2 => Some(Self::F16),
            14 => Some(Self::Bf16),
            _ => None,
        }
    }

    fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// Matrices by columns, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) address: u64,
    pub(crate) kind: Kind,
    /// Numbers from one column to the next.
    pub(crate) rows: usize,
    /// Numbers from one matrix to the next.
    pub(crate) stride: usize,
    pub(crate) transposed: bool,
}

impl Matrix {
    fn place(&self, batch: usize, row: usize, column: usize) -> u64 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.address + ((batch * self.stride + column * self.rows + row) * self.kind.size()) as u64
    }

    fn get(&self, batch: usize, row: usize, column: usize) -> f32 {
        let at = self.place(batch, row, column);
        // SAFETY: the driver has checked the whole of the matrices.
        unsafe {
            match self.kind {
                Kind::F32 => *(at as *const f32),
                Kind::F16 => (*(at as *const f16)).to_f32(),
                Kind::Bf16 => (*(at as *const bf16)).to_f32(),
            }
        }
    }

    fn put(&self, batch: usize, row: usize, column: usize, value: f32) {
        let at = self.place(batch, row, column);
        // SAFETY: as above, and nothing else uses the memory in the stream's order.
        unsafe {
            match self.kind {
                Kind::F32 => *(at as *mut f32) = value,
                Kind::F16 => *(at as *mut f16) = f16::from_f32(value),
                Kind::Bf16 => *(at as *mut bf16) = bf16::from_f32(value),
            }
        }
    }

    /// Returns the memory of `batches` matrices of `rows` × `columns`, as they are seen.
    fn used(&self, batches: usize, rows: usize, columns: usize, writes: bool) -> ForeignUse {
        let last = self.place(batches - 1, rows - 1, columns - 1) + self.kind.size() as u64;
        ForeignUse { address: self.address, bytes: (last - self.address) as usize, reads: !writes, writes }
    }
}

/// A product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm {
    /// Rows and columns of the result, the length of the sums, and the number of products.
    pub(crate) sizes: [usize; 4],
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
}

impl Gemm {
    pub(crate) fn submit(self, stream: usize) -> c_uint {
        let [m, n, k, batch] = self.sizes;
        if m * n * batch == 0 {
            return 0;
        }
        let mut uses = vec![self.c.used(batch, m, n, true)];
        uses[0].reads = self.beta != 0.0;
        if k > 0 {
            uses.extend([self.a.used(batch, m, k, false), self.b.used(batch, k, n, false)]);
        }
        submit(stream, c"cublasGemmStridedBatchedEx", &uses, move || self.run())
    }

    fn run(&self) {
        let [m, n, k, batch] = self.sizes;
        let (mut rows, mut columns) = (vec![0.0; m * k], vec![0.0; n * k]);
        for z in 0..batch {
            for (i, row) in rows.chunks_exact_mut(k.max(1)).enumerate() {
                row.iter_mut().enumerate().for_each(|(l, value)| *value = self.a.get(z, i, l));
            }
            for (j, column) in columns.chunks_exact_mut(k.max(1)).enumerate() {
                column.iter_mut().enumerate().for_each(|(l, value)| *value = self.b.get(z, l, j));
            }
            for i in 0..m {
                for j in 0..n {
                    let sum = self.alpha * dot(&rows[i * k..(i + 1) * k], &columns[j * k..(j + 1) * k]);
                    let old = if self.beta == 0.0 { 0.0 } else { self.beta * self.c.get(z, i, j) };
                    self.c.put(z, i, j, sum + old);
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}
