//! The report of a measurement, as text and as JSON.

use std::fmt::Write as _;

use lockstep_proto::v1::ClusterStatus;
use serde::Serialize;

use crate::config::BenchConfig;

/// Rates of one batch size: one rate for each round, in tokens per second of all sequences together.
#[derive(Debug)]
pub(super) struct Row {
    pub batch: u32,
    pub prefill: Vec<f64>,
    pub decode: Vec<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct BenchReport {
    version: &'static str,
    model: String,
    parameters: u64,
    /// Number format of the weights.
    format: String,
    world_size: u32,
    pipeline_stages: u32,
    backend: String,
    /// Device and instruction set of each rank.
    devices: Vec<String>,
    prompt_tokens: u32,
    answer_tokens: u32,
    rounds: u32,
    results: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    batch: u32,
    prefill: Spread,
    decode: Spread,
}

/// Median, minimum and maximum of the rounds, in tokens per second.
#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
    rounds: Vec<f64>,
}

impl Spread {
    fn from_rounds(rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let value = |at: usize| sorted.get(at).copied().unwrap_or(0.0);
        let count = sorted.len();
        let median = (value(count / 2) + value(count.saturating_sub(1) / 2)) / 2.0;
        Self { median, least: value(0), most: value(count.saturating_sub(1)), rounds }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ({:.1}–{:.1})", self.median, self.least, self.most)
    }
}

impl BenchReport {
    pub(super) fn new(config: &BenchConfig, status: &ClusterStatus, rows: Vec<Row>) -> Self {
        let model = status.model_info.clone().unwrap_or_default();
        let measured = |row: Row| Measured {
            batch: row.batch,
            prefill: Spread::from_rounds(row.prefill),
            decode: Spread::from_rounds(row.decode),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            model: model.name,
            parameters: model.parameters,
            format: model.dtype,
            world_size: status.world_size,
            pipeline_stages: status.pipeline_parallel_size,
            backend: status.backend.clone(),
            devices: status.ranks.iter().map(|rank| rank.device.clone()).collect(),
            prompt_tokens: config.prompt_tokens,
            answer_tokens: config.answer_tokens,
            rounds: config.rounds,
            results: rows.into_iter().map(measured).collect(),
        }
    }

    /// Formats the report as JSON.
    ///
    /// # Errors
    /// None: the report holds only numbers and text.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Formats the report as text.
    pub(super) fn text(&self) -> String {
        let mut devices = self.devices.clone();
        devices.dedup();
        let mut text = format!(
            "{}: {} parameters, {}; world size {} ({}), {} pipeline stage(s); {}\ntokens/s, median (least–most) of {} rounds; \
             prefill of {} tokens a sequence, decode of {}\n\n{:>6}  {:>30}  {:>30}\n",
            self.model,
            self.parameters,
            self.format,
            self.world_size,
            self.backend,
            self.pipeline_stages,
            devices.join(", "),
            self.rounds,
            self.prompt_tokens,
            self.answer_tokens,
            "batch",
            "prefill",
            "decode"
        );
        for Measured { batch, prefill, decode } in &self.results {
            writeln!(text, "{batch:>6}  {:>30}  {:>30}", prefill.to_string(), decode.to_string()).ok();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::v1::{ModelInfo, RankStatus};

    use super::*;

    #[test]
    fn a_report_names_the_model_and_the_group() {
        let config =
            BenchConfig { batch_sizes: vec![4], prompt_tokens: 512, answer_tokens: 32, rounds: 4, json: false };
        let model = ModelInfo { name: "tiny".into(), parameters: 7, dtype: "bf16".into(), ..Default::default() };
        let rank = RankStatus { device: "cpu (avx2)".into(), ..Default::default() };
        let status = ClusterStatus {
            world_size: 2,
            pipeline_parallel_size: 1,
            backend: "ring".into(),
            ranks: vec![rank.clone(), rank],
            model_info: Some(model),
            ..Default::default()
        };
        let rows = vec![Row { batch: 4, prefill: vec![3.0, 1.0, 2.0, 4.0], decode: vec![1.0; 4] }];
        let report = BenchReport::new(&config, &status, rows);
        let text = report.text();
        for part in
            ["tiny: 7 parameters, bf16", "world size 2 (ring)", "cpu (avx2)\n", "2.5 (1.0–4.0)", "of 512 tokens"]
        {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!((&json["results"][0]["prefill"]["median"], &json["world_size"]), (&2.5.into(), &2.into()));
    }
}
