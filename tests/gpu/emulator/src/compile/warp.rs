//! Instructions in which the lanes of a warp, or the warps of a block, act together.

use super::operation::{COMBINES, REDUCTIONS};
use super::{Compiler, Element, Number, Operation, Shuffle, Vote};
use crate::ptx::{Instruction, Operand, PtxError};

impl Compiler<'_> {
    pub(super) fn compile_warp(&mut self, instruction: &Instruction) -> Result<Operation, PtxError> {
        let unknown = || PtxError::new("an instruction that the emulator does not know", &instruction.text);
        let has = |word: &str| instruction.modifiers.iter().any(|modifier| modifier == word);
        Ok(match (instruction.operation.as_str(), instruction.operands.as_slice()) {
            ("bar", [members]) if has("warp") => Operation::WarpBarrier { members: self.word(members)? },
            ("bar" | "barrier", [name, threads @ ..]) if has("sync") || has("arrive") => Operation::Barrier {
                name: self.word(name)?,
                threads: threads.first().map(|threads| self.word(threads)).transpose()?,
                arrives_only: has("arrive"),
            },
            ("shfl", [out, value, lane, clamp, members]) => {
                let kinds = [
                    ("up", Shuffle::Up),
                    ("down", Shuffle::Down),
                    ("bfly", Shuffle::Butterfly),
                    ("idx", Shuffle::Index),
                ];
                let kind = kinds.into_iter().find(|(word, _)| has(word)).ok_or_else(unknown)?.1;
                let (out, found) = match out {
                    Operand::Pair(out, found) => (self.wanted(out)?, self.wanted(found)?),
                    out => (self.wanted(out)?, None),
                };
                Operation::Shuffle {
                    kind,
                    out: out.map(super::registers::word).transpose()?,
                    found: found.map(super::registers::predicate).transpose()?,
                    value: self.word(value)?,
                    lane: self.word(lane)?,
                    clamp: self.word(clamp)?,
                    members: self.word(members)?,
                }
            }
            ("vote", [out, Operand::Name(name), members]) => {
                let kinds = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
                let kind = kinds.into_iter().find(|(word, _)| has(word)).ok_or_else(unknown)?.1;
                let predicate = super::registers::predicate(self.register(name.trim_start_matches('!'))?)?;
                let (out, members) = (self.any(out)?, self.word(members)?);
                Operation::Vote { kind, out, predicate, negated: name.starts_with('!'), members }
            }
            ("activemask", [out]) => Operation::ActiveMask { out: self.word_result(out)? },
            ("redux", [out, value, members]) => {
                let combine = COMBINES[..REDUCTIONS].iter().find(|(word, _)| has(word)).ok_or_else(unknown)?.1;
                let number = if has("s32") { Number::Signed } else { Number::Unsigned };
                let (out, value, members) = (self.word_result(out)?, self.word(value)?, self.word(members)?);
                Operation::Reduce { combine, number, out, value, members }
            }
            ("mma", [Operand::Vector(out), Operand::Vector(left), Operand::Vector(right), Operand::Vector(sum)]) => {
                let kinds = instruction.modifiers.join(".");
                let element = if kinds.ends_with("f32.bf16.bf16.f32") {
                    Element::Bf16
                } else if kinds.ends_with("f32.f16.f16.f32") {
                    Element::F16
                } else {
                    return Err(unknown());
                };
                let sizes = (left.len(), right.len());
                let fits = (has("m16n8k16") && sizes == (4, 2)) || (has("m16n8k8") && sizes == (2, 1));
                if !fits || !has("row") || !has("col") {
                    return Err(unknown());
                }
                let (left, right) = (self.words(left)?, self.words(right)?);
                let four = |words: Vec<u32>| <[u32; 4]>::try_from(words).map_err(|_| unknown());
                let (out, sum) = (four(self.words(out)?)?, four(self.words(sum)?)?);
                Operation::MultiplyMatrices { element, out, left, right, sum }
            }
            ("ldmatrix", [Operand::Vector(out), Operand::Address(base, offset)]) if has("m8n8") && has("b16") => {
                let (out, address) = (self.words(out)?, self.address(base, *offset)?);
                Operation::LoadMatrices { transposed: has("trans"), out, address }
            }
            _ => return Err(unknown()),
        })
    }

    fn words(&mut self, operands: &[Operand]) -> Result<Vec<u32>, PtxError> {
        operands.iter().map(|operand| self.word(operand)).collect()
    }
}
