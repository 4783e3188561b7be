//! Times the all-reduce of the TCP backend. Each rank is a process.
//!
//! `allreduce RANK WORLD_SIZE FIRST_PORT SPIN SIZE=CALLS …`: rank r listens on 127.0.0.1:FIRST_PORT+r. SPIN is `true`
//! or `false`. Rank 0 prints `SIZE MEDIAN_US QUICKEST_US` per size (bytes of f32). The environment's variables
//! `DIRECT_UP_TO` and `SEGMENT` (bytes) replace the tuning.

use std::error::Error;
use std::time::{Duration, Instant};

use lockstep_collectives::ring::{self, Listener, RingConfig};
use lockstep_collectives::{AbortSwitch, Communicator, RankGroup, SliceMut, Tuning};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [rank, world_size, first_port, spin, sizes @ ..] = args.as_slice() else {
        return Err("usage: allreduce RANK WORLD_SIZE FIRST_PORT SPIN SIZE=CALLS …".into());
    };
    let (rank, world_size, first_port): (usize, usize, usize) =
        (rank.parse()?, world_size.parse()?, first_port.parse()?);
    let address = |rank: usize| format!("127.0.0.1:{}", first_port + rank);
    let listener = Listener::bind(address(rank).parse()?)?;
    let config = RingConfig {
        group: RankGroup::new(rank, world_size).ok_or("the rank is outside the group")?,
        epoch: 1,
        cluster_id: "bench".into(),
        key: None,
        addresses: (0..world_size).map(address).collect(),
        op_timeout: Duration::from_secs(30),
        form_timeout: Duration::from_secs(30),
        spin: spin.parse()?,
        tuning: read_tuning()?,
    };
    let mut mesh = ring::form(&listener, config, None, &AbortSwitch::new()?)?;
    let mut ones = vec![1.0f32; 1000];
    mesh.all_reduce_sum(SliceMut::F32(&mut ones))?;
    if ones.iter().any(|one| *one != world_size as f32) {
        return Err("the sum is wrong".into());
    }
    for size in sizes {
        let (size, calls) = size.split_once('=').ok_or("SIZE=CALLS expected")?;
        let (median, quickest) = time_all_reduce(&mut mesh, size.parse()?, calls.parse()?)?;
        if rank == 0 {
            println!("{size} {median:.1} {quickest:.1}");
        }
    }
    mesh.barrier()?;
    Ok(())
}

fn read_tuning() -> Result<Tuning, Box<dyn Error>> {
    let mut tuning = Tuning::default();
    if let Ok(bytes) = std::env::var("DIRECT_UP_TO") {
        tuning.direct_up_to = bytes.parse()?;
    }
    if let Ok(bytes) = std::env::var("SEGMENT") {
        tuning.segment = bytes.parse()?;
    }
    Ok(tuning)
}

/// Returns the median and the shortest time of `calls` all-reduces of `bytes` bytes, in µs. A tenth as many calls come
/// first and are not counted.
fn time_all_reduce(mesh: &mut impl Communicator, bytes: usize, calls: usize) -> Result<(f64, f64), Box<dyn Error>> {
    let mut data = vec![0.0f32; bytes / size_of::<f32>()];
    let mut times = Vec::with_capacity(calls);
    for call in 0..calls + calls.div_ceil(10) {
        let start = Instant::now();
        mesh.all_reduce_sum(SliceMut::F32(&mut data))?;
        if call >= calls.div_ceil(10) {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[0]))
}
