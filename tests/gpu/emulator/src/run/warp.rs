//! A warp: groups of lanes that are at the same instruction. The group with the lowest address goes first, so that lanes
//! that branched apart meet again.

use super::Fault;
use super::block::Block;
use crate::compile::{Combine, Kernel, Operation, Register, Step};
use crate::isa::{Comparison, LANES, Longs, Words};

/// All lanes of a warp.
pub(super) const ALL: u32 = u32::MAX;
/// Instructions after which a group lets another group of its warp go on, which it may wait for.
const PATIENCE: u32 = 1 << 16;

/// State of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// The group waits for these lanes of its warp.
    Together {
        members: u32,
    },
    Barrier {
        name: u32,
        threads: Option<u32>,
    },
}

/// Lanes at one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) at: usize,
    pub(super) mask: u32,
    pub(super) state: State,
    /// Turn in which the group last ran out of patience.
    yielded: u32,
}

/// A copy that has not landed.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingCopy {
    /// Number of groups that were committed before the copy began.
    pub(super) commit: u32,
    pub(super) lane: usize,
    pub(super) to: usize,
    pub(super) from: u64,
    pub(super) size: usize,
    /// Bytes that come from global memory. The others are zero.
    pub(super) real: usize,
}

pub(super) struct Warp {
    pub(super) index: usize,
    pub(super) words: Vec<Words>,
    pub(super) longs: Vec<Longs>,
    pub(super) predicates: Vec<u32>,
    pub(super) groups: Vec<Group>,
    /// Local memory of the lanes, one after the other.
    pub(super) local: Vec<u8>,
    pub(super) copies: Vec<PendingCopy>,
    pub(super) commits: u32,
    yields: u32,
}

impl Warp {
    pub(super) fn new(index: usize, kernel: &Kernel) -> Self {
        Self {
            index,
            words: vec![[0; LANES]; kernel.words.len()],
            longs: vec![[0; LANES]; kernel.longs.len()],
            predicates: vec![0; kernel.predicates as usize],
            groups: Vec::new(),
            local: vec![0; kernel.local_bytes as usize * LANES],
            copies: Vec::new(),
            commits: 0,
            yields: 0,
        }
    }

    /// Puts all lanes at the first instruction of a block of `threads` threads.
    pub(super) fn reset(&mut self, threads: u32) {
        let first = self.index as u32 * LANES as u32;
        let mask = ALL >> (LANES as u32 - (threads - first).min(LANES as u32));
        self.groups.clear();
        self.groups.push(Group { at: 0, mask, state: State::Ready, yielded: 0 });
        self.local.fill(0xff);
        self.copies.clear();
        (self.commits, self.yields) = (0, 0);
    }

    /// Returns the lanes that have not ended.
    pub(super) fn live(&self) -> u32 {
        self.groups.iter().fold(0, |all, group| all | group.mask)
    }

    /// Joins groups that are at the same instruction.
    fn merge(&mut self) {
        let mut at = 0;
        while at < self.groups.len() {
            let mut other = at + 1;
            while other < self.groups.len() {
                let (one, two) = (self.groups[at], self.groups[other]);
                let is_waiting = |group: Group| matches!(group.state, State::Barrier { .. });
                if one.at == two.at && is_waiting(one) == is_waiting(two) {
                    self.groups[at].mask |= two.mask;
                    if !is_waiting(one) {
                        self.groups[at].state = State::Ready;
                    }
                    self.groups.swap_remove(other);
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
    }

    /// Returns the group that goes next, and the address at which it has to stop because another group is there.
    fn choose(&mut self) -> Option<(usize, usize)> {
        if self.groups.len() > 1 {
            self.merge();
        }
        let ready = self.groups.iter().enumerate().filter(|(_, group)| group.state == State::Ready);
        let (chosen, group) = ready.min_by_key(|(_, group)| (group.yielded, group.at))?;
        let others = self.groups.iter().filter(|other| !matches!(other.state, State::Barrier { .. }));
        let limit = others.map(|other| other.at).filter(|at| *at > group.at).min();
        Some((chosen, limit.unwrap_or(usize::MAX)))
    }

    /// Writes a result for the lanes of `mask`.
    pub(super) fn put_words(&mut self, register: u32, values: &Words, mask: u32) {
        let out = &mut self.words[register as usize];
        if mask == ALL {
            *out = *values;
        } else {
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    out[lane] = values[lane];
                }
            }
        }
    }

    pub(super) fn put_longs(&mut self, register: u32, values: &Longs, mask: u32) {
        let out = &mut self.longs[register as usize];
        if mask == ALL {
            *out = *values;
        } else {
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    out[lane] = values[lane];
                }
            }
        }
    }

    pub(super) fn put_predicate(&mut self, register: u32, value: u32, mask: u32) {
        let out = &mut self.predicates[register as usize];
        *out = *out & !mask | value & mask;
    }

    /// Returns the value of a register in a lane.
    pub(super) fn get(&self, register: Register, lane: usize) -> u64 {
        match register {
            Register::Word(index) => self.words[index as usize][lane].into(),
            Register::Long(index) => self.longs[index as usize][lane],
            Register::Predicate(index) => (self.predicates[index as usize] >> lane & 1).into(),
        }
    }

    pub(super) fn set(&mut self, register: Register, lane: usize, value: u64) {
        match register {
            Register::Word(index) => self.words[index as usize][lane] = value as u32,
            Register::Long(index) => self.longs[index as usize][lane] = value,
            Register::Predicate(index) => self.put_predicate(index, (value as u32 & 1) << lane, 1 << lane),
        }
    }

    fn compare(&self, comparison: Comparison, inputs: [u32; 2]) -> u32 {
        let [a, b] = inputs.map(|input| input as usize);
        match comparison {
            Comparison::Words(run) => run(&self.words[a], &self.words[b]),
            Comparison::Longs(run) => run(&self.longs[a], &self.longs[b]),
        }
    }

    /// Carries out an operation that touches nothing but registers. Returns false for any other.
    pub(super) fn compute(&mut self, operation: &Operation, mask: u32) -> bool {
        match operation {
            Operation::Word { run, out, inputs } => {
                let mut result = [0; LANES];
                let [a, b, c] = inputs.map(|input| input as usize);
                run(&self.words[a], &self.words[b], &self.words[c], &mut result);
                self.put_words(*out, &result, mask);
            }
            Operation::Long { run, out, inputs } => {
                let mut result = [0; LANES];
                let [a, b, c] = inputs.map(|input| input as usize);
                run(&self.longs[a], &self.longs[b], &self.longs[c], &mut result);
                self.put_longs(*out, &result, mask);
            }
            Operation::Widen { run, out, words, long } => {
                let mut result = [0; LANES];
                let [a, b] = words.map(|input| input as usize);
                run(&self.words[a], &self.words[b], &self.longs[*long as usize], &mut result);
                self.put_longs(*out, &result, mask);
            }
            Operation::Shift { run, out, long, word } => {
                let mut result = [0; LANES];
                run(&self.longs[*long as usize], &self.words[*word as usize], &mut result);
                self.put_longs(*out, &result, mask);
            }
            Operation::Narrow { run, out, long } => {
                let mut result = [0; LANES];
                run(&self.longs[*long as usize], &mut result);
                self.put_words(*out, &result, mask);
            }
            Operation::Compare { comparison, inputs, with, out, opposite } => {
                let result = self.compare(*comparison, *inputs);
                for (out, result) in [(out, result), (opposite, !result)] {
                    let Some(out) = out else { continue };
                    let combined = with.map_or(result, |(combine, register, is_negated)| {
                        let other = self.predicates[register as usize] ^ if is_negated { ALL } else { 0 };
                        match combine {
                            Combine::And => result & other,
                            Combine::Or => result | other,
                            _ => result ^ other,
                        }
                    });
                    self.put_predicate(*out, combined, mask);
                }
            }
            Operation::SetWord { comparison, inputs, out, one } => {
                let result = self.compare(*comparison, *inputs);
                let words = std::array::from_fn(|lane| if result >> lane & 1 == 1 { *one } else { 0 });
                self.put_words(*out, &words, mask);
            }
            Operation::Logic { run, out, inputs } => {
                let [a, b] = inputs.map(|input| self.predicates[input as usize]);
                self.put_predicate(*out, run(a, b), mask);
            }
            Operation::SetPredicate { out, value } => self.put_predicate(*out, if *value { ALL } else { 0 }, mask),
            Operation::SelectWord { out, inputs, predicate } => {
                let chosen = self.predicates[*predicate as usize];
                let [a, b] = inputs.map(|input| &self.words[input as usize]);
                let result = std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
                self.put_words(*out, &result, mask);
            }
            Operation::SelectLong { out, inputs, predicate } => {
                let chosen = self.predicates[*predicate as usize];
                let [a, b] = inputs.map(|input| &self.longs[input as usize]);
                let result = std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
                self.put_longs(*out, &result, mask);
            }
            Operation::Table { out, inputs, table } => {
                let [a, b, c] = inputs.map(|input| &self.words[input as usize]);
                let result = std::array::from_fn(|lane| look_up(a[lane], b[lane], c[lane], *table));
                self.put_words(*out, &result, mask);
            }
            Operation::InsertBits { out, inputs } => {
                let [a, b, c, d] = inputs.map(|input| &self.words[input as usize]);
                let result = std::array::from_fn(|lane| {
                    let (bits, into) = (a[lane].into(), b[lane].into());
                    insert_bits(bits, into, c[lane] & 255, d[lane] & 255, 32) as u32
                });
                self.put_words(*out, &result, mask);
            }
            Operation::InsertLongBits { out, longs, words } => {
                let ([a, b], [c, d]) =
                    (longs.map(|input| &self.longs[input as usize]), words.map(|input| &self.words[input as usize]));
                let result =
                    std::array::from_fn(|lane| insert_bits(a[lane], b[lane], c[lane] & 255, d[lane] & 255, 64));
                self.put_longs(*out, &result, mask);
            }
            Operation::Pack { out, parts, bits } => {
                for lane in lanes(mask) {
                    let part = |part: &Register| self.get(*part, lane) & (u64::MAX >> (64 - bits));
                    let value =
                        parts.iter().rev().fold(0_u64, |all, next| all.checked_shl(*bits).unwrap_or(0) | part(next));
                    self.set(*out, lane, value);
                }
            }
            Operation::Unpack { parts, input, bits } => {
                for lane in lanes(mask) {
                    let value = self.get(*input, lane);
                    for (at, part) in parts.iter().enumerate() {
                        if let Some(part) = part {
                            self.set(*part, lane, value >> (at as u32 * bits) & (u64::MAX >> (64 - bits)));
                        }
                    }
                }
            }
            _ => return false,
        }
        true
    }
}

/// Returns the numbers of the lanes of a mask.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
}

/// Looks up each bit by the bits of three words (`lop3`). The first word has the highest bit of the index.
fn look_up(a: u32, b: u32, c: u32, table: u8) -> u32 {
    (0..8).filter(|index| table >> index & 1 == 1).fold(0, |result, index| {
        let side = |word: u32, bit: u32| if index >> bit & 1 == 1 { word } else { !word };
        result | side(a, 2) & side(b, 1) & side(c, 0)
    })
}

/// Puts `count` low bits of `bits` into `into` from bit `start` on, in a register of `width` bits.
fn insert_bits(bits: u64, into: u64, start: u32, count: u32, width: u32) -> u64 {
    let mask = if count >= width { u64::MAX } else { (1 << count) - 1 };
    let mask = mask.checked_shl(start).unwrap_or(0);
    into & !mask | bits.checked_shl(start).unwrap_or(0) & mask
}

impl Block<'_> {
    /// Runs a warp until all its lanes wait or have ended.
    pub(super) fn run_warp(&mut self, warp: usize) -> Result<(), Fault> {
        while let Some((group, limit)) = self.warps[warp].choose() {
            self.run_group(warp, group, limit)?;
        }
        Ok(())
    }

    /// Runs a group until it branches, waits, ends, or comes to the instruction `limit`, where another group is.
    fn run_group(&mut self, warp: usize, group: usize, limit: usize) -> Result<(), Fault> {
        let kernel = self.launch.kernel;
        let Group { mut at, mask, .. } = self.warps[warp].groups[group];
        let alone = self.warps[warp].groups.len() == 1;
        for run in 0_u32.. {
            if at >= limit || (!alone && run >= PATIENCE) {
                let warp = &mut self.warps[warp];
                if at < limit {
                    warp.yields += 1;
                    warp.groups[group].yielded = warp.yields;
                }
                warp.groups[group].at = at;
                return Ok(());
            }
            let step: &Step = &kernel.steps[at];
            self.instructions += 1;
            let taken = match step.guard {
                Some((predicate, is_negated)) => {
                    let value = self.warps[warp].predicates[predicate as usize];
                    mask & if is_negated { !value } else { value }
                }
                None => mask,
            };
            match &step.operation {
                Operation::Branch(target) if taken == mask => at = *target,
                Operation::Branch(target) if taken != 0 => {
                    self.split(warp, group, at + 1, taken, *target);
                    return Ok(());
                }
                Operation::BranchIndexed { targets, index } if taken != 0 => {
                    return self.branch_indexed(warp, group, at, taken, targets, *index);
                }
                Operation::Exit if taken != 0 => {
                    let warp = &mut self.warps[warp];
                    warp.groups[group] = Group { at: at + 1, mask: mask & !taken, ..warp.groups[group] };
                    warp.groups.retain(|group| group.mask != 0);
                    return Ok(());
                }
                Operation::Barrier { name, threads, arrives_only } if taken != 0 => {
                    return self.reach_barrier(warp, group, at, *name, *threads, *arrives_only);
                }
                Operation::Branch(_)
                | Operation::BranchIndexed { .. }
                | Operation::Exit
                | Operation::Barrier { .. } => at += 1,
                operation => {
                    if taken != 0 && !self.warps[warp].compute(operation, taken) {
                        if let Some(members) = self.missing(warp, operation, mask, taken) {
                            let group = &mut self.warps[warp].groups[group];
                            (group.at, group.state) = (at, State::Together { members });
                            return Ok(());
                        }
                        self.carry_out(warp, operation, taken)
                            .map_err(|(lane, what)| self.fault(Some(warp), lane, what, Some(at)))?;
                    }
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Splits a group: the lanes of `taken` go to `target`, the others to `next`.
    fn split(&mut self, warp: usize, group: usize, next: usize, taken: u32, target: usize) {
        let groups = &mut self.warps[warp].groups;
        let old = groups[group];
        groups[group] = Group { at: next, mask: old.mask & !taken, ..old };
        groups.push(Group { at: target, mask: taken, ..old });
        groups.retain(|group| group.mask != 0);
    }

    fn branch_indexed(
        &mut self,
        warp: usize,
        group: usize,
        at: usize,
        taken: u32,
        targets: &[usize],
        index: u32,
    ) -> Result<(), Fault> {
        let indices = self.warps[warp].words[index as usize];
        let mut masks = vec![0_u32; targets.len()];
        for lane in lanes(taken) {
            match masks.get_mut(indices[lane] as usize) {
                Some(mask) => *mask |= 1 << lane,
                None => {
                    let what = format!("jumps to entry {} of a list of {}", indices[lane], targets.len());
                    return Err(self.fault(Some(warp), Some(lane), what, Some(at)));
                }
            }
        }
        let groups = &mut self.warps[warp].groups;
        let old = groups[group];
        groups[group] = Group { at: at + 1, mask: old.mask & !taken, ..old };
        for (mask, target) in masks.into_iter().zip(targets).filter(|(mask, _)| *mask != 0) {
            groups.push(Group { at: *target, mask, ..old });
        }
        groups.retain(|group| group.mask != 0);
        Ok(())
    }

    fn reach_barrier(
        &mut self,
        warp: usize,
        group: usize,
        at: usize,
        name: u32,
        threads: Option<u32>,
        arrives_only: bool,
    ) -> Result<(), Fault> {
        let of_first = |block: &Self, register: u32| {
            let mask = block.warps[warp].groups[group].mask;
            block.warps[warp].words[register as usize][mask.trailing_zeros() as usize]
        };
        let (name, threads) = (of_first(self, name), threads.map(|threads| of_first(self, threads)));
        if threads.is_some_and(|threads| !threads.is_multiple_of(LANES as u32)) {
            let what = format!("a barrier for {threads:?} threads, which are no whole warps");
            return Err(self.fault(Some(warp), None, what, Some(at)));
        }
        let group = &mut self.warps[warp].groups[group];
        group.at = at;
        if arrives_only {
            *self.arrived.entry(name).or_default() += LANES as u32;
            group.at += 1;
        } else {
            group.state = State::Barrier { name, threads };
        }
        Ok(())
    }

    /// Returns the members that an operation has to wait for, if some are elsewhere.
    fn missing(&self, warp: usize, operation: &Operation, mask: u32, taken: u32) -> Option<u32> {
        let warp = &self.warps[warp];
        if warp.groups.len() == 1 {
            return None;
        }
        let first = taken.trailing_zeros() as usize;
        let members = match operation {
            Operation::WarpBarrier { members }
            | Operation::Shuffle { members, .. }
            | Operation::Vote { members, .. }
            | Operation::Reduce { members, .. } => warp.words[*members as usize][first],
            Operation::MultiplyMatrices { .. } | Operation::LoadMatrices { .. } => ALL,
            _ => return None,
        };
        (members & warp.live() & !mask != 0).then_some(members)
    }
}
