//! A block: its warps take turns until each waits at a barrier or has ended.

use std::collections::BTreeMap;

use super::shared::SharedMemory;
use super::warp::{State, Warp};
use super::{Fault, Launch, Outcome, Use};
use crate::compile::{Initial, Special};
use crate::isa::{LANES, Longs, Words};
use crate::memory::Range;

/// Instructions after which a block that has not ended counts as endless.
const MAX_INSTRUCTIONS: u64 = 1 << 32;

/// A block of a launch. A worker uses one for all its blocks.
pub(super) struct Block<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) shared: SharedMemory,
    pub(super) warps: Vec<Warp>,
    /// First contents of the registers, without those that differ between blocks and warps.
    words: Vec<Words>,
    longs: Vec<Longs>,
    specials: Vec<(usize, Special)>,
    pub(super) place: [u32; 3],
    /// Allocations that were used, the last one first.
    pub(super) ranges: Vec<(Range, Use)>,
    /// Number of threads that arrived at a barrier without waiting, by the barrier's name.
    pub(super) arrived: BTreeMap<u32, u32>,
    pub(super) instructions: u64,
}

impl<'a> Block<'a> {
    pub(super) fn new(launch: &'a Launch<'a>) -> Self {
        let kernel = launch.kernel;
        let constant = |initial: &Initial| match initial {
            Initial::Constant(bits) => *bits,
            Initial::Poison | Initial::Special(_) => u64::MAX,
        };
        let specials = kernel.words.iter().enumerate().filter_map(|(index, initial)| match initial {
            Initial::Special(special) => Some((index, *special)),
            Initial::Poison | Initial::Constant(_) => None,
        });
        let warps = launch.threads().div_ceil(LANES as u32) as usize;
        Self {
            launch,
            shared: SharedMemory::new((kernel.shared_bytes + launch.dynamic_shared) as usize),
            warps: (0..warps).map(|index| Warp::new(index, kernel)).collect(),
            words: kernel.words.iter().map(|initial| [constant(initial) as u32; LANES]).collect(),
            longs: kernel.longs.iter().map(|initial| [constant(initial); LANES]).collect(),
            specials: specials.collect(),
            place: [0; 3],
            ranges: Vec::new(),
            arrived: BTreeMap::new(),
            instructions: 0,
        }
    }

    /// Runs the block at `place` in the grid.
    pub(super) fn run(&mut self, place: [u32; 3]) -> Result<(), Fault> {
        self.place = place;
        self.shared.clear();
        self.arrived.clear();
        self.reset_warps();
        let first = self.instructions;
        let mut round = 0_u64;
        loop {
            let before = self.instructions;
            for turn in 0..self.warps.len() {
                self.run_warp(self.warp_at(turn, round))?;
            }
            if self.warps.iter().all(|warp| warp.groups.is_empty()) {
                return Ok(());
            }
            let passed = self.pass_barriers()?;
            if !passed && self.instructions == before {
                return Err(self.deadlock());
            }
            if self.instructions - first > MAX_INSTRUCTIONS {
                return Err(self.fault(None, None, format!("no end after {MAX_INSTRUCTIONS} instructions"), None));
            }
            round += 1;
        }
    }

    pub(super) fn into_outcome(self) -> Outcome {
        let uses = self.ranges.into_iter().map(|(range, used)| (range.start, used)).collect();
        Outcome { instructions: self.instructions, uses }
    }

    /// Returns the warp that has a turn. Each seed but 0 gives an order of its own.
    fn warp_at(&self, turn: usize, round: u64) -> usize {
        let count = self.warps.len();
        if self.launch.seed == 0 || count < 2 {
            return turn;
        }
        let mixed = (self.launch.seed ^ round << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (mixed >> 32) as usize % count;
        // Every second seed goes backward.
        if mixed >> 63 == 0 { (start + turn) % count } else { (start + count - turn) % count }
    }

    fn reset_warps(&mut self) {
        let (launch, place) = (self.launch, self.place);
        let threads = launch.threads();
        for warp in &mut self.warps {
            warp.words.copy_from_slice(&self.words);
            warp.longs.copy_from_slice(&self.longs);
            warp.reset(threads);
            for (register, special) in &self.specials {
                for lane in 0..LANES {
                    warp.words[*register][lane] = special_value(*special, launch, place, warp.index, lane as u32);
                }
            }
        }
    }

    /// Lets the threads go on that wait at a barrier whose last thread has come. Returns true if there were some.
    fn pass_barriers(&mut self) -> Result<bool, Fault> {
        let live: u32 = self.warps.iter().map(|warp| warp.live().count_ones()).sum();
        let mut waiting: BTreeMap<u32, (u32, Option<u32>)> = BTreeMap::new();
        for warp in &self.warps {
            let mut places = BTreeMap::new();
            for group in &warp.groups {
                if let State::Barrier { name, threads } = group.state {
                    let entry = waiting.entry(name).or_insert((0, threads));
                    // A warp counts as a whole where a number of threads is given.
                    entry.0 += if threads.is_some() { LANES as u32 } else { group.mask.count_ones() };
                    if *places.entry(name).or_insert(group.at) != group.at {
                        let what = "lanes of one warp wait for each other at different barriers".into();
                        return Err(self.fault(Some(warp.index), None, what, Some(group.at)));
                    }
                }
            }
        }
        let mut passed = false;
        for (name, (count, threads)) in waiting {
            let arrived = self.arrived.get(&name).copied().unwrap_or(0);
            if count + arrived < threads.unwrap_or(live) {
                continue;
            }
            self.arrived.remove(&name);
            self.shared.pass_barrier();
            passed = true;
            for group in self.warps.iter_mut().flat_map(|warp| &mut warp.groups) {
                if matches!(group.state, State::Barrier { name: at, .. } if at == name) {
                    group.state = State::Ready;
                    group.at += 1;
                }
            }
        }
        Ok(passed)
    }

    fn deadlock(&self) -> Fault {
        let stuck = self.warps.iter().find_map(|warp| warp.groups.first().map(|group| (warp.index, *group)));
        let (warp, at, what) = match stuck {
            Some((warp, group)) => match group.state {
                State::Barrier { .. } => (warp, group.at, "waits at a barrier that other threads never reach"),
                State::Ready | State::Together { .. } => {
                    (warp, group.at, "waits for lanes that have ended or are elsewhere")
                }
            },
            None => (0, 0, "is stuck"),
        };
        self.fault(Some(warp), None, what.into(), Some(at))
    }

    pub(super) fn fault(&self, warp: Option<usize>, lane: Option<usize>, what: String, at: Option<usize>) -> Fault {
        let kernel = self.launch.kernel;
        let line = at.and_then(|at| kernel.steps.get(at)).map(|step| step.line as usize);
        let instruction = line.and_then(|line| kernel.lines.get(line)).cloned().unwrap_or_default();
        Fault { kernel: kernel.name.clone(), block: self.place, warp, lane, what, instruction }
    }
}

fn special_value(special: Special, launch: &Launch<'_>, place: [u32; 3], warp: usize, lane: u32) -> u32 {
    let thread = warp as u32 * LANES as u32 + lane;
    let [width, height, _] = launch.block;
    match special {
        Special::Thread(0) => thread % width,
        Special::Thread(1) => thread / width % height,
        Special::Thread(_) => thread / width / height,
        Special::BlockSize(axis) => launch.block[usize::from(axis)],
        Special::Block(axis) => place[usize::from(axis)],
        Special::GridSize(axis) => launch.grid[usize::from(axis)],
        Special::Lane => lane,
        Special::Warp => warp as u32,
        Special::LaneMaskEqual => 1 << lane,
        Special::LaneMaskLess => (1 << lane) - 1,
        Special::LaneMaskLessEqual => u32::MAX >> (31 - lane),
        Special::LaneMaskGreaterEqual => u32::MAX << lane,
        Special::LaneMaskGreater => (u32::MAX << lane) & !(1 << lane),
        Special::Multiprocessor => place[0] % 132,
    }
}
