//! Kernels as lists of operations with numbered registers. Calls of device functions are inlined.

mod instruction;
mod memory;
mod operation;
mod registers;
mod warp;

use std::collections::HashMap;

pub use operation::{Address, Combine, Element, Number, Operation, Shuffle, Space, Step, Vote};
pub use registers::{Initial, Register, Special};

use crate::ptx::{Function, Instruction, Module, Operand, Param, PtxError, Statement, parse_variable};
use registers::Registers;

/// Depth of calls, against functions that call themselves.
const MAX_CALLS: usize = 32;
/// Alignment of shared memory whose size the launch gives.
const DYNAMIC_ALIGN: u32 = 128;

/// A compiled kernel.
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub steps: Vec<Step>,
    /// Texts of the instructions, for faults.
    pub lines: Vec<String>,
    pub words: Vec<Initial>,
    pub longs: Vec<Initial>,
    pub predicates: u32,
    /// Bytes of shared memory of a block that the kernel declares. Dynamic memory begins behind them.
    pub shared_bytes: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
    pub max_threads: Option<u32>,
}

/// Compiles a kernel of `module`, whose variables in global memory are at `globals`.
///
/// # Errors
/// Names the first instruction that the emulator does not know.
pub fn compile(module: &Module, name: &str, globals: &HashMap<String, u64>) -> Result<Kernel, PtxError> {
    let function = module.kernels.get(name).ok_or_else(|| PtxError::new("no such kernel", name))?;
    let mut compiler = Compiler {
        module,
        globals,
        params: &function.params,
        registers: Registers::default(),
        steps: Vec::new(),
        lines: Vec::new(),
        labels: HashMap::new(),
        jumps: Vec::new(),
        shared: HashMap::new(),
        shared_bytes: 0,
        local: HashMap::new(),
        local_bytes: 0,
        calls: Vec::new(),
        call_count: 0,
    };
    compiler.registers.open_scope();
    compiler.add_body(function)?;
    compiler.push(Operation::Exit);
    compiler.resolve_jumps()?;
    let shared_bytes = compiler.shared_bytes.next_multiple_of(DYNAMIC_ALIGN);
    for initial in compiler.registers.words.iter_mut().chain(&mut compiler.registers.longs) {
        if *initial == Initial::Constant(instruction::DYNAMIC_SHARED) {
            *initial = Initial::Constant(shared_bytes.into());
        }
    }
    Ok(Kernel {
        name: name.into(),
        params: function.params.clone(),
        steps: compiler.steps,
        lines: compiler.lines,
        words: compiler.registers.words,
        longs: compiler.registers.longs,
        predicates: compiler.registers.predicates,
        shared_bytes,
        local_bytes: compiler.local_bytes,
        max_threads: function.max_threads,
    })
}

/// A call that is being inlined.
struct Call {
    /// Prefix of the labels of the function, which may be inlined several times.
    prefix: String,
    /// Label behind the function.
    end: String,
}

struct Compiler<'a> {
    module: &'a Module,
    globals: &'a HashMap<String, u64>,
    params: &'a [Param],
    registers: Registers,
    steps: Vec<Step>,
    lines: Vec<String>,
    labels: HashMap<String, usize>,
    /// Steps that jump, with the labels of their targets.
    jumps: Vec<(usize, Vec<String>)>,
    shared: HashMap<String, u32>,
    shared_bytes: u32,
    local: HashMap<String, u32>,
    local_bytes: u32,
    calls: Vec<Call>,
    call_count: usize,
}

impl Compiler<'_> {
    fn add_body(&mut self, function: &Function) -> Result<(), PtxError> {
        let mut targets = HashMap::new();
        for statement in &function.body {
            match statement {
                Statement::Open => self.registers.open_scope(),
                Statement::Close => self.registers.close_scope(),
                Statement::Label(label) => {
                    self.labels.insert(self.full_label(label), self.steps.len());
                }
                Statement::Registers(kind, names) => self.declare_registers(kind, names)?,
                Statement::Variable(text) => self.declare_variable(text)?,
                Statement::Targets(label, labels) => {
                    let labels: Vec<_> = labels.iter().map(|label| self.full_label(label)).collect();
                    targets.insert(label.clone(), labels);
                }
                Statement::Instruction(instruction) => self.add_instruction(instruction, &targets)?,
            }
        }
        Ok(())
    }

    fn full_label(&self, label: &str) -> String {
        let prefix = self.calls.last().map_or("", |call| call.prefix.as_str());
        format!("{prefix}{label}")
    }

    fn declare_registers(&mut self, kind: &str, names: &[(String, Option<usize>)]) -> Result<(), PtxError> {
        let size = if kind == "pred" { None } else { Some(crate::ptx::size_of_type(kind)?) };
        for (name, count) in names {
            match count {
                Some(count) => (0..*count).for_each(|index| {
                    let register = self.registers.add(size);
                    self.registers.name(format!("{name}{index}"), register);
                }),
                None => {
                    let register = self.registers.add(size);
                    self.registers.name(name.clone(), register);
                }
            }
        }
        Ok(())
    }

    fn declare_variable(&mut self, text: &str) -> Result<(), PtxError> {
        let (variable, _) = parse_variable(text)?;
        let align = variable.align.max(1) as u32;
        let place = |end: &mut u32| {
            let start = end.next_multiple_of(align);
            *end = start + variable.size as u32;
            start
        };
        if text.starts_with(".shared") {
            self.shared.insert(variable.name.clone(), place(&mut self.shared_bytes));
        } else if text.starts_with(".local") {
            self.local.insert(variable.name.clone(), place(&mut self.local_bytes));
        } else if variable.size > 8 {
            return Err(PtxError::new("a parameter of a call with more than 8 bytes", text));
        } else {
            // A parameter of a call is a register with the name of the parameter.
            let register = self.registers.add(Some(variable.size));
            self.registers.name(variable.name, register);
        }
        Ok(())
    }

    fn add_instruction(
        &mut self,
        instruction: &Instruction,
        targets: &HashMap<String, Vec<String>>,
    ) -> Result<(), PtxError> {
        let fail = |error: PtxError| error.with_line(&instruction.text);
        self.lines.push(instruction.text.clone());
        let guard = match &instruction.guard {
            Some(guard) => {
                let register = self.register(&guard.predicate).map_err(fail)?;
                Some((registers::predicate(register).map_err(fail)?, guard.is_negated))
            }
            None => None,
        };
        match instruction.operation.as_str() {
            "call" => self.inline_call(&instruction.operands).map_err(fail)?,
            "bra" => {
                let Some(Operand::Name(label)) = instruction.operands.first() else {
                    return Err(PtxError::new("no label", &instruction.text));
                };
                self.jumps.push((self.steps.len(), vec![self.full_label(label)]));
                self.push(Operation::Branch(0));
            }
            "brx" => {
                let (Some(index), Some(Operand::Name(list))) =
                    (instruction.operands.first(), instruction.operands.get(1))
                else {
                    return Err(PtxError::new("no index and no list", &instruction.text));
                };
                let index = self.word(index).map_err(fail)?;
                let labels = targets.get(list).cloned().ok_or_else(|| PtxError::new("no such list", list))?;
                self.jumps.push((self.steps.len(), labels));
                self.push(Operation::BranchIndexed { targets: Vec::new(), index });
            }
            "ret" if !self.calls.is_empty() => {
                let end = self.calls.last().map(|call| call.end.clone()).unwrap_or_default();
                self.jumps.push((self.steps.len(), vec![end]));
                self.push(Operation::Branch(0));
            }
            _ => {
                let operation = self.compile_instruction(instruction).map_err(fail)?;
                self.push(operation);
            }
        }
        if guard.is_some() {
            if instruction.operation == "call" {
                return Err(PtxError::new("a guarded call", &instruction.text));
            }
            // Steps before the last one only prepare its operands.
            if let Some(step) = self.steps.last_mut() {
                step.guard = guard;
            }
        }
        Ok(())
    }

    fn push(&mut self, operation: Operation) {
        let line = self.lines.len().saturating_sub(1) as u32;
        self.steps.push(Step { guard: None, operation, line });
    }

    /// Inlines a call: `(result), name, (arguments)`.
    fn inline_call(&mut self, operands: &[Operand]) -> Result<(), PtxError> {
        let (result, rest) = match operands {
            [Operand::Vector(result), rest @ ..] => (result.first(), rest),
            rest => (None, rest),
        };
        let (name, arguments) = match rest {
            [Operand::Name(name)] => (name, [].as_slice()),
            [Operand::Name(name), Operand::Vector(arguments), ..] => (name, arguments.as_slice()),
            _ => return Err(PtxError::new("a call that is not direct", format!("{rest:?}"))),
        };
        let module = self.module;
        let Some(function) = module.functions.get(name) else {
            // The device's own functions. Nobody reads what a kernel prints here.
            return match name.as_str() {
                "vprintf" => Ok(()),
                "__assertfail" => {
                    self.push(Operation::Trap);
                    Ok(())
                }
                _ => Err(PtxError::new("a function that is not defined", name)),
            };
        };
        if self.calls.len() >= MAX_CALLS {
            return Err(PtxError::new("calls too deep", name));
        }
        let slot = |compiler: &Self, operand: &Operand| match operand {
            Operand::Name(name) => compiler.register(name),
            other => Err(PtxError::new("an argument that is no parameter", format!("{other:?}"))),
        };
        let mut slots = Vec::new();
        for (param, argument) in function.params.iter().zip(arguments) {
            slots.push((param.name.clone(), slot(self, argument)?));
        }
        if let (Some(param), Some(result)) = (&function.result, result) {
            slots.push((param.name.clone(), slot(self, result)?));
        }
        self.call_count += 1;
        let prefix = format!("{name}${}$", self.call_count);
        let end = format!("{prefix}end");
        let hidden = self.registers.hide();
        slots.into_iter().for_each(|(name, register)| self.registers.name(name, register));
        self.calls.push(Call { prefix, end: end.clone() });
        self.add_body(function)?;
        self.calls.pop();
        self.registers.restore(hidden);
        self.labels.insert(end, self.steps.len());
        Ok(())
    }

    fn resolve_jumps(&mut self) -> Result<(), PtxError> {
        for (step, labels) in std::mem::take(&mut self.jumps) {
            let find =
                |label: &String| self.labels.get(label).copied().ok_or_else(|| PtxError::new("no such label", label));
            let found = labels.iter().map(find).collect::<Result<Vec<_>, _>>()?;
            match &mut self.steps[step].operation {
                Operation::Branch(target) => *target = found[0],
                Operation::BranchIndexed { targets, .. } => *targets = found,
                _ => {}
            }
        }
        Ok(())
    }

    fn register(&self, name: &str) -> Result<Register, PtxError> {
        self.registers.find(name).ok_or_else(|| PtxError::new("no such register", name))
    }
}
