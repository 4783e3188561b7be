//! Measures one rank alone: load, prefill, decode.
//!
//! `cargo run --release -p lockstep-engine --example throughput -- [SOURCE] [THREADS] [SEQUENCES] [PROMPT] [ANSWER] [FORMAT]`.
//! PROMPT and ANSWER are the numbers of tokens of each sequence.

use std::time::{Duration, Instant};

use lockstep_collectives::RankGroup;
use lockstep_collectives::solo::Solo;
use lockstep_engine::{BlockFormat, Devices, EngineError, Runner, RunnerConfig, open};
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, SeqId, StepPlan};

const BLOCK_SIZE: u32 = 16;

fn main() -> Result<(), EngineError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default: u32| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let source = arguments.first().map_or("builtin://tiny", String::as_str);
    let (threads, sequences) = (number(1, 1), number(2, 1));
    let (prompt, answer) = (number(3, 128), number(4, 32));

    let start = Instant::now();
    let config = RunnerConfig {
        files: open(source)?,
        dtype: None,
        quantization: arguments.get(5).map(|name| parse_format(name)).transpose()?,
        grid: RankGroup::solo().into(),
        block_size: BLOCK_SIZE,
        context_length: None,
        max_num_batched_tokens: sequences * prompt,
        max_num_seqs: sequences,
        threads: threads as usize,
        oversubscribed: false,
        isa: None,
        devices: Devices::default(),
        progress: std::sync::Arc::default(),
    };
    let mut runner = Runner::load(config, &mut |_, _| {})?;
    let read = runner.bytes_read() as f64 / 1e6;
    println!("{:?}", runner.facts());
    println!("load: {:.2} s, {:.0} MB/s", start.elapsed().as_secs_f64(), read / start.elapsed().as_secs_f64());

    let blocks_each = (prompt + answer).div_ceil(BLOCK_SIZE);
    runner.start_epoch(1, Solo::new()?, blocks_each * sequences)?;
    let vocab_size = runner.facts().vocab_size;
    let entry = |seq: u32, step: u32| PlanEntry {
        seq: SeqId::from(seq),
        position: if step == 0 { 0 } else { prompt + step - 1 },
        tokens: match step {
            0 => PlanTokens::Given((0..prompt).map(|index| (index * 7 + seq + 3) % vocab_size).collect()),
            _ => PlanTokens::LastSampled,
        },
        new_blocks: if step == 0 { (seq * blocks_each..(seq + 1) * blocks_each).collect() } else { Vec::new() },
        sample: true,
        allowed: None,
        prompt_targets: None,
    };
    let mut times = Vec::new();
    for step in 0..answer {
        let admit =
            (0..sequences).filter(|_| step == 0).map(|seq| Admission::new(SeqId::from(seq), SamplingParams::default()));
        let entries = (0..sequences).map(|seq| entry(seq, step)).collect();
        let plan =
            StepPlan { epoch: 1, step: u64::from(step) + 1, forget: Vec::new(), admit: admit.collect(), entries };
        let start = Instant::now();
        runner.step(&plan)?;
        times.push(start.elapsed());
    }
    let decode = times.split_off(1);
    println!("prefill: {:.1} tokens/s", f64::from(sequences * prompt) / times[0].as_secs_f64());
    let total: Duration = decode.iter().sum();
    let best = decode.iter().min().copied().unwrap_or_default();
    let rate = f64::from(sequences) * decode.len() as f64 / total.as_secs_f64();
    println!("decode: {rate:.1} tokens/s, best step {:.2} ms", best.as_secs_f64() * 1e3);
    Ok(())
}

fn parse_format(name: &str) -> Result<BlockFormat, EngineError> {
    let format = BlockFormat::ALL.into_iter().find(|format| format.is_encodable() && format.name() == name);
    format.ok_or_else(|| EngineError::Usage(format!("matrices are not quantized to `{name}`")))
}
