//! Instructions that touch memory.

use super::instruction::bits_of;
use super::operation::COMBINES;
use super::registers::Register;
use super::{Address, Compiler, Number, Operation, Space};
use crate::ptx::{Instruction, Operand, PtxError};

impl Compiler<'_> {
    pub(super) fn compile_memory(&mut self, instruction: &Instruction) -> Result<Operation, PtxError> {
        match instruction.operation.as_str() {
            "st" => self.compile_store(instruction),
            "atom" | "red" => self.compile_atomic(instruction),
            "cp" => self.compile_copy(instruction),
            _ => self.compile_load(instruction),
        }
    }

    fn compile_load(&mut self, instruction: &Instruction) -> Result<Operation, PtxError> {
        let [out, Operand::Address(base, offset)] = instruction.operands.as_slice() else {
            return Err(PtxError::new("no address", &instruction.text));
        };
        let kind = instruction.modifiers.last().map_or("", String::as_str);
        let (size, is_signed) = (bits_of(kind)? / 8, kind.starts_with('s'));
        let parts = match out {
            Operand::Vector(parts) => parts.iter().map(|part| self.wanted(part)).collect::<Result<Vec<_>, _>>()?,
            out => vec![self.wanted(out)?],
        };
        if is_of(instruction, "param") {
            let Operand::Name(name) = base.as_ref() else {
                return Err(PtxError::new("no parameter", &instruction.text));
            };
            if let Some(register) = self.registers.find(name) {
                return self.move_slot(parts.first().copied().flatten(), Some(register), *offset, &instruction.text);
            }
            let param = self.params.iter().find(|param| param.name == *name);
            let param = param.ok_or_else(|| PtxError::new("no such parameter", name))?;
            let offset = param.offset + usize::try_from(*offset).unwrap_or_default();
            return Ok(Operation::LoadParam { offset, size, is_signed, parts });
        }
        Ok(Operation::Load {
            space: space_of(instruction),
            size,
            is_signed,
            parts,
            address: self.address(base, *offset)?,
        })
    }

    fn compile_store(&mut self, instruction: &Instruction) -> Result<Operation, PtxError> {
        let [Operand::Address(base, offset), value] = instruction.operands.as_slice() else {
            return Err(PtxError::new("no address", &instruction.text));
        };
        let kind = instruction.modifiers.last().map_or("", String::as_str);
        let size = bits_of(kind)? / 8;
        let mut register = |operand: &Operand| {
            if size == 8 { self.long(operand).map(Register::Long) } else { self.stored(operand) }
        };
        let parts = match value {
            Operand::Vector(parts) => parts.iter().map(register).collect::<Result<Vec<_>, _>>()?,
            value => vec![register(value)?],
        };
        if is_of(instruction, "param") {
            let Operand::Name(name) = base.as_ref() else {
                return Err(PtxError::new("no parameter", &instruction.text));
            };
            let slot = self.register(name)?;
            return self.move_slot(Some(slot), parts.first().copied(), *offset, &instruction.text);
        }
        Ok(Operation::Store { space: space_of(instruction), size, parts, address: self.address(base, *offset)? })
    }

    /// Returns the register of a value of at most 32 bits. The register may be wider.
    pub(super) fn stored(&mut self, operand: &Operand) -> Result<Register, PtxError> {
        match self.any(operand) {
            Ok(register) => Ok(register),
            Err(_) => self.word(operand).map(Register::Word),
        }
    }

    /// Moves a value to or from the parameter of a call, which is a register.
    fn move_slot(
        &self,
        out: Option<Register>,
        input: Option<Register>,
        offset: i64,
        text: &str,
    ) -> Result<Operation, PtxError> {
        match (out, input, offset) {
            (Some(out), Some(input), 0) => Ok(Operation::Pack { out, parts: vec![input], bits: 64 }),
            (None, ..) => Ok(Operation::Nothing),
            _ => Err(PtxError::new("a part of a parameter", text)),
        }
    }

    fn compile_atomic(&mut self, instruction: &Instruction) -> Result<Operation, PtxError> {
        let unknown = || PtxError::new("an atomic operation that the emulator does not know", &instruction.text);
        let (out, rest) = match (instruction.operation.as_str(), instruction.operands.as_slice()) {
            ("atom", [out, rest @ ..]) => (self.wanted(out)?, rest),
            (_, rest) => (None, rest),
        };
        let [Operand::Address(base, offset), value, swap @ ..] = rest else { return Err(unknown()) };
        let kind = instruction.modifiers.last().map_or("", String::as_str);
        let combine = COMBINES.into_iter().find(|(word, _)| is_of(instruction, word)).ok_or_else(unknown)?.1;
        let number = match kind {
            "f32" | "f64" => Number::Float,
            "f16x2" => Number::F16x2,
            "bf16x2" => Number::Bf16x2,
            "s32" | "s64" => Number::Signed,
            "u32" | "b32" | "u64" | "b64" => Number::Unsigned,
            _ => return Err(unknown()),
        };
        let size = bits_of(kind)? / 8;
        let mut register = |operand: &Operand| {
            if size == 8 { self.long(operand).map(Register::Long) } else { self.word(operand).map(Register::Word) }
        };
        let (value, swap) = (register(value)?, swap.first().map(register).transpose()?);
        let address = self.address(base, *offset)?;
        Ok(Operation::Atomic { space: space_of(instruction), combine, number, size, out, address, value, swap })
    }

    /// Compiles `cp.async` and its groups.
    fn compile_copy(&mut self, instruction: &Instruction) -> Result<Operation, PtxError> {
        let unknown = || PtxError::new("a copy that the emulator does not know", &instruction.text);
        if is_of(instruction, "bulk") || !is_of(instruction, "async") {
            return Err(unknown());
        }
        if is_of(instruction, "commit_group") {
            return Ok(Operation::CommitCopies);
        }
        if is_of(instruction, "wait_all") {
            return Ok(Operation::WaitForCopies(None));
        }
        match instruction.operands.as_slice() {
            [Operand::Number(pending)] if is_of(instruction, "wait_group") => {
                Ok(Operation::WaitForCopies(Some(*pending as u32)))
            }
            [
                Operand::Address(to, to_offset),
                Operand::Address(from, from_offset),
                Operand::Number(size),
                source @ ..,
            ] => Ok(Operation::CopyAsync {
                to: self.address(to, *to_offset)?,
                from: self.address(from, *from_offset)?,
                size: *size as u32,
                source_size: source.first().map(|size| self.word(size)).transpose()?,
            }),
            _ => Err(unknown()),
        }
    }

    /// Compiles a change between generic addresses and those of shared or local memory.
    pub(super) fn compile_cvta(
        &mut self,
        instruction: &Instruction,
        out: &Operand,
        input: &Operand,
    ) -> Result<Operation, PtxError> {
        let (space, out, input) = (space_of(instruction), self.long(out)?, self.long(input)?);
        Ok(if is_of(instruction, "to") {
            Operation::FromGeneric { space, out, input }
        } else {
            Operation::ToGeneric { space, out, input }
        })
    }

    pub(super) fn address(&mut self, base: &Operand, offset: i64) -> Result<Address, PtxError> {
        let base = match base {
            Operand::Name(name) => match self.registers.find(name) {
                Some(register) => register,
                None => Register::Long(self.long(base)?),
            },
            base => Register::Long(self.long(base)?),
        };
        Ok(Address { base, offset })
    }
}

fn is_of(instruction: &Instruction, word: &str) -> bool {
    instruction.modifiers.iter().any(|modifier| modifier.split("::").next() == Some(word))
}

fn space_of(instruction: &Instruction) -> Space {
    if instruction.operation == "cp" {
        return Space::Shared;
    }
    for (word, space) in
        [("global", Space::Global), ("const", Space::Global), ("shared", Space::Shared), ("local", Space::Local)]
    {
        if is_of(instruction, word) {
            return space;
        }
    }
    Space::Generic
}
