//! Search for the tensors of packed matrices, by the names and types that libraries give them.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;
use serde::Deserialize;

use super::bits::{BitOrder, PackedBits};
use super::groups::{ColumnGroups, CommonFactor, GroupOrder, GroupScales, GroupZeros, NestedScales, ScaleNumbers};
use super::{Meaning, PackedMatrix};
use crate::EngineError;
use crate::config::PackedLayout;
use crate::entry::{Entry, RowOrder, Stored};
use crate::json;
use crate::tensor_reader::TensorReader;

/// Widths of numbers that words hold.
const WIDTHS: [usize; 4] = [2, 3, 4, 8];

/// Returns the packed matrices by the name that each has in a checkpoint that is not quantized, and puts one entry of that
/// name in the place of its tensors.
///
/// # Errors
/// [`EngineError::Format`] naming the matrix whose tensors do not fit together; those of reading.
pub(crate) fn assemble(
    entries: &mut HashMap<String, Entry>,
    layout: PackedLayout,
    reader: &TensorReader,
) -> Result<HashMap<String, PackedMatrix>, EngineError> {
    let last = match layout {
        PackedLayout::Gptq { .. } | PackedLayout::Awq => ".qweight",
        PackedLayout::Named { .. } => ".weight_packed",
    };
    let mut names: Vec<String> = entries.keys().filter_map(|name| name.strip_suffix(last)).map(str::to_owned).collect();
    if let PackedLayout::Named { .. } = layout {
        let raw = entries.iter().filter(|(_, entry)| entry.is_matrix() && matches!(entry.stored, Stored::Other(_)));
        names.extend(raw.filter_map(|(name, _)| name.strip_suffix(".weight")).map(str::to_owned));
    }
    let mut matrices = HashMap::new();
    for name in names {
        let mut tensors = Tensors { entries, reader, name: &name };
        let matrix = match layout {
            PackedLayout::Gptq { zero_offset } => Some(tensors.take_gptq(zero_offset)?),
            PackedLayout::Awq => Some(tensors.take_awq()?),
            PackedLayout::Named { block } => tensors.take_named(block)?,
        };
        if let Some(matrix) = matrix {
            tensors.put_entry(&matrix);
            matrices.insert(format!("{name}.weight"), matrix);
        }
    }
    Ok(matrices)
}

/// The tensors of one matrix: all that begin with its name.
struct Tensors<'a> {
    entries: &'a mut HashMap<String, Entry>,
    reader: &'a TensorReader,
    name: &'a str,
}

/// Quantization state of a matrix of bitsandbytes, which is stored as the bytes of a JSON text.
#[derive(Deserialize)]
struct BitsAndBytesState {
    shape: Vec<usize>,
    blocksize: usize,
    quant_type: String,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl Tensors<'_> {
    fn take_optional(&mut self, suffix: &str) -> Option<Entry> {
        self.entries.remove(&format!("{}.{suffix}", self.name))
    }

    fn take_required(&mut self, suffix: &str) -> Result<Entry, EngineError> {
        self.take_optional(suffix).ok_or_else(|| self.wrong(&format!("`{suffix}` is missing")))
    }

    fn wrong(&self, reason: &str) -> EngineError {
        EngineError::format(self.reader.source(), format!("the packed matrix `{}`: {reason}", self.name))
    }

    /// Checks the type and the number of dimensions of a tensor, and returns its shape.
    fn shape<const N: usize>(&self, entry: &Entry, kind: &str) -> Result<[usize; N], EngineError> {
        let is_kind = matches!(&entry.stored, Stored::Other(found) if found == kind);
        match <[usize; N]>::try_from(entry.shape.as_slice()) {
            Ok(shape) if is_kind && !shape.contains(&0) => Ok(shape),
            _ => Err(self.wrong(&format!("a tensor is {:?} of shape {:?}, not {kind}", entry.stored, entry.shape))),
        }
    }

    /// Puts an entry of the matrix under the name of its weight.
    fn put_entry(&mut self, matrix: &PackedMatrix) {
        // Scales of activations and of cached keys and values are not used: activations stay in f32.
        for suffix in ["input_scale", "input_global_scale", "input_zero_point", "weight_shape"] {
            self.take_optional(suffix);
        }
        let bits = &matrix.bits.entry;
        let entry = Entry {
            file: Arc::clone(&bits.file),
            shape: matrix.shape.to_vec(),
            offset: bits.offset,
            bytes: bits.bytes,
            order: RowOrder::Plain,
            stored: Stored::Packed(matrix.format),
        };
        self.entries.insert(format!("{}.weight", self.name), entry);
    }

    /// Returns scales in floating point.
    fn scales(&self, entry: Entry, order: GroupOrder, shape: [usize; 2]) -> Result<GroupScales, EngineError> {
        let small = ["F8_E4M3", "F8_E8M0", "U8"];
        let is_read = match &entry.stored {
            Stored::Float(dtype) => matches!(dtype, DType::F32 | DType::BF16 | DType::F16),
            Stored::Other(kind) => small.contains(&kind.as_str()),
            Stored::Blocks(_) | Stored::Packed(_) => false,
        };
        if !is_read {
            return Err(self.wrong(&format!("its scales are {:?}", entry.stored)));
        }
        Ok(GroupScales { numbers: ScaleNumbers::Plain(entry), order, shape, common: None })
    }

    /// Returns zeros that are signed bytes in the order of the scales.
    fn byte_zeros(&self, entry: Entry, order: GroupOrder, shape: [usize; 2]) -> Result<GroupZeros, EngineError> {
        match &entry.stored {
            Stored::Other(kind) if kind == "I8" => Ok(GroupZeros::Bytes { entry, order, shape }),
            other => Err(self.wrong(&format!("its zeros are {other:?}, not I8"))),
        }
    }

    /// Returns groups that an index names for each column.
    fn index(&self, entry: Entry, columns: usize) -> Result<ColumnGroups, EngineError> {
        let [length] = self.shape(&entry, "I32")?;
        if length != columns {
            return Err(self.wrong(&format!("its index of groups has {length} entries for {columns} inputs")));
        }
        Ok(ColumnGroups::Index(entry))
    }

    fn take_gptq(&mut self, zero_offset: u8) -> Result<PackedMatrix, EngineError> {
        let (bits, scales, zeros) =
            (self.take_required("qweight")?, self.take_required("scales")?, self.take_required("qzeros")?);
        let index = self.take_optional("g_idx");
        let [words, rows] = self.shape(&bits, "I32")?;
        let [num_groups, row_words] = self.shape(&zeros, "I32")?;
        let width = row_words * 32 / rows;
        if !WIDTHS.contains(&width) || row_words != (rows * width).div_ceil(32) {
            return Err(self.wrong(&format!("zeros of {row_words} words do not fit {rows} outputs")));
        }
        let columns = words * 32 / width;
        let groups = match index {
            Some(index) => self.index(index, columns)?,
            None => ColumnGroups::Runs(columns.div_ceil(num_groups)),
        };
        Ok(PackedMatrix {
            name: self.name.to_owned(),
            format: "gptq",
            shape: [rows, columns],
            meaning: Meaning::Unsigned(width as u8),
            scales: self.scales(scales, GroupOrder::ByGroup, [rows, num_groups])?,
            zeros: GroupZeros::Words { entry: zeros, width, offset: zero_offset },
            bits: PackedBits { entry: bits, order: BitOrder::ColumnWords(width), columns },
            groups,
        })
    }

    fn take_awq(&mut self) -> Result<PackedMatrix, EngineError> {
        let (bits, scales, zeros) =
            (self.take_required("qweight")?, self.take_required("scales")?, self.take_required("qzeros")?);
        let [columns, words] = self.shape(&bits, "I32")?;
        let [groups, zero_words] = self.shape(&zeros, "I32")?;
        let rows = words * 8;
        if zero_words != words || !columns.is_multiple_of(groups) {
            return Err(self.wrong(&format!("zeros {:?} do not fit words {:?}", zeros.shape, bits.shape)));
        }
        Ok(PackedMatrix {
            name: self.name.to_owned(),
            format: "awq",
            shape: [rows, columns],
            meaning: Meaning::Unsigned(4),
            scales: self.scales(scales, GroupOrder::ByGroup, [rows, groups])?,
            zeros: GroupZeros::Awq(zeros),
            bits: PackedBits { entry: bits, order: BitOrder::Awq, columns },
            groups: ColumnGroups::Runs(columns / groups),
        })
    }

    /// Takes a matrix whose format shows in the names and types of its tensors. Returns `None` for tensors of another
    /// kind, which stay.
    fn take_named(&mut self, block: [usize; 2]) -> Result<Option<PackedMatrix>, EngineError> {
        if let Some(bits) = self.take_optional("weight_packed") {
            return self.take_compressed(bits).map(Some);
        }
        let Some(bits) = self.take_optional("weight") else { return Ok(None) };
        let Stored::Other(kind) = bits.stored.clone() else { return Ok(None) };
        match kind.as_str() {
            "F8_E4M3" => self.take_bytes(bits, "F8_E4M3", block).map(Some),
            "I8" => self.take_bytes(bits, "I8", block).map(Some),
            "U8" if self.has("weight_scale_2") => self.take_four_bits(bits, "nvfp4").map(Some),
            "U8" => self.take_bitsandbytes(bits).map(Some),
            _ => {
                self.entries.insert(format!("{}.weight", self.name), bits);
                Ok(None)
            }
        }
    }

    fn has(&self, suffix: &str) -> bool {
        self.entries.contains_key(&format!("{}.{suffix}", self.name))
    }

    /// Takes a matrix of one byte a weight.
    fn take_bytes(&mut self, bits: Entry, kind: &str, block: [usize; 2]) -> Result<PackedMatrix, EngineError> {
        let shape @ [rows, columns] = self.shape(&bits, kind)?;
        let (format, meaning) = if kind == "I8" { ("int8", Meaning::Int8) } else { ("fp8", Meaning::E4m3) };
        let name = self.name.to_owned();
        let packed = |scales, zeros, run| PackedMatrix {
            name,
            format,
            shape,
            meaning,
            bits: PackedBits { entry: bits, order: BitOrder::Bytes, columns },
            scales,
            zeros,
            groups: ColumnGroups::Runs(run),
        };
        if let Some(scales) = self.take_optional("SCB") {
            self.take_optional("weight_format");
            let scales = self.scales(scales, GroupOrder::ByRow, [rows, 1])?;
            let common = Some(CommonFactor::OverNumber(127.0));
            return Ok(packed(GroupScales { common, ..scales }, GroupZeros::All(0), columns));
        }
        let scales = match self.take_optional("weight_scale_inv") {
            Some(scales) => scales,
            None => self.take_required("weight_scale")?,
        };
        let blocks = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        let (order, groups, run) = match scales.shape[..] {
            [] | [1] | [1, 1] => (GroupOrder::Whole, 1, columns),
            [out] | [out, 1] if out == rows => (GroupOrder::ByRow, 1, columns),
            [out, groups] if out == rows && columns.is_multiple_of(groups) => {
                (GroupOrder::ByRow, groups, columns / groups)
            }
            [down, groups] if [down, groups] == blocks => (GroupOrder::RowBlocks(block[0]), groups, block[1]),
            _ => {
                let reason = format!("scales {:?} fit no blocks of {block:?} of a matrix {shape:?}", scales.shape);
                return Err(self.wrong(&reason));
            }
        };
        let zeros = match self.take_optional("weight_zero_point") {
            Some(entry) if kind == "I8" => self.byte_zeros(entry, order, [rows, groups])?,
            _ => GroupZeros::All(0),
        };
        Ok(packed(self.scales(scales, order, [rows, groups])?, zeros, run))
    }

    /// Takes a matrix that compressed-tensors packed into words, or into halves of bytes.
    fn take_compressed(&mut self, bits: Entry) -> Result<PackedMatrix, EngineError> {
        if bits.stored == Stored::Other("U8".into()) {
            let format = if self.has("weight_global_scale") { "nvfp4" } else { "mxfp4" };
            return self.take_four_bits(bits, format);
        }
        let [rows, row_words] = self.shape(&bits, "I32")?;
        let shape = self.take_required("weight_shape")?;
        let whole = self.reader.read_all(&shape)?;
        let whole: Vec<usize> =
            whole.as_chunks::<8>().0.iter().map(|size| u64::from_le_bytes(*size) as usize).collect();
        let [found_rows, columns] = whole[..] else {
            return Err(self.wrong(&format!("`weight_shape` has shape {:?}, not [2]", shape.shape)));
        };
        let width = WIDTHS.into_iter().find(|width| columns.div_ceil(32 / width) == row_words);
        let Some(width) = width.filter(|width| *width != 3 && found_rows == rows) else {
            return Err(self.wrong(&format!("{row_words} words a row do not fit a matrix {whole:?}")));
        };
        let scales = self.take_required("weight_scale")?;
        let (order, groups) = match scales.shape[..] {
            [] | [1] | [1, 1] => (GroupOrder::Whole, 1),
            [out, groups] if out == rows && groups > 0 => (GroupOrder::ByRow, groups),
            [out] if out == rows => (GroupOrder::ByRow, 1),
            _ => return Err(self.wrong(&format!("scales {:?} do not fit {rows} outputs", scales.shape))),
        };
        let zeros = match self.take_optional("weight_zero_point") {
            None => GroupZeros::All(1 << (width - 1)),
            Some(entry) => {
                self.shape::<2>(&entry, "I32")?;
                GroupZeros::ColumnWords { entry, width }
            }
        };
        let groups_of = match self.take_optional("weight_g_idx") {
            Some(index) => self.index(index, columns)?,
            None => ColumnGroups::Runs(columns.div_ceil(groups)),
        };
        Ok(PackedMatrix {
            name: self.name.to_owned(),
            format: if width == 8 { "int8" } else { "int4" },
            shape: [rows, columns],
            meaning: Meaning::Unsigned(width as u8),
            bits: PackedBits { entry: bits, order: BitOrder::RowWords(width), columns },
            scales: self.scales(scales, order, [rows, groups])?,
            zeros,
            groups: groups_of,
        })
    }

    /// Takes a matrix of E2M1 with scales of groups of 16 (NVFP4) or 32 (MXFP4).
    fn take_four_bits(&mut self, bits: Entry, format: &'static str) -> Result<PackedMatrix, EngineError> {
        let [rows, row_bytes] = self.shape(&bits, "U8")?;
        let columns = 2 * row_bytes;
        let scales = self.take_required("weight_scale")?;
        let groups = match scales.shape[..] {
            [out, groups] if out == rows && groups > 0 && columns.is_multiple_of(groups) => groups,
            _ => return Err(self.wrong(&format!("scales {:?} do not fit [{rows}, {columns}]", scales.shape))),
        };
        let common = match (self.take_optional("weight_global_scale"), self.take_optional("weight_scale_2")) {
            (Some(global), _) => Some(CommonFactor::Over(global)),
            (None, Some(second)) => Some(CommonFactor::Times(second)),
            (None, None) => None,
        };
        Ok(PackedMatrix {
            name: self.name.to_owned(),
            format,
            shape: [rows, columns],
            meaning: Meaning::E2m1,
            bits: PackedBits { entry: bits, order: BitOrder::Halves { even_is_high: false }, columns },
            scales: GroupScales { common, ..self.scales(scales, GroupOrder::ByRow, [rows, groups])? },
            zeros: GroupZeros::All(0),
            groups: ColumnGroups::Runs(columns / groups),
        })
    }

    fn take_bitsandbytes(&mut self, bits: Entry) -> Result<PackedMatrix, EngineError> {
        let kinds = ["nf4", "fp4"].map(|kind| format!("weight.quant_state.bitsandbytes__{kind}"));
        let Some(state) = kinds.iter().find_map(|kind| self.take_optional(kind)) else {
            return Err(self.wrong("`weight` is U8, and no `quant_state` of bitsandbytes or scale is beside it"));
        };
        let text = self.reader.read_all(&state)?;
        let state: BitsAndBytesState = json::parse(&format!("{}.weight.quant_state", self.name), &text)?;
        let (meaning, format) = match state.quant_type.as_str() {
            "nf4" => (Meaning::Nf4, "nf4"),
            "fp4" => (Meaning::Fp4, "fp4"),
            other => return Err(self.wrong(&format!("quant_type `{other}` is not supported; supported: nf4, fp4"))),
        };
        let run = state.blocksize;
        let [rows, columns] = state.shape[..] else {
            return Err(self.wrong(&format!("its quant_state has shape {:?}", state.shape)));
        };
        if run == 0 || !columns.is_multiple_of(run) || bits.bytes != (rows as u64 * columns as u64).div_ceil(2) {
            return Err(self.wrong(&format!("blocks of {run} do not fit rows of {columns}")));
        }
        let shape = [rows, columns / run];
        let absmax = self.take_required("weight.absmax")?;
        self.take_required("weight.quant_map")?;
        let numbers = match self.take_optional("weight.nested_absmax") {
            None => ScaleNumbers::Plain(absmax),
            Some(nested) => ScaleNumbers::Nested(Box::new(NestedScales {
                index: absmax,
                code: self.take_required("weight.nested_quant_map")?,
                absmax: nested,
                block: state.nested_blocksize.filter(|block| *block > 0).unwrap_or(256),
                offset: state.nested_offset.unwrap_or(0.0),
            })),
        };
        Ok(PackedMatrix {
            name: self.name.to_owned(),
            format,
            shape: [rows, columns],
            meaning,
            bits: PackedBits { entry: bits, order: BitOrder::Halves { even_is_high: true }, columns },
            scales: GroupScales { numbers, order: GroupOrder::ByRow, shape, common: None },
            zeros: GroupZeros::All(0),
            groups: ColumnGroups::Runs(run),
        })
    }
}
