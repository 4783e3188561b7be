//! Statements of a function's body.

use super::{Operand, PtxError, parse_operands};

/// Predicate under which an instruction runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub predicate: String,
    pub is_negated: bool,
}

/// An instruction.
#[derive(Debug, Clone)]
pub struct Instruction {
    pub guard: Option<Guard>,
    /// Name of the operation, for example `ld`.
    pub operation: String,
    /// Parts of the name after the operation, for example `global`, `v4`, `f32`.
    pub modifiers: Vec<String>,
    pub operands: Vec<Operand>,
    /// The line as it is written, for faults.
    pub text: String,
}

/// A statement.
#[derive(Debug, Clone)]
pub enum Statement {
    /// Begin of a scope.
    Open,
    /// End of a scope.
    Close,
    Label(String),
    /// Registers of one type. `Some(n)` declares `name0` … `name(n-1)`.
    Registers(String, Vec<(String, Option<usize>)>),
    /// A variable in shared or local memory, or a parameter of a call.
    Variable(String),
    /// Labels that `brx.idx` chooses from.
    Targets(String, Vec<String>),
    Instruction(Instruction),
}

/// Parses the text between the braces of a function.
///
/// # Errors
/// Names the statement that cannot be read.
pub fn parse_body(text: &str) -> Result<Vec<Statement>, PtxError> {
    let bytes = text.as_bytes();
    let mut body = Vec::new();
    let (mut start, mut braces) = (0, 0);
    for at in 0..bytes.len() {
        let before = text[start..at].trim();
        match bytes[at] {
            b'{' if before.is_empty() => {
                body.push(Statement::Open);
                start = at + 1;
            }
            b'{' => braces += 1,
            b'}' if braces > 0 => braces -= 1,
            b'}' => {
                body.push(Statement::Close);
                start = at + 1;
            }
            b':' if bytes.get(at + 1) != Some(&b':') && !before.contains([':', ' ', '\t', '\n']) => {
                body.push(Statement::Label(before.into()));
                start = at + 1;
            }
            b';' => {
                add_statement(&mut body, before)?;
                start = at + 1;
            }
            _ => {}
        }
    }
    match text[start..].trim() {
        "" => Ok(body),
        rest => Err(PtxError::new("a statement without an end", rest)),
    }
}

fn add_statement(body: &mut Vec<Statement>, text: &str) -> Result<(), PtxError> {
    let fail = |what| PtxError::new(what, text);
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    // `.reg.b32` is `.reg .b32`.
    let (word, rest) = match word.strip_prefix(".reg.") {
        Some(kind) => (".reg", format!(".{kind} {rest}")),
        None => (word, rest.to_owned()),
    };
    match word {
        "" | ".pragma" | ".loc" => {}
        ".reg" => {
            let (kind, names) = rest.trim().split_once(char::is_whitespace).ok_or_else(|| fail("no registers"))?;
            let names = names.split(',').map(|name| match name.trim().split_once('<') {
                Some((name, count)) => Ok((name.to_owned(), Some(count.trim_end_matches('>').parse()?))),
                None => Ok((name.trim().to_owned(), None)),
            });
            let names = names.collect::<Result<_, std::num::ParseIntError>>().map_err(|_| fail("no count"))?;
            body.push(Statement::Registers(kind.trim_start_matches('.').into(), names));
        }
        ".shared" | ".local" | ".param" => body.push(Statement::Variable(text.into())),
        ".branchtargets" => {
            let Some(Statement::Label(label)) = body.pop() else { return Err(fail("no label")) };
            body.push(Statement::Targets(label, rest.split(',').map(|name| name.trim().into()).collect()));
        }
        _ if word.starts_with('.') => return Err(fail("an unknown directive")),
        _ => body.push(Statement::Instruction(parse_instruction(text)?)),
    }
    Ok(())
}

fn parse_instruction(text: &str) -> Result<Instruction, PtxError> {
    let (guard, rest) = match text.strip_prefix('@') {
        Some(guarded) => {
            let (predicate, rest) =
                guarded.split_once(char::is_whitespace).ok_or_else(|| PtxError::new("only a guard", text))?;
            let is_negated = predicate.starts_with('!');
            (Some(Guard { predicate: predicate.trim_start_matches('!').into(), is_negated }), rest.trim())
        }
        None => (None, text),
    };
    let (name, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let mut parts = name.split('.').map(str::to_owned);
    Ok(Instruction {
        guard,
        operation: parts.next().unwrap_or_default(),
        modifiers: parts.collect(),
        operands: parse_operands(operands)?,
        text: text.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_cut_into_statements() {
        let body = parse_body(
            ".reg .pred %p<2>; { .reg.b32 t; $L_1: @!%p1 ld.shared::cta.v2.u32 {t, _}, [%r1+8]; bra.uni $L_1; }\n\
             ts: .branchtargets $L_1, $L_2; ret;",
        )
        .unwrap();
        let kinds: Vec<_> = body.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 9);
        let Statement::Instruction(load) = &body[4] else { panic!("{:?}", body[4]) };
        assert_eq!((load.operation.as_str(), load.modifiers.join(".")), ("ld", "shared::cta.v2.u32".into()));
        assert_eq!(load.guard, Some(Guard { predicate: "%p1".into(), is_negated: true }));
        assert!(matches!(&body[7], Statement::Targets(label, labels) if label == "ts" && labels.len() == 2));
        assert!(parse_body("add.u32 %r1, %r2, %r3").is_err());
    }
}
