//! PTX text (PTX ISA, version 9.0) as functions and statements. This module knows no instruction: see [`crate::isa`].

mod operand;
mod statement;

use std::collections::HashMap;

pub use operand::{Operand, parse_operands};
pub use statement::{Guard, Instruction, Statement, parse_body};

/// A fault of the text.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("PTX: {what}: `{text}`")]
pub struct PtxError {
    what: &'static str,
    text: String,
}

impl PtxError {
    pub(crate) fn new(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, text: text.into() }
    }

    /// Adds the line that the error is in.
    pub(crate) fn with_line(self, line: &str) -> Self {
        Self { text: if self.text == line { self.text } else { format!("{}` in `{line}", self.text) }, ..self }
    }
}

/// A parameter of a function, at its place among the bytes of all parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub offset: usize,
    pub size: usize,
}

/// A kernel (`.entry`) or a device function (`.func`).
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// Parameter in which a device function leaves its result.
    pub result: Option<Param>,
    pub params: Vec<Param>,
    pub body: Vec<Statement>,
    /// Most threads of a block, if the kernel says so (`.maxntid`, `.reqntid`).
    pub max_threads: Option<u32>,
}

/// A variable of a module, in global, constant or shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub align: usize,
    /// Size in bytes. An `.extern .shared` array has 0: the launch gives the size.
    pub size: usize,
    /// First bytes, for variables in global and constant memory. The others are zero.
    pub bytes: Vec<u8>,
}

/// A parsed module.
#[derive(Debug, Clone, Default)]
pub struct Module {
    pub kernels: HashMap<String, Function>,
    pub functions: HashMap<String, Function>,
    pub globals: Vec<Variable>,
    pub shared: Vec<Variable>,
}

impl Module {
    /// Parses the text of a module.
    ///
    /// # Errors
    /// Names the text that is no PTX.
    pub fn parse(source: &str) -> Result<Self, PtxError> {
        let text = strip_comments(source);
        if !text.contains(".version") {
            return Err(PtxError::new("no .version", text.chars().take(40).collect::<String>()));
        }
        let mut module = Self::default();
        let (mut start, mut at) = (0, 0);
        let bytes = text.as_bytes();
        while at < bytes.len() {
            match bytes[at] {
                b';' => {
                    module.add_variable(text[start..at].trim())?;
                    start = at + 1;
                }
                b'\n' if is_directive(text[start..at].trim()) => start = at + 1,
                b'{' => {
                    let head = text[start..at].trim();
                    let close = closing_brace(&text, at)?;
                    if head.contains('=') {
                        let end = text[close..].find(';').map_or(text.len(), |more| close + more);
                        module.add_variable(text[start..end].trim())?;
                        at = end;
                    } else {
                        module.add_function(head, &text[at + 1..close])?;
                        at = close;
                    }
                    start = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        Ok(module)
    }

    fn add_function(&mut self, head: &str, body: &str) -> Result<(), PtxError> {
        let (is_kernel, rest) = if let Some((_, rest)) = head.split_once(".entry") {
            (true, rest.trim())
        } else if let Some((_, rest)) = head.split_once(".func") {
            (false, rest.trim())
        } else {
            return Err(PtxError::new("neither .entry nor .func", head));
        };
        let (result, rest) = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((result, rest)) => (parse_params(result)?.pop(), rest.trim()),
            None => (None, rest),
        };
        let (name, params, directives) = match rest.split_once('(') {
            Some((name, rest)) => {
                let (params, directives) = rest.split_once(')').ok_or_else(|| PtxError::new("no `)`", head))?;
                (name.trim(), parse_params(params)?, directives)
            }
            None => {
                rest.split_once(char::is_whitespace).map_or((rest, vec![], ""), |(name, more)| (name, vec![], more))
            }
        };
        let max_threads = [".maxntid", ".reqntid"].iter().find_map(|word| {
            let (_, sizes) = directives.split_once(word)?;
            let sizes = sizes.trim().split(['.', '\n']).next()?;
            sizes.split(',').map(|size| size.trim().parse::<u32>().ok()).product::<Option<u32>>()
        });
        let function = Function { name: name.into(), result, params, body: parse_body(body)?, max_threads };
        let all = if is_kernel { &mut self.kernels } else { &mut self.functions };
        all.insert(name.into(), function);
        Ok(())
    }

    fn add_variable(&mut self, text: &str) -> Result<(), PtxError> {
        // Declarations of functions that are defined elsewhere need no code.
        if text.is_empty() || text.contains(".func") || text.contains(".entry") {
            return Ok(());
        }
        let (declared, value) = text.split_once('=').map_or((text, None), |(left, right)| (left, Some(right.trim())));
        let (mut variable, kind) = parse_variable(declared)?;
        if declared.contains(".shared") {
            self.shared.push(variable);
        } else {
            let unit = size_of_type(&kind)?;
            if let Some(values) = value {
                for operand in parse_operands(values.trim_start_matches('{').trim_end_matches('}'))? {
                    let bits = operand.bits().ok_or_else(|| PtxError::new("a value that is no number", text))?;
                    variable.bytes.extend(&bits.to_le_bytes()[..unit]);
                }
            }
            self.globals.push(variable);
        }
        Ok(())
    }
}

/// Returns true for a module's directives, which end with their line.
fn is_directive(line: &str) -> bool {
    [".version", ".target", ".address_size", ".file"].iter().any(|word| line.starts_with(word))
}

fn strip_comments(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('/') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            text.push('/');
            1
        };
        rest = &rest[skipped..];
    }
    text + rest
}

/// Returns the place of the brace that closes the brace at `open`.
fn closing_brace(text: &str, open: usize) -> Result<usize, PtxError> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Ok(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    Err(PtxError::new("a brace that nothing closes", &text[open..text.len().min(open + 40)]))
}

/// Parses a list of `.param` declarations.
fn parse_params(text: &str) -> Result<Vec<Param>, PtxError> {
    let mut params = Vec::new();
    let mut end = 0_usize;
    for declared in text.split(',').map(str::trim).filter(|declared| !declared.is_empty()) {
        let (variable, kind) = parse_variable(declared)?;
        let align = if variable.align > 0 { variable.align } else { size_of_type(&kind)? };
        let offset = end.next_multiple_of(align.max(1));
        end = offset + variable.size;
        params.push(Param { name: variable.name, offset, size: variable.size });
    }
    Ok(params)
}

/// Parses a declaration such as `.shared .align 16 .b8 tile[4096]`. Returns the variable and its type. An alignment that is
/// not given is 0.
pub fn parse_variable(text: &str) -> Result<(Variable, String), PtxError> {
    let fail = |what| PtxError::new(what, text);
    let (mut align, mut kind, mut name) = (0, None, None);
    // In a parameter, the alignment after `.ptr` is that of the memory which the pointer points to.
    let mut is_pointer = false;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            ".align" => {
                let given = words.next().and_then(|number| number.parse().ok()).ok_or_else(|| fail("no alignment"))?;
                align = if is_pointer { align } else { given };
            }
            ".ptr" => is_pointer = true,
            _ if word.starts_with('.') && size_of_type(&word[1..]).is_ok() => kind = Some(word[1..].to_owned()),
            _ if word.starts_with('.') => {}
            _ => name = Some(word),
        }
    }
    let (kind, name) = (kind.ok_or_else(|| fail("no type"))?, name.ok_or_else(|| fail("no name"))?);
    let (name, count) = match name.split_once('[') {
        Some((name, count)) => (name, count.trim_end_matches(']')),
        None => (name, "1"),
    };
    let count = if count.is_empty() { 0 } else { count.parse().map_err(|_| fail("no count"))? };
    let size = count * size_of_type(&kind)?;
    Ok((Variable { name: name.into(), align, size, bytes: Vec::new() }, kind))
}

/// Returns the size of a fundamental type in bytes.
pub fn size_of_type(kind: &str) -> Result<usize, PtxError> {
    Ok(match kind {
        "b8" | "u8" | "s8" | "pred" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return Err(PtxError::new("an unknown type", kind)),
    })
}
