//! A reference for ranks, which computes one sequence at a time in f64. Weights have the values of their format.
//! Activations, keys and values are rounded where the kernels round them. The reference shares the configuration and
//! the RoPE's frequencies with the engine and nothing else, and the tests compare it with transformers itself.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use lockstep_collectives::RankGroup;
use lockstep_engine::config::{ModelConfig, MoeConfig};
use lockstep_engine::{BlockFormat, describe, open};
use lockstep_kernels::{Activation, Context, Matrix};

use crate::common::GroupSetup;

/// Columns whose activations share a scale if the weights are quantized.
const GROUP_SIZE: usize = 32;

/// One row for each token.
type Rows = Vec<Vec<f64>>;

/// A model with the weights that one format gives it.
pub struct Reference {
    config: ModelConfig,
    context_length: usize,
    /// Matrices by rows. A vector is one row.
    tensors: HashMap<String, Rows>,
    quantized: bool,
    cache: DType,
    /// Query heads by rank of a stage.
    heads: Vec<Range<usize>>,
    /// Ranks of a stage.
    groups: Vec<RankGroup>,
}

impl Reference {
    /// Loads the model of a folder.
    pub fn new(folder: &Path, setup: &GroupSetup) -> Self {
        let config = describe(open(&setup.source).unwrap().as_ref()).unwrap().config;
        let cache = setup.dtype.unwrap_or(DType::F32);
        let quantized = setup.quantization.is_some();
        let tensors = decode_tensors(load_tensors(folder), cache, setup.quantization, config.tie_word_embeddings);
        let reference =
            Self { config, context_length: 256, tensors, quantized, cache, heads: Vec::new(), groups: Vec::new() };
        reference.on_grid_of(setup)
    }

    /// Returns the same model on another grid of ranks.
    pub fn on_grid_of(self, setup: &GroupSetup) -> Self {
        let size = setup.world_size / setup.stages;
        let groups: Vec<RankGroup> = (0..size).map(|rank| RankGroup::new(rank, size).unwrap()).collect();
        let heads = groups.iter().map(|group| group.part_of(self.config.num_heads)).collect();
        Self { heads, groups, ..self }
    }

    /// Computes the logits after each of `ids`.
    pub fn logits(&self, ids: &[u32]) -> Rows {
        let config = &self.config;
        let scale = f64::from(config.embedding_scale.unwrap_or(1.0));
        let table = &self.tensors["model.embed_tokens.weight"];
        let embed = |id: &u32| table[*id as usize].iter().map(|x| x * scale).collect();
        let mut stream: Rows = ids.iter().map(embed).collect();
        for layer in 0..config.num_layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let x = self.norm(&stream, &at("input_layernorm"));
            let attended = self.attention(layer, &x);
            if self.has(&at("pre_feedforward_layernorm")) {
                add(&mut stream, &self.norm(&attended, &at("post_attention_layernorm")));
                let x = self.norm(&stream, &at("pre_feedforward_layernorm"));
                let x = self.feed_forward(layer, &x);
                add(&mut stream, &self.norm(&x, &at("post_feedforward_layernorm")));
            } else {
                add(&mut stream, &attended);
                let x = self.norm(&stream, &at("post_attention_layernorm"));
                add(&mut stream, &self.feed_forward(layer, &x));
            }
        }
        let mut logits = self.product(&self.norm(&stream, "model.norm"), "lm_head", None);
        if let Some(cap) = config.logit_soft_cap {
            logits.iter_mut().flatten().for_each(|x| *x = soft_cap(*x, cap));
        }
        logits
    }

    fn norm(&self, x: &Rows, name: &str) -> Rows {
        let (weight, offset) = (&self.tensors[&format!("{name}.weight")][0], f64::from(self.config.norm_offset));
        let row = |x: &Vec<f64>| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
            x.iter().zip(weight).map(|(x, w)| x * scale * (w + offset)).collect()
        };
        x.iter().map(row).collect()
    }

    /// Computes `x` times a projection, plus its bias. `shards` are the columns of each rank if the ranks share the
    /// columns.
    fn product(&self, x: &Rows, name: &str, shards: Option<&[Range<usize>]>) -> Rows {
        let weight = &self.tensors[&format!("{name}.weight")];
        let bias = self.tensors.get(&format!("{name}.bias")).map(|bias| &bias[0]);
        let whole = 0..weight[0].len();
        let is_quantized = self.quantized && !is_router(&format!("{name}.weight"));
        let row = |x: &Vec<f64>| {
            let x = if is_quantized {
                round_to_eight_bits(x, shards.unwrap_or(std::slice::from_ref(&whole)))
            } else {
                x.clone()
            };
            let sums = weight.iter().map(|w| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>());
            sums.enumerate().map(|(i, sum)| sum + bias.map_or(0.0, |bias| bias[i])).collect()
        };
        x.iter().map(row).collect()
    }

    fn attention(&self, layer: usize, x: &Rows) -> Rows {
        let config = &self.config;
        let at = |name: &str| format!("model.layers.{layer}.self_attn.{name}");
        let (dim, per_kv) = (config.head_dim, config.queries_per_kv());
        let [mut q, mut k, v] = if self.has(&at("qkv_proj")) {
            let all = self.product(x, &at("qkv_proj"), None);
            let (queries, kv) = (config.num_heads * dim, config.num_kv_heads * dim);
            [0..queries, queries..queries + kv, queries + kv..queries + 2 * kv].map(|part| columns(&all, part))
        } else {
            ["q_proj", "k_proj", "v_proj"].map(|name| self.product(x, &at(name), None))
        };
        for (heads, norm) in [(&mut q, "q_norm"), (&mut k, "k_norm")] {
            for (position, row) in heads.iter_mut().enumerate() {
                for head in row.chunks_exact_mut(dim) {
                    if self.has(&at(norm)) {
                        head.copy_from_slice(&self.norm(&vec![head.to_vec()], &at(norm))[0]);
                    }
                    self.rotate(layer, position, head);
                }
            }
        }
        let (k, v) = (self.round_to_cache(&k), self.round_to_cache(&v));
        let window = config.layers[layer].window.unwrap_or(usize::MAX);
        let attend = |position: usize, head: usize| {
            let part = head * dim..(head + 1) * dim;
            let kv_part = head / per_kv * dim..(head / per_kv + 1) * dim;
            let seen = (position + 1).saturating_sub(window)..position + 1;
            let score = |key: &Vec<f64>| {
                let dot: f64 = q[position][part.clone()].iter().zip(&key[kv_part.clone()]).map(|(q, k)| q * k).sum();
                let score = dot * f64::from(config.attention_scale);
                config.attention_soft_cap.map_or(score, |cap| soft_cap(score, cap))
            };
            let weights = softmax(&k[seen.clone()].iter().map(score).collect::<Vec<_>>());
            let mut sum = vec![0.0; dim];
            for (weight, value) in weights.iter().zip(&v[seen]) {
                sum.iter_mut().zip(&value[kv_part.clone()]).for_each(|(sum, value)| *sum += weight * value);
            }
            sum
        };
        let row = |position| (0..config.num_heads).flat_map(|head| attend(position, head)).collect();
        let attended: Rows = (0..x.len()).map(row).collect();
        let shards: Vec<_> = self.heads.iter().map(|heads| heads.start * dim..heads.end * dim).collect();
        self.product(&attended, &at("o_proj"), Some(&shards))
    }

    /// Rotates one head by its position.
    fn rotate(&self, layer: usize, position: usize, head: &mut [f64]) {
        let rope = &self.config.ropes[self.config.layers[layer].rope];
        let half = rope.rotary_dim / 2;
        for (i, frequency) in rope.inverse_frequencies(self.context_length).into_iter().enumerate() {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            let (a, b) = (head[i], head[i + half]);
            let scale = f64::from(rope.attention_factor());
            (head[i], head[i + half]) = ((a * cos - b * sin) * scale, (b * cos + a * sin) * scale);
        }
    }

    /// Rounds rows as the cache does.
    fn round_to_cache(&self, x: &Rows) -> Rows {
        if self.cache == DType::F32 { x.clone() } else { rows(&round_to_dtype(&tensor(x), self.cache)) }
    }

    fn feed_forward(&self, layer: usize, x: &Rows) -> Rows {
        let (config, at) = (&self.config, |name: &str| format!("model.layers.{layer}.{name}"));
        let usual = ["gate_proj", "up_proj", "down_proj"];
        for (prefix, names) in [("block_sparse_moe", ["w1", "w3", "w2"]), ("mlp", usual)] {
            if self.has(&at(&format!("{prefix}.gate"))) {
                return self.experts(&at(prefix), config.moe.unwrap(), names, x);
            }
        }
        if self.has(&at("mlp.gate_up_proj")) {
            let (all, inner) = (self.product(x, &at("mlp.gate_up_proj"), None), config.intermediate_size);
            let gated = self.gated(&columns(&all, 0..inner), &columns(&all, inner..2 * inner));
            return self.product(&gated, &at("mlp.down_proj"), Some(&self.intermediate_shards(inner)));
        }
        self.gated_mlp(&at("mlp"), config.intermediate_size, usual, x)
    }

    /// Returns true if the checkpoint has the weight of `name`.
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&format!("{name}.weight"))
    }

    fn gated_mlp(&self, place: &str, inner: usize, [gate, up, down]: [&str; 3], x: &Rows) -> Rows {
        let [gate, up] = [gate, up].map(|name| self.product(x, &format!("{place}.{name}"), None));
        self.product(&self.gated(&gate, &up), &format!("{place}.{down}"), Some(&self.intermediate_shards(inner)))
    }

    fn experts(&self, place: &str, moe: MoeConfig, names: [&str; 3], x: &Rows) -> Rows {
        let routed = |(x, logits): (&Vec<f64>, Vec<f64>)| {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let chosen = &order[..moe.experts_per_token];
            let all = softmax(&logits);
            let sum: f64 = if moe.normalize { chosen.iter().map(|expert| all[*expert]).sum() } else { 1.0 };
            let mut mixed = vec![0.0; x.len()];
            for expert in chosen {
                let place = format!("{place}.experts.{expert}");
                let answer = self.gated_mlp(&place, moe.intermediate_size, names, &vec![x.clone()]);
                mixed.iter_mut().zip(&answer[0]).for_each(|(mixed, y)| *mixed += all[*expert] / sum * y);
            }
            mixed
        };
        x.iter().zip(self.product(x, &format!("{place}.gate"), None)).map(routed).collect()
    }

    fn gated(&self, gate: &Rows, up: &Rows) -> Rows {
        let activate = |x: f64| match self.config.activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
            }
        };
        let row = |(gate, up): (&Vec<f64>, &Vec<f64>)| gate.iter().zip(up).map(|(g, u)| activate(*g) * u).collect();
        gate.iter().zip(up).map(row).collect()
    }

    fn intermediate_shards(&self, inner: usize) -> Vec<Range<usize>> {
        self.groups.iter().map(|group| group.part_of(inner)).collect()
    }
}

/// Loads all tensors of a folder in f32.
fn load_tensors(folder: &Path) -> HashMap<String, Tensor> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let weights = files.filter(|path| {
        path.extension().is_some_and(|extension| extension == "safetensors") && !path.ends_with("expected.safetensors")
    });
    let tensors = weights.flat_map(|path| candle_core::safetensors::load(path, &Device::Cpu).unwrap());
    tensors.map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap())).collect()
}

/// Returns the tensors as a format gives them. Matrices are rounded to the type and then to blocks, the embedding to
/// the type alone. Routers and vectors are not rounded.
fn decode_tensors(
    mut tensors: HashMap<String, Tensor>,
    dtype: DType,
    quantization: Option<BlockFormat>,
    tied: bool,
) -> HashMap<String, Rows> {
    if tied {
        tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    }
    let decode = |(name, tensor): (String, Tensor)| {
        if tensor.rank() == 1 {
            return (name, rows(&tensor.unsqueeze(0).unwrap()));
        }
        if is_router(&name) {
            return (name, rows(&tensor));
        }
        let tensor = round_to_dtype(&tensor, dtype);
        let tensor = match quantization {
            _ if name.contains("embed_tokens") => tensor,
            None => tensor,
            Some(format) => round_to_blocks(&tensor, format.for_width(tensor.dim(1).unwrap())),
        };
        (name, rows(&tensor))
    };
    tensors.into_iter().map(decode).collect()
}

fn is_router(name: &str) -> bool {
    name.ends_with(".gate.weight")
}

fn round_to_dtype(tensor: &Tensor, dtype: DType) -> Tensor {
    tensor.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
}

/// Returns numbers as they are in blocks of whole rows: as a library's encoder and decoder give them if it makes the same
/// blocks, and else as the kernels make and decode them. The tests of the kernels judge these.
fn round_to_blocks(tensor: &Tensor, format: BlockFormat) -> Tensor {
    let (rows, columns) = tensor.dims2().unwrap();
    let dtype = match format {
        BlockFormat::Q4_0 => GgmlDType::Q4_0,
        BlockFormat::Q4_1 => GgmlDType::Q4_1,
        BlockFormat::Q5_0 => GgmlDType::Q5_0,
        BlockFormat::Q5_1 => GgmlDType::Q5_1,
        BlockFormat::Q8_0 => GgmlDType::Q8_0,
        _ => {
            let context = Context::cpu(1).unwrap();
            return Matrix::quantize(&context, tensor, format, 0..columns).unwrap().to_tensor().unwrap();
        }
    };
    let padded = columns.next_multiple_of(dtype.block_size());
    let zeros = Tensor::zeros((rows, padded - columns), tensor.dtype(), &Device::Cpu).unwrap();
    let whole = Tensor::cat(&[tensor, &zeros], 1).unwrap();
    let decode_tensors = QTensor::quantize(&whole, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
    decode_tensors.narrow(1, 0, columns).unwrap()
}

/// Rounds a row to eight bits. The columns of one rank among 32 columns share a scale.
fn round_to_eight_bits(x: &[f64], shards: &[Range<usize>]) -> Vec<f64> {
    let mut round_to_eight_bits = vec![0.0; x.len()];
    for shard in shards {
        for group in shard.start / GROUP_SIZE..shard.end.div_ceil(GROUP_SIZE) {
            let part = shard.start.max(group * GROUP_SIZE)..shard.end.min((group + 1) * GROUP_SIZE);
            let values: Vec<f32> = x[part.clone()].iter().map(|x| *x as f32).collect();
            let greatest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
            let (scale, inverse) = (greatest / 127.0, if greatest > 0.0 { 127.0 / greatest } else { 0.0 });
            for (to, x) in round_to_eight_bits[part].iter_mut().zip(values) {
                *to = f64::from((x * inverse).round_ties_even()) * f64::from(scale);
            }
        }
    }
    round_to_eight_bits
}

fn rows(tensor: &Tensor) -> Rows {
    let rows = tensor.to_vec2::<f32>().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

fn tensor(x: &Rows) -> Tensor {
    let flat: Vec<f32> = x.iter().flatten().map(|x| *x as f32).collect();
    Tensor::from_vec(flat, (x.len(), x[0].len()), &Device::Cpu).unwrap()
}

fn columns(x: &Rows, part: Range<usize>) -> Rows {
    x.iter().map(|row| row[part.clone()].to_vec()).collect()
}

fn add(to: &mut Rows, x: &Rows) {
    to.iter_mut().flatten().zip(x.iter().flatten()).for_each(|(to, x)| *to += x);
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let greatest = x.iter().copied().fold(f64::MIN, f64::max);
    let exp: Vec<f64> = x.iter().map(|x| (x - greatest).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|x| x / sum).collect()
}

fn soft_cap(x: f64, cap: f32) -> f64 {
    f64::from(cap) * (x / f64::from(cap)).tanh()
}
