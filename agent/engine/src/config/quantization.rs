//! The `quantization_config` of a checkpoint: how its packed tensors are laid out.
//!
//! Formats: the configurations of transformers (`utils/quantization_config.py`), and of compressed-tensors. Most formats
//! name and type their tensors so that nothing else must be known. GPTQ and AWQ do not.

use serde_json::Value;

use super::{CONFIG_FILE, ConfigError};
use crate::EngineError;
use crate::json;
use crate::source::ModelFiles;

/// Methods whose checkpoints are read.
const SUPPORTED: &str = "fp8, fbgemm_fp8, gptq, awq, compressed-tensors, bitsandbytes, modelopt, auto-round in the packing \
                         of GPTQ or AWQ; or take the model in f32, bf16 or f16";
/// Rows and columns that share a scale if the configuration has no `weight_block_size`.
const DEFAULT_BLOCK: [usize; 2] = [128, 128];

/// Layout of the packed tensors of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedLayout {
    /// Words that run along the inputs. The zeros are stored less `zero_offset`.
    Gptq { zero_offset: u8 },
    /// Words of four bits that run along the outputs.
    Awq,
    /// The names and types of the tensors say the rest. Scales in two dimensions belong to blocks of this size.
    Named { block: [usize; 2] },
}

impl PackedLayout {
    /// Reads the layout of a model's checkpoint. Returns `None` if the checkpoint is not quantized, or has no `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Config`] naming the key of a method or a variant that is not read; those of reading `config.json`.
    pub fn from_files(files: &dyn ModelFiles) -> Result<Option<Self>, EngineError> {
        Ok(files.read_all(CONFIG_FILE)?.map(|text| Self::parse(&text)).transpose()?.flatten())
    }

    /// Reads the layout from the text of a `config.json`.
    ///
    /// # Errors
    /// Those of [`PackedLayout::from_files`].
    pub fn parse(text: &[u8]) -> Result<Option<Self>, EngineError> {
        let wrong = |cause| EngineError::Config { file: CONFIG_FILE.into(), cause };
        Self::from_config(&json::parse(CONFIG_FILE, text)?).map_err(wrong)
    }

    fn from_config(config: &Value) -> Result<Option<Self>, ConfigError> {
        let places = [config, &config["text_config"]];
        let keys = ["quantization_config", "compression_config"];
        let found = places.iter().flat_map(|place| keys.map(|key| &place[key])).find(|value| value.is_object());
        found.map(Self::from_quantization).transpose()
    }

    fn from_quantization(config: &Value) -> Result<Self, ConfigError> {
        let in_bits = |key| config[key] == true;
        let old_bitsandbytes = in_bits("load_in_4bit") || in_bits("load_in_8bit");
        let method = config["quant_method"].as_str().unwrap_or(if old_bitsandbytes { "bitsandbytes" } else { "" });
        match method {
            "gptq" => Self::parse_gptq(config),
            "awq" => Self::parse_awq(config),
            "auto-round" | "intel/auto-round" => match config["packing_format"].as_str() {
                Some(packing) if packing.contains("gptq") => Self::parse_gptq(config),
                Some(packing) if packing.contains("awq") => Self::parse_awq(config),
                packing => unsupported(
                    "quantization_config.packing_format",
                    packing,
                    "auto_round:auto_gptq, auto_round:auto_awq",
                ),
            },
            "fp8" | "fbgemm_fp8" | "bitsandbytes" => Ok(Self::Named { block: block(config) }),
            "modelopt" => match config["quant_algo"].as_str() {
                Some("FP8" | "NVFP4") => Ok(Self::Named { block: block(config) }),
                algorithm => unsupported("quantization_config.quant_algo", algorithm, "FP8, NVFP4"),
            },
            "compressed-tensors" => Self::parse_compressed_tensors(config),
            method => unsupported("quantization_config.quant_method", Some(method), SUPPORTED),
        }
    }

    fn parse_gptq(config: &Value) -> Result<Self, ConfigError> {
        if let Some(dtype) = config["pack_dtype"].as_str().filter(|dtype| *dtype != "int32") {
            return unsupported("quantization_config.pack_dtype", Some(dtype), "int32");
        }
        let format = config["checkpoint_format"].as_str().or(config["format"].as_str()).unwrap_or("gptq");
        match format {
            "gptq" => Ok(Self::Gptq { zero_offset: 1 }),
            "gptq_v2" => Ok(Self::Gptq { zero_offset: 0 }),
            format => unsupported("quantization_config.checkpoint_format", Some(format), "gptq, gptq_v2"),
        }
    }

    fn parse_awq(config: &Value) -> Result<Self, ConfigError> {
        let version = config["version"].as_str().or(config["format"].as_str()).unwrap_or("gemm");
        match version.to_ascii_lowercase().as_str() {
            "gemm" => Ok(Self::Awq),
            _ => unsupported("quantization_config.version", Some(version), "gemm"),
        }
    }

    fn parse_compressed_tensors(config: &Value) -> Result<Self, ConfigError> {
        const FORMATS: &str = "pack-quantized, int-quantized, float-quantized, naive-quantized, mxfp4-pack-quantized, \
                               nvfp4-pack-quantized, all without sparsity";
        let sparsity = config["sparsity_config"]["format"].as_str().filter(|format| *format != "dense");
        if let Some(format) = sparsity.or(config["format"].as_str().filter(|format| *format == "marlin-24")) {
            return unsupported("quantization_config.format", Some(format), FORMATS);
        }
        let transforms = &config["transform_config"]["config_groups"];
        if transforms.as_object().is_some_and(|groups| !groups.is_empty()) {
            let remedy = "weights that are rotated before they are quantized are not read; take a checkpoint without";
            return Err(ConfigError::UnsupportedFeature { key: "quantization_config.transform_config", remedy });
        }
        let groups = config["config_groups"].as_object();
        let weights = groups.into_iter().flat_map(|groups| groups.values()).map(|group| &group["weights"]);
        let found = weights.filter_map(|weights| two_numbers(&weights["block_structure"])).next();
        Ok(Self::Named { block: found.unwrap_or(DEFAULT_BLOCK) })
    }
}

/// Returns the size of the blocks that share a scale.
fn block(config: &Value) -> [usize; 2] {
    two_numbers(&config["weight_block_size"]).unwrap_or(DEFAULT_BLOCK)
}

/// Returns two numbers above 0.
fn two_numbers(value: &Value) -> Option<[usize; 2]> {
    let number = |index: usize| usize::try_from(value[index].as_u64()?).ok().filter(|number| *number > 0);
    Some([number(0)?, number(1)?])
}

fn unsupported<T>(key: &'static str, value: Option<&str>, supported: &'static str) -> Result<T, ConfigError> {
    Err(ConfigError::UnsupportedName { key, value: value.unwrap_or_default().into(), supported })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn layouts_are_read() {
        let named = |block| PackedLayout::Named { block };
        let cases = [
            (json!({"quant_method": "gptq", "bits": 4, "desc_act": true}), PackedLayout::Gptq { zero_offset: 1 }),
            (json!({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}), PackedLayout::Gptq { zero_offset: 0 }),
            (json!({"quant_method": "awq", "version": "GEMM"}), PackedLayout::Awq),
            (json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}), PackedLayout::Awq),
            (json!({"quant_method": "fp8", "weight_block_size": [64, 32]}), named([64, 32])),
            (json!({"load_in_4bit": true}), named(DEFAULT_BLOCK)),
            (json!({"quant_method": "modelopt", "quant_algo": "FP8"}), named(DEFAULT_BLOCK)),
            (
                json!({"quant_method": "compressed-tensors", "format": "float-quantized",
                    "config_groups": {"group_0": {"weights": {"block_structure": [16, 8]}}}}),
                named([16, 8]),
            ),
        ];
        for (config, expected) in cases {
            for whole in
                [json!({"quantization_config": config}), json!({"text_config": {"quantization_config": config}})]
            {
                assert_eq!(PackedLayout::from_config(&whole), Ok(Some(expected)), "{config}");
            }
        }
        for none in [json!({}), json!({"quantization_config": null})] {
            assert_eq!(PackedLayout::from_config(&none), Ok(None));
        }
    }

    #[test]
    fn layouts_that_are_not_read_are_named() {
        let cases = [
            (json!({"quant_method": "hqq"}), "quant_method `hqq` is not supported; supported: fp8"),
            (json!({"bits": 4}), "quant_method ``"),
            (json!({"quant_method": "gptq", "checkpoint_format": "marlin"}), "checkpoint_format `marlin`"),
            (json!({"quant_method": "gptq", "pack_dtype": "int8"}), "pack_dtype `int8`"),
            (json!({"quant_method": "awq", "version": "gemv"}), "version `gemv`"),
            (json!({"quant_method": "auto-round", "packing_format": "x"}), "packing_format `x`"),
            (json!({"quant_method": "modelopt", "quant_algo": "W4A8"}), "quant_algo `W4A8`"),
            (json!({"quant_method": "compressed-tensors", "format": "marlin-24"}), "format `marlin-24`"),
            (
                json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}),
                "format `sparse-24-bitmask`",
            ),
            (
                json!({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"u": {}}}}),
                "rotated",
            ),
        ];
        for (config, expected) in cases {
            let message = PackedLayout::from_quantization(&config).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }
}
