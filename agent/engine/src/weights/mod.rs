//! Weights in files, read slice by slice. A rank reads its own rows and columns, and nothing else.
//!
//! Format: <https://huggingface.co/docs/safetensors>. Headers are checked before anything is allocated from them.

mod header;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::BlockFormat;

use crate::EngineError;
use crate::config::PackedLayout;
use crate::entry::{Entry, RowOrder, Stored};
use crate::gguf;
use crate::packed::{self, CodedPart, PackedMatrix};
use crate::source::{GGUF_FILE, Index, ModelFiles};
use crate::tensor_reader::TensorReader;
pub use header::check_safetensors;

/// All tensors of a model, by name.
#[derive(Debug)]
pub struct Weights {
    reader: TensorReader,
    entries: HashMap<String, Entry>,
    packed: HashMap<String, PackedMatrix>,
}

impl Weights {
    /// Reads the headers of all weight files, and finds the packed matrices of a quantized checkpoint.
    ///
    /// # Errors
    /// [`EngineError::Missing`], [`EngineError::Truncated`], [`EngineError::Format`], [`EngineError::Config`].
    pub fn open(files: Arc<dyn ModelFiles>) -> Result<Self, EngineError> {
        let index = Index::from_files(files.as_ref())?;
        let mut entries = HashMap::new();
        let shards = index.shards();
        if shards.first().is_some_and(|shard| shard == GGUF_FILE) {
            let entries = gguf::entries(&gguf::read_parts(files.as_ref(), shards)?)?;
            return Ok(Self { reader: TensorReader::new(files), entries, packed: HashMap::new() });
        }
        for shard in shards {
            for (name, entry) in header::read_header(files.as_ref(), shard)? {
                if let Some(other) = entries.insert(name.clone(), entry) {
                    let reason = format!("tensor `{name}` is in {} too", other.file);
                    return Err(EngineError::format(shard, reason));
                }
            }
        }
        let layout = PackedLayout::from_files(files.as_ref())?;
        let reader = TensorReader::new(files);
        let packed = layout.map(|layout| packed::assemble(&mut entries, layout, &reader)).transpose()?;
        Ok(Self { reader, entries, packed: packed.unwrap_or_default() })
    }

    /// Returns true if the tensors come out of a GGUF file, in which they have names of their own.
    pub fn is_gguf(&self) -> bool {
        self.entries.values().next().is_some_and(|entry| entry.file.ends_with(".gguf"))
    }

    /// Returns the number of elements of all tensors. A tied output projection counts once, though some checkpoints have it
    /// twice.
    pub fn parameters(&self, tied: bool) -> u64 {
        let again = |name: &String| tied && name.ends_with("lm_head.weight");
        let entries = self.entries.iter().filter(|(name, _)| !again(name));
        entries.map(|(_, entry)| entry.shape.iter().product::<usize>() as u64).sum()
    }

    /// Estimates the bytes that one of `world_size` ranks reads. Matrices are split, vectors are not.
    pub fn bytes_per_rank(&self, world_size: usize) -> u64 {
        let parts = |entry: &Entry| if entry.is_matrix() { world_size as u64 } else { 1 };
        self.entries.values().map(|entry| entry.bytes / parts(entry)).sum()
    }

    /// Returns the entry of a tensor.
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Iterates over all tensors, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Returns the type that most of the weights are stored in, or the type that goes with their blocks; f32 if no weight has
    /// a supported type.
    pub fn main_dtype(&self) -> DType {
        if self.main_blocks().is_some() {
            // Blocks have scales in f16. The norms in f32 beside them say nothing about the cache.
            return DType::F16;
        }
        let types = [DType::BF16, DType::F16, DType::F32];
        types.into_iter().max_by_key(|dtype| self.numbers_in(|entry| is_float(entry, *dtype))).unwrap_or(DType::F32)
    }

    /// Returns the name of the quantized format of most of the weights, if it has more of them than any floating-point type.
    pub fn main_format(&self) -> Option<&'static str> {
        self.main_blocks().map(BlockFormat::name).or_else(|| {
            let mut packed: Vec<_> = self.entries.values().filter_map(packed_format).collect();
            packed.sort_unstable();
            packed.dedup();
            let numbers = |format: &&str| self.numbers_in(|entry| packed_format(entry) == Some(format));
            packed.into_iter().max_by_key(numbers).filter(|format| self.is_above_floats(numbers(format)))
        })
    }

    fn main_blocks(&self) -> Option<BlockFormat> {
        let numbers = |format: &BlockFormat| self.numbers_in(|entry| entry.stored == Stored::Blocks(*format));
        let most = BlockFormat::ALL.into_iter().max_by_key(numbers)?;
        self.is_above_floats(numbers(&most)).then_some(most)
    }

    fn is_above_floats(&self, numbers: u64) -> bool {
        let floats = [DType::BF16, DType::F16, DType::F32].map(|dtype| self.numbers_in(|entry| is_float(entry, dtype)));
        floats.iter().all(|floats| *floats < numbers)
    }

    /// Returns the number of weights in the tensors that `is_counted` selects.
    fn numbers_in(&self, is_counted: impl Fn(&Entry) -> bool) -> u64 {
        let counted = self.entries.values().filter(|entry| is_counted(entry));
        counted.map(|entry| entry.shape.iter().product::<usize>() as u64).sum()
    }

    /// Returns the format of a tensor.
    ///
    /// # Errors
    /// [`EngineError::MissingTensor`].
    pub(crate) fn stored(&self, name: &str) -> Result<&Stored, EngineError> {
        Ok(&self.entry(name)?.stored)
    }

    /// Returns the bytes of tensors read so far, gaps of stripes included.
    pub fn bytes_read(&self) -> u64 {
        self.reader.bytes_read()
    }

    /// Reads rows (first dimension) of a tensor, in its stored type, to the host.
    ///
    /// # Errors
    /// [`EngineError::MissingTensor`], [`EngineError::Shape`] if the tensor is not `expected`,
    /// [`EngineError::Dtype`], and those of reading.
    pub fn rows(&self, name: &str, expected: &[usize], rows: Range<usize>) -> Result<Tensor, EngineError> {
        self.stacked(&[(name, expected[0], rows)], &expected[1..])
    }

    /// Reads rows of several tensors above one another. Each part is a name, the number of rows that the tensor has, and the
    /// rows to read. `row` is the shape of one row. If the tensors have different types, the result is in f32.
    ///
    /// # Errors
    /// Those of [`Weights::rows`].
    pub fn stacked(&self, parts: &[(&str, usize, Range<usize>)], row: &[usize]) -> Result<Tensor, EngineError> {
        let entry = |(name, num_rows, _): &(&str, usize, Range<usize>)| {
            let entry = self.expect(name, &[&[*num_rows], row].concat())?;
            Ok((entry, entry.dtype(name)?))
        };
        let entries = parts.iter().map(entry).collect::<Result<Vec<_>, EngineError>>()?;
        let dtype = entries.first().map_or(DType::F32, |(_, dtype)| *dtype);
        if entries.iter().any(|(_, other)| *other != dtype) {
            let parts =
                parts.iter().map(|part| Ok(self.stacked(std::slice::from_ref(part), row)?.to_dtype(DType::F32)?));
            return Ok(Tensor::cat(&parts.collect::<Result<Vec<_>, EngineError>>()?, 0)?);
        }
        let mut bytes = Vec::new();
        for ((entry, _), (.., rows)) in entries.iter().zip(parts) {
            let start = bytes.len();
            bytes.resize(start + rows.len() * row.iter().product::<usize>() * dtype.size_in_bytes(), 0);
            self.read_ordered(entry, rows, &mut bytes[start..])?;
        }
        let rows: usize = parts.iter().map(|(.., rows)| rows.len()).sum();
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &[&[rows], row].concat(), &Device::Cpu)?)
    }

    /// Reads columns (second dimension) of a matrix `[rows, columns]`, in its stored type, to the host.
    ///
    /// # Errors
    /// Those of [`Weights::rows`].
    pub fn columns(&self, name: &str, expected: [usize; 2], columns: Range<usize>) -> Result<Tensor, EngineError> {
        if columns == (0..expected[1]) {
            return self.rows(name, &expected, 0..expected[0]);
        }
        let entry = self.expect(name, &expected)?;
        let dtype = entry.dtype(name)?;
        let wanted = scale(&columns, dtype.size_in_bytes());
        let bytes = self.reader.read_rectangle(entry, entry.row_bytes(), &(0..entry.shape[0]), wanted)?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &[expected[0], columns.len()], &Device::Cpu)?)
    }

    /// Reads the blocks of some rows and columns of a quantized matrix `[rows, columns]`, row after row. The columns must
    /// begin a block. Either all rows or all columns must be asked for.
    ///
    /// # Errors
    /// Those of [`Weights::rows`].
    pub fn blocks(
        &self,
        name: &str,
        expected: [usize; 2],
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<Vec<u8>, EngineError> {
        let entry = self.expect(name, &expected)?;
        let Stored::Blocks(format) = entry.stored else { return Err(entry.refuse_dtype(name)) };
        let blocks = columns.start / format.columns()..columns.end.div_ceil(format.columns());
        if *columns != (0..expected[1]) {
            let wanted = scale(&blocks, format.bytes());
            return self.reader.read_rectangle(entry, entry.row_bytes(), &(0..entry.shape[0]), wanted);
        }
        let mut bytes = vec![0; rows.len() * entry.row_bytes()];
        self.read_ordered(entry, rows, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the factor of all numbers of a matrix in blocks, if the file has one.
    ///
    /// # Errors
    /// Those of [`Weights::rows`], and [`EngineError::Format`] if the factor is no number.
    pub(crate) fn factor(&self, name: &str) -> Result<Option<f32>, EngineError> {
        let Some(name) = name.strip_suffix(".weight").map(|stem| format!("{stem}.scale")) else { return Ok(None) };
        let Some(entry) = self.entries.get(&name) else { return Ok(None) };
        let factor = self.rows(&name, &[1], 0..1)?.to_dtype(DType::F32)?.to_vec1::<f32>()?[0];
        match factor.is_finite() {
            true => Ok(Some(factor)),
            false => Err(EngineError::format(&*entry.file, format!("tensor `{name}` is {factor}"))),
        }
    }

    /// Reads some rows and columns of a packed matrix `[rows, columns]`.
    ///
    /// # Errors
    /// Those of [`Weights::rows`].
    pub(crate) fn codes(
        &self,
        name: &str,
        expected: [usize; 2],
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<CodedPart, EngineError> {
        let entry = self.expect(name, &expected)?;
        let matrix = self.packed.get(name).ok_or_else(|| entry.refuse_dtype(name))?;
        matrix.read(&self.reader, rows, columns)
    }

    /// Reads whole rows in the model's order.
    fn read_ordered(&self, entry: &Entry, rows: &Range<usize>, to: &mut [u8]) -> Result<(), EngineError> {
        let row = entry.row_bytes();
        let stored = entry.stored_rows(rows);
        if entry.order == RowOrder::Plain {
            return self.reader.read(entry, (rows.start * row) as u64, to);
        }
        let mut bytes = vec![0; stored.len() * row];
        self.reader.read(entry, (stored.start * row) as u64, &mut bytes)?;
        for (index, to) in rows.clone().zip(to.chunks_exact_mut(row.max(1))) {
            to.copy_from_slice(&bytes[(entry.stored_row(index) - stored.start) * row..][..row]);
        }
        Ok(())
    }

    fn entry(&self, name: &str) -> Result<&Entry, EngineError> {
        let missing = || EngineError::MissingTensor { tensor: name.into(), origin: self.reader.source().into() };
        self.entries.get(name).ok_or_else(missing)
    }

    fn expect(&self, name: &str, expected: &[usize]) -> Result<&Entry, EngineError> {
        let entry = self.entry(name)?;
        if entry.shape != expected {
            return Err(EngineError::Shape {
                tensor: name.into(),
                file: entry.file.to_string(),
                expected: expected.into(),
                found: entry.shape.clone(),
            });
        }
        Ok(entry)
    }
}

fn is_float(entry: &Entry, dtype: DType) -> bool {
    entry.stored == Stored::Float(dtype)
}

fn packed_format(entry: &Entry) -> Option<&'static str> {
    match entry.stored {
        Stored::Packed(format) => Some(format),
        _ => None,
    }
}

fn scale(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start * by..range.end * by
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, FixtureModel};
    use crate::open;

    fn weights(model: &FixtureModel) -> Result<Weights, EngineError> {
        Weights::open(open(model.source()).unwrap())
    }

    /// A `[rows, columns]` matrix that counts up.
    fn counting(rows: usize, columns: usize) -> (FixtureModel, Tensor) {
        let tensor =
            Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu).unwrap().reshape((rows, columns)).unwrap();
        (fixture::folder(&[("w", &tensor)]), tensor)
    }

    #[test]
    fn every_cut_equals_the_same_cut_of_the_whole() {
        for (rows, columns) in [(5, 7), (3, 2000), (700, 1000)] {
            let (model, whole) = counting(rows, columns);
            let weights = weights(&model).unwrap();
            for (start, end) in [(0, 1), (0, columns), (1, columns - 1), (columns / 2, columns)] {
                let cut = weights.columns("w", [rows, columns], start..end).unwrap();
                let expected = whole.narrow(1, start, end - start).unwrap();
                assert_eq!(cut.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
            }
            let cut = weights.rows("w", &[rows, columns], 1..rows).unwrap();
            let expected = whole.narrow(0, 1, rows - 1).unwrap();
            assert_eq!(cut.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
        }
    }

    #[test]
    fn only_the_wanted_bytes_are_read() {
        let (model, _) = counting(6, 2000);
        let weights = weights(&model).unwrap();
        weights.rows("w", &[6, 2000], 2..4).unwrap();
        assert_eq!(weights.bytes_read(), 2 * 2000 * 4);
        weights.columns("w", [6, 2000], 1000..2000).unwrap();
        assert_eq!(weights.bytes_read(), 2 * 2000 * 4 + 6 * 1000 * 4);
    }

    #[test]
    fn tensors_that_do_not_fit_are_named() {
        let model = fixture::folder(&[
            ("w", &Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap()),
            ("ids", &Tensor::zeros(3, DType::I64, &Device::Cpu).unwrap()),
        ]);
        let weights = weights(&model).unwrap();
        let cases = [
            (weights.rows("x", &[2, 3], 0..2), "tensor `x` is in none of the weight files"),
            (weights.rows("w", &[3, 2], 0..2), "has shape [2, 3], config.json asks for [3, 2]"),
            (weights.columns("w", [2, 4], 0..2), "has shape [2, 3], config.json asks for [2, 4]"),
            (weights.rows("ids", &[3], 0..3), "tensor `ids` in model.safetensors is I64"),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(weights.parameters(false), 9);
    }

    #[test]
    fn a_tied_projection_counts_once() {
        let table = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let model = fixture::folder(&[("model.embed_tokens.weight", &table), ("lm_head.weight", &table)]);
        let weights = weights(&model).unwrap();
        assert_eq!((weights.parameters(true), weights.parameters(false)), (6, 12));
    }

    #[test]
    fn damaged_files_are_refused() {
        let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
        let cases = [
            (vec![], "cut short: it has 0 bytes, 8 were expected"),
            (vec![1, 2, 3], "cut short: it has 3 bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "is more than"),
            (100u64.to_le_bytes().to_vec(), "cut short: it has 8 bytes, 108 were expected"),
            (header("nonsense"), "header"),
            (header(r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#), "header"),
            (header(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#), "header"),
            (header(r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#), "cut short"),
        ];
        for (bytes, expected) in cases {
            let model = fixture::folder(&[]);
            model.write("model.safetensors", &bytes);
            let message = weights(&model).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("model.safetensors"), "{message}");
        }
        let (model, _) = counting(2, 2);
        model.patch("model.safetensors", |bytes| bytes.push(0));
        assert!(weights(&model).unwrap_err().to_string().contains("1 bytes after the last tensor"));
    }

    #[test]
    fn a_sharded_model_is_read_through_its_index() {
        let (model, whole) = counting(4, 4);
        model.rename("model.safetensors", "part-1.safetensors");
        assert!(weights(&model).unwrap_err().to_string().contains("model.safetensors is missing"));
        model.write("model.safetensors.index.json", br#"{"metadata": {}, "weight_map": {"w": "part-1.safetensors"}}"#);
        let read = weights(&model).unwrap().rows("w", &[4, 4], 0..4).unwrap();
        assert_eq!(read.to_vec2::<f32>().unwrap(), whole.to_vec2::<f32>().unwrap());

        let broken = [
            ("{", "model.safetensors.index.json"),
            (r#"{"weight_map": {}}"#, "names no weight file"),
            (r#"{"weight_map": {"w": "gone.safetensors"}}"#, "gone.safetensors is missing"),
            (r#"{"weight_map": {"w": "../part.safetensors"}}"#, "must stay inside"),
            (r#"{"weight_map": {"v": "part-1.safetensors"}}"#, "`v`"),
        ];
        for (json, expected) in broken {
            model.write("model.safetensors.index.json", json.as_bytes());
            let message =
                weights(&model).and_then(|weights| weights.rows("v", &[1], 0..1).map(|_| ())).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
