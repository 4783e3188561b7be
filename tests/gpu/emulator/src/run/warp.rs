//! A warp: groups of lanes that are at the same instruction. The group with the lowest address goes first, so that lanes
//! that branched apart meet again.

use super::Fault;
use super::block::Block;
use crate::compile::{Kernel, Operation, Register, Step};
use crate::isa::{LANES, Longs, Words};

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
}

/// Returns the numbers of the lanes of a mask.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
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
