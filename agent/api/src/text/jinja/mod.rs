//! Jinja as transformers sets it up: minijinja with Python's methods, filters and texts.
//!
//! Invariants: every template comes to an end within seconds, in some tens of MiB of memory ([`meter`]), and frees what it
//! has made. No operation makes a text of more than [`python::MAX_TEXT`] bytes.

mod arguments;
mod filters;
mod globals;
mod html;
mod json;
mod meter;
mod methods;
mod operators;
mod printf;
mod python;
mod source;
mod strings;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;

use super::TextError;

pub(in crate::text) use json::to_json;
pub(in crate::text) use meter::INPUT;
pub(in crate::text) use source::adapt;

/// Most instructions of the template engine for one conversation. Each message takes about a hundred.
const FUEL: u64 = 5_000_000;

/// Makes an environment without templates.
///
/// # Errors
/// Never, unless minijinja refuses its own delimiters.
pub(super) fn environment() -> Result<Environment<'static>, TextError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(TextError::TemplateSyntax)?);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, state, value| {
        let text = python::text(value)?;
        meter::spend(state, text.len())?;
        Ok(out.write_str(&text)?)
    });
    environment.set_fuel(Some(FUEL));
    globals::add(&mut environment);
    filters::add(&mut environment);
    Ok(environment)
}
