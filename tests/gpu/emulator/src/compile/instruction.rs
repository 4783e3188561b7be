//! Instructions that compute, choose and move. Memory and warps have files of their own.

use super::registers::{Register, Special, long, predicate, word};
use super::{Combine, Compiler, Operation};
use crate::isa::{self, Compute, decode_comparison};
use crate::ptx::{Instruction, Operand, PtxError};

impl Compiler<'_> {
    pub(super) fn compile_instruction(&mut self, instruction: &Instruction) -> Result<Operation, PtxError> {
        let operands = &instruction.operands;
        let has = |word: &str| instruction.modifiers.iter().any(|modifier| modifier == word);
        let kind = instruction.modifiers.last().map_or("", String::as_str);
        let unknown = || PtxError::new("an instruction that the emulator does not know", &instruction.text);
        Ok(match (instruction.operation.as_str(), operands.as_slice()) {
            ("exit" | "ret", _) => Operation::Exit,
            ("trap", _) => Operation::Trap,
            ("membar" | "fence" | "nanosleep" | "prefetch" | "prefetchu" | "griddepcontrol" | "discard", _) => {
                Operation::Nothing
            }
            ("bar" | "barrier" | "shfl" | "vote" | "activemask" | "redux" | "mma" | "ldmatrix", _) => {
                self.compile_warp(instruction)?
            }
            ("ld" | "ldu" | "st" | "atom" | "red" | "cp", _) => self.compile_memory(instruction)?,
            ("cvta", [out, input]) if has("shared") || has("local") => self.compile_cvta(instruction, out, input)?,
            ("mov", [Operand::Vector(_), _] | [_, Operand::Vector(_)]) => self.compile_packing(instruction, kind)?,
            ("and" | "or" | "xor" | "not" | "mov", [out, inputs @ ..]) if kind == "pred" => {
                self.compile_logic(instruction, out, inputs)?
            }
            ("selp" | "setp" | "set", _) => self.compile_choice(instruction, kind)?,
            ("lop3", [out, first, second, third, Operand::Number(table)]) => Operation::Table {
                out: self.word_result(out)?,
                inputs: [self.word(first)?, self.word(second)?, self.word(third)?],
                table: *table as u8,
            },
            ("bfi", [out, bits, into, start, count]) if kind == "b32" => Operation::InsertBits {
                out: self.word_result(out)?,
                inputs: [self.word(bits)?, self.word(into)?, self.word(start)?, self.word(count)?],
            },
            ("bfi", [out, bits, into, start, count]) if kind == "b64" => Operation::InsertLongBits {
                out: self.long(out)?,
                longs: [self.long(bits)?, self.long(into)?],
                words: [self.word(start)?, self.word(count)?],
            },
            (_, [out, inputs @ ..]) => {
                let compute = isa::decode(instruction).ok_or_else(unknown)?;
                self.compute(compute, out, inputs)?
            }
            _ => return Err(unknown()),
        })
    }

    /// Compiles a `mov` that joins registers to a wider one, or splits one.
    fn compile_packing(&mut self, instruction: &Instruction, kind: &str) -> Result<Operation, PtxError> {
        let width = bits_of(kind)?;
        match instruction.operands.as_slice() {
            [out, Operand::Vector(parts)] => {
                let parts = parts.iter().map(|part| self.stored(part)).collect::<Result<Vec<_>, _>>()?;
                let bits = width / parts.len().max(1) as u32;
                Ok(Operation::Pack { out: self.any(out)?, parts, bits })
            }
            [Operand::Vector(parts), input] => {
                let parts = parts.iter().map(|part| self.wanted(part)).collect::<Result<Vec<_>, _>>()?;
                let bits = width / parts.len().max(1) as u32;
                let input =
                    if width == 64 { Register::Long(self.long(input)?) } else { Register::Word(self.word(input)?) };
                Ok(Operation::Unpack { parts, input, bits })
            }
            _ => Err(PtxError::new("a move that the emulator does not know", &instruction.text)),
        }
    }

    /// Compiles logic and moves of predicates.
    fn compile_logic(
        &mut self,
        instruction: &Instruction,
        out: &Operand,
        inputs: &[Operand],
    ) -> Result<Operation, PtxError> {
        let out = self.predicate(out)?;
        let run: fn(u32, u32) -> u32 = match (instruction.operation.as_str(), inputs) {
            ("mov", [Operand::Number(bits)]) => return Ok(Operation::SetPredicate { out, value: *bits != 0 }),
            ("and", _) => |a, b| a & b,
            ("or", _) => |a, b| a | b,
            ("xor", _) => |a, b| a ^ b,
            ("not", _) => |a, _| !a,
            _ => |a, _| a,
        };
        let [first, rest @ ..] = inputs else { return Err(PtxError::new("no operands", &instruction.text)) };
        let first = self.predicate(first)?;
        let second = rest.first().map_or(Ok(first), |input| self.predicate(input))?;
        Ok(Operation::Logic { run, out, inputs: [first, second] })
    }

    /// Compiles a choice or a comparison.
    fn compile_choice(&mut self, instruction: &Instruction, kind: &str) -> Result<Operation, PtxError> {
        let unknown = || PtxError::new("a comparison that the emulator does not know", &instruction.text);
        Ok(match (instruction.operation.as_str(), instruction.operands.as_slice()) {
            ("selp", [out, first, second, chosen]) => {
                let chosen = self.predicate(chosen)?;
                if bits_of(kind)? == 64 {
                    let inputs = [self.long(first)?, self.long(second)?];
                    Operation::SelectLong { out: self.long(out)?, inputs, predicate: chosen }
                } else {
                    let inputs = [self.word(first)?, self.word(second)?];
                    Operation::SelectWord { out: self.word_result(out)?, inputs, predicate: chosen }
                }
            }
            ("setp", [out, first, second, with @ ..]) => {
                self.compile_setp(instruction, out, [first, second], with.first())?
            }
            ("set", [out, first, second]) => {
                // The types are those of the result and of the operands.
                let [.., to, _] = instruction.modifiers.as_slice() else { return Err(unknown()) };
                let one = match to.as_str() {
                    "u32" | "s32" => u32::MAX,
                    "f32" => 1.0_f32.to_bits(),
                    _ => return Err(unknown()),
                };
                let comparison = decode_comparison(&instruction.modifiers).ok_or_else(unknown)?;
                let inputs = self.compared(comparison, [first, second])?;
                Operation::SetWord { comparison, inputs, out: self.word_result(out)?, one }
            }
            _ => return Err(unknown()),
        })
    }

    fn compute(&mut self, compute: Compute, out: &Operand, inputs: &[Operand]) -> Result<Operation, PtxError> {
        // Missing operands repeat the first one.
        let at = |index: usize| inputs.get(index).or(inputs.first()).ok_or_else(|| PtxError::new("no operands", ""));
        Ok(match compute {
            Compute::Word(run) => {
                let inputs = [self.word(at(0)?)?, self.word(at(1)?)?, self.word(at(2)?)?];
                Operation::Word { run, out: self.word_result(out)?, inputs }
            }
            Compute::Long(run) => {
                let inputs = [self.long(at(0)?)?, self.long(at(1)?)?, self.long(at(2)?)?];
                Operation::Long { run, out: self.long(out)?, inputs }
            }
            Compute::Widen(run) => {
                let words = [self.word(at(0)?)?, self.word(at(1)?)?];
                let out = self.long(out)?;
                let long = if inputs.len() > 2 { self.long(at(2)?)? } else { out };
                Operation::Widen { run, out, words, long }
            }
            Compute::Shift(run) => {
                Operation::Shift { run, out: self.long(out)?, long: self.long(at(0)?)?, word: self.word(at(1)?)? }
            }
            Compute::Narrow(run) => Operation::Narrow { run, out: self.word_result(out)?, long: self.long(at(0)?)? },
        })
    }

    fn compile_setp(
        &mut self,
        instruction: &Instruction,
        out: &Operand,
        inputs: [&Operand; 2],
        with: Option<&Operand>,
    ) -> Result<Operation, PtxError> {
        let unknown = || PtxError::new("a comparison that the emulator does not know", &instruction.text);
        let comparison = decode_comparison(&instruction.modifiers).ok_or_else(unknown)?;
        let (out, opposite) = match out {
            Operand::Pair(out, opposite) => (self.wanted(out)?, self.wanted(opposite)?),
            out => (self.wanted(out)?, None),
        };
        let with = match with {
            Some(Operand::Name(name)) => {
                let combine = match instruction.modifiers.get(1).map(String::as_str) {
                    Some("and") => Combine::And,
                    Some("or") => Combine::Or,
                    Some("xor") => Combine::Xor,
                    _ => return Err(unknown()),
                };
                let register = self.register(name.trim_start_matches('!'))?;
                Some((combine, predicate(register)?, name.starts_with('!')))
            }
            Some(_) => return Err(unknown()),
            None => None,
        };
        let inputs = self.compared(comparison, inputs)?;
        let (out, opposite) = (out.map(predicate).transpose()?, opposite.map(predicate).transpose()?);
        Ok(Operation::Compare { comparison, inputs, with, out, opposite })
    }

    fn compared(&mut self, comparison: isa::Comparison, inputs: [&Operand; 2]) -> Result<[u32; 2], PtxError> {
        Ok(match comparison {
            isa::Comparison::Words(_) => [self.word(inputs[0])?, self.word(inputs[1])?],
            isa::Comparison::Longs(_) => [self.long(inputs[0])?, self.long(inputs[1])?],
        })
    }

    /// Returns the word of an operand: a register, a constant, a special name, or the address of a variable.
    pub(super) fn word(&mut self, operand: &Operand) -> Result<u32, PtxError> {
        match operand {
            Operand::Number(bits) => word(self.registers.constant(false, *bits)),
            Operand::Name(name) if name == "WARP_SZ" => word(self.registers.constant(false, isa::LANES as u64)),
            Operand::Name(name) if self.registers.find(name).is_none() => match Special::parse(name) {
                Some(special) => word(self.registers.special(special)),
                None => {
                    let address = self.variable(name)?;
                    word(self.registers.constant(false, address))
                }
            },
            operand => match self.any(operand)? {
                // A source may be wider than its type. The low bits count.
                Register::Long(long) => {
                    let register = self.registers.add(Some(4));
                    let out = word(register)?;
                    self.push(Operation::Narrow { run: isa::low_words, out, long });
                    Ok(out)
                }
                register => word(register),
            },
        }
    }

    /// Returns the register of a result of 32 bits or fewer.
    pub(super) fn word_result(&self, operand: &Operand) -> Result<u32, PtxError> {
        word(self.any(operand)?)
    }

    /// Returns the long of an operand.
    pub(super) fn long(&mut self, operand: &Operand) -> Result<u32, PtxError> {
        match operand {
            Operand::Number(bits) => long(self.registers.constant(true, *bits)),
            Operand::Name(name) if self.registers.find(name).is_none() => {
                let address = self.variable(name)?;
                long(self.registers.constant(true, address))
            }
            operand => long(self.any(operand)?),
        }
    }

    pub(super) fn predicate(&self, operand: &Operand) -> Result<u32, PtxError> {
        predicate(self.any(operand)?)
    }

    /// Returns the register of an operand, of whatever kind.
    pub(super) fn any(&self, operand: &Operand) -> Result<Register, PtxError> {
        match operand {
            Operand::Name(name) => self.register(name),
            other => Err(PtxError::new("not a register", format!("{other:?}"))),
        }
    }

    /// Returns the register of a result, or `None` for `_`.
    pub(super) fn wanted(&self, operand: &Operand) -> Result<Option<Register>, PtxError> {
        match operand {
            Operand::Sink => Ok(None),
            operand => self.any(operand).map(Some),
        }
    }

    /// Returns the address of a variable in its memory.
    pub(super) fn variable(&mut self, name: &str) -> Result<u64, PtxError> {
        if let Some(offset) = self.shared.get(name).or_else(|| self.local.get(name)) {
            return Ok((*offset).into());
        }
        if let Some(address) = self.globals.get(name) {
            return Ok(*address);
        }
        let variable = self.module.shared.iter().find(|variable| variable.name == name);
        let variable = variable.ok_or_else(|| PtxError::new("no such register or variable", name))?;
        if variable.size == 0 {
            return Ok(DYNAMIC_SHARED);
        }
        let start = self.shared_bytes.next_multiple_of(variable.align.max(1) as u32);
        self.shared_bytes = start + variable.size as u32;
        self.shared.insert(name.into(), start);
        Ok(start.into())
    }
}

/// Stands for the begin of dynamic shared memory, which is known when the whole kernel is compiled.
pub(super) const DYNAMIC_SHARED: u64 = 0x7fff_ff00;

/// Returns the number of bits of a type.
pub(super) fn bits_of(kind: &str) -> Result<u32, PtxError> {
    Ok(crate::ptx::size_of_type(kind)? as u32 * 8)
}
