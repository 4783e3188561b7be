//! Products of small matrices and their loads (PTX ISA 9.0, 9.7.14).

use half::{bf16, f16};

use super::Use;
use super::block::Block;
use super::transfer::LaneFault;
use super::warp::ALL;
use crate::compile::{Address, Element, Operation, Space};
use crate::isa::LANES;

/// Rows of the result of an `mma`, and its columns.
const ROWS: usize = 16;
const COLUMNS: usize = 8;

impl Block<'_> {
    pub(super) fn use_matrices(&mut self, warp: usize, mask: u32, operation: &Operation) -> Result<(), LaneFault> {
        if mask != ALL {
            return Err((None, "a product of matrices in which some lanes do not take part".into()));
        }
        match operation {
            Operation::MultiplyMatrices { element, out, left, right, sum } => {
                self.multiply(warp, *element, out, [left, right], sum);
                Ok(())
            }
            Operation::LoadMatrices { transposed, out, address } => {
                self.load_matrices(warp, *transposed, out, *address)
            }
            _ => Err((None, "an operation that nothing carries out".into())),
        }
    }

    /// Adds the product of a 16 × k and a k × 8 matrix to `sum`. Lane `4g + t` holds columns `2t` and `2t + 1` of row `g`.
    fn multiply(&mut self, warp: usize, element: Element, out: &[u32; 4], [left, right]: [&[u32]; 2], sum: &[u32; 4]) {
        let words = &self.warps[warp].words;
        let depth = 8 * right.len();
        let halves = |word: u32| {
            let half = |bits: u16| match element {
                Element::F16 => f16::from_bits(bits).to_f32(),
                Element::Bf16 => bf16::from_bits(bits).to_f32(),
            };
            [half(word as u16), half((word >> 16) as u16)]
        };
        let (mut a, mut b) = ([[0_f32; 16]; ROWS], [[0_f32; COLUMNS]; 16]);
        for (index, register) in left.iter().enumerate() {
            for (lane, word) in words[*register as usize].iter().enumerate() {
                let (row, column) = (lane / 4 + 8 * (index % 2), 2 * (lane % 4) + 8 * (index / 2));
                [a[row][column], a[row][column + 1]] = halves(*word);
            }
        }
        for (index, register) in right.iter().enumerate() {
            for (lane, word) in words[*register as usize].iter().enumerate() {
                let (row, column) = (2 * (lane % 4) + 8 * index, lane / 4);
                [b[row][column], b[row + 1][column]] = halves(*word);
            }
        }
        let mut results = [[0_u32; LANES]; 4];
        for (index, result) in results.iter_mut().enumerate() {
            for (lane, result) in result.iter_mut().enumerate() {
                let (row, column) = (lane / 4 + 8 * (index / 2), 2 * (lane % 4) + index % 2);
                let first = f32::from_bits(words[sum[index] as usize][lane]);
                *result = (0..depth).fold(first, |sum, k| sum + a[row][k] * b[k][column]).to_bits();
            }
        }
        for (register, result) in out.iter().zip(&results) {
            self.warps[warp].put_words(*register, result, ALL);
        }
    }

    /// Loads 8 × 8 matrices of 16-bit elements. Lane `8m + r` gives the address of row `r` of matrix `m`.
    fn load_matrices(&mut self, warp: usize, transposed: bool, out: &[u32], address: Address) -> Result<(), LaneFault> {
        for (matrix, register) in out.iter().enumerate() {
            let mut rows = [[0_u16; 8]; 8];
            for (row, elements) in rows.iter_mut().enumerate() {
                let lane = 8 * matrix + row;
                let place = self.find(warp, lane, Space::Shared, address, 16, Use::READS)?;
                for (column, element) in elements.iter_mut().enumerate() {
                    *element = self.read(warp, place, 2 * column, 2).map_err(|what| (Some(lane), what))? as u16;
                }
            }
            let result = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let [low, high] = if transposed {
                    [rows[column][row], rows[column + 1][row]]
                } else {
                    [rows[row][column], rows[row][column + 1]]
                };
                u32::from(high) << 16 | u32::from(low)
            });
            self.warps[warp].put_words(*register, &result, ALL);
        }
        Ok(())
    }
}
