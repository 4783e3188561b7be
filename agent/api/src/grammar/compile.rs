//! Compiles a client's grammar to a [`Guide`], or finds the fault in it.

use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::InferenceCapabilities;

use super::{Grammar, GrammarError, Guide, MAX_SOURCE_BYTES, ebnf, vocabulary};
use crate::text::Tokenizer;

/// White space that JSON may have between two of its elements: none, a space, or a line end with an indentation.
/// Without this bound, an unsure model would fill its context with spaces.
pub(super) const WHITESPACE: &str = r" |\n[ \t]{0,32}";
/// Most states of a grammar's automaton, about 2 KiB each.
const MAX_LEXER_STATES: usize = 32_000;
/// Stack on which a grammar is compiled, in bytes. The compiler calls itself for each level of a schema, of brackets or
/// of rules.
const STACK_BYTES: usize = 64 << 20;
/// Longest part of the compiler's error that clients see.
const MAX_ERROR_CHARS: usize = 600;

/// Compiler of grammars for one model. The first grammar builds the vocabulary's trie.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    vocab_size: u32,
    eos_token_ids: Arc<[u32]>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl Grammars {
    pub fn new(tokenizer: Arc<Tokenizer>, vocab_size: u32, eos_token_ids: Arc<[u32]>) -> Self {
        Self { tokenizer, vocab_size, eos_token_ids, factory: OnceLock::new() }
    }

    /// Compiles a grammar. This takes up to some tens of milliseconds, and up to a second for the first grammar.
    ///
    /// # Errors
    /// The fault in the grammar, or the reason why this model can have no grammar.
    pub fn compile(&self, grammar: &Grammar) -> Result<Guide, GrammarError> {
        let source = source(grammar)?;
        let compile = || {
            let factory = self.factory.get_or_init(|| self.factory());
            let factory = factory.as_ref().map_err(|reason| GrammarError::Internal(reason.clone()))?;
            let matcher = Matcher::new(factory.create_parser(source));
            match matcher.get_error() {
                Some(error) => Err(GrammarError::Invalid(legible(&error))),
                None => Guide::new(matcher, self.vocab_size),
            }
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, compile);
            let thread = thread.map_err(|error| GrammarError::Internal(format!("start a thread: {error}")))?;
            thread.join().unwrap_or_else(|_| Err(GrammarError::Invalid("the grammar cannot be compiled".into())))
        })
    }

    fn factory(&self) -> Result<ParserFactory, String> {
        let environment = vocabulary::environment(&self.tokenizer, self.vocab_size, &self.eos_token_ids)?;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| format!("prepare the vocabulary for grammars: {error}"))?;
        factory.quiet();
        let limits = ParserLimits { max_lexer_states: MAX_LEXER_STATES, verbose_errors: false, ..Default::default() };
        *factory.limits_mut() = limits;
        Ok(factory)
    }
}

fn source(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    let bytes = match grammar {
        Grammar::JsonSchema(value) | Grammar::Llguidance(value) => value.to_string().len(),
        Grammar::JsonObject => 0,
        Grammar::Regex(text) | Grammar::Lark(text) => text.len(),
        Grammar::Choice(texts) => texts.iter().map(String::len).sum(),
    };
    if bytes > MAX_SOURCE_BYTES {
        return Err(GrammarError::Invalid(format!("it has {bytes} bytes, more than {MAX_SOURCE_BYTES}")));
    }
    Ok(match grammar {
        Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_whitespace(schema.clone())?),
        Grammar::JsonObject => TopLevelGrammar::from_json_schema(with_whitespace(json!({"type": "object"}))?),
        Grammar::Regex(regex) if regex.is_empty() => {
            return Err(GrammarError::Invalid("the regular expression is empty".into()));
        }
        Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Grammar::Choice(texts) => TopLevelGrammar::from_lark(choice(texts)?),
        Grammar::Lark(grammar) if ebnf::is_ebnf(grammar) => {
            TopLevelGrammar::from_lark(ebnf::to_lark(grammar).map_err(GrammarError::Invalid)?)
        }
        Grammar::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        Grammar::Llguidance(grammar) => serde_json::from_value(grammar.clone())
            .map_err(|error| GrammarError::Invalid(format!("it is no grammar of llguidance: {error}")))?,
    })
}

fn choice(texts: &[String]) -> Result<String, GrammarError> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(GrammarError::Invalid("give at least one text to choose, and none that is empty".into()));
    }
    let literals: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    // A terminal costs a step the same for any number of texts. The alternatives of a rule would cost it one by one.
    Ok(format!("start: CHOICE\nCHOICE: {}", literals.join(" | ")))
}

/// Returns a text as Lark spells it, which is as JSON does.
pub(crate) fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// Adds [`WHITESPACE`] to a schema that has no `x-guidance`, which holds llguidance's options.
///
/// # Errors
/// The value is no schema.
pub(crate) fn with_whitespace(mut schema: Value) -> Result<Value, GrammarError> {
    match &mut schema {
        Value::Object(fields) => {
            fields.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": WHITESPACE}));
        }
        Value::Bool(true) => schema = json!({"x-guidance": {"whitespace_pattern": WHITESPACE}}),
        _ => return Err(GrammarError::Invalid("a schema is an object".into())),
    }
    Ok(schema)
}

/// Returns the compiler's error, cut to a length that a client can read.
fn legible(error: &str) -> String {
    // The library shows a schema's place in a grammar that clients do not know.
    let error = match error.split_once("failed to compile JSON schema: ") {
        Some((_, error)) => error.lines().next().unwrap_or_default(),
        None => error,
    };
    let cut: String = error.trim().chars().take(MAX_ERROR_CHARS).collect();
    if cut.len() < error.trim().len() { format!("{cut}…") } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixtures;

    fn grammars() -> Grammars {
        Grammars::new(fixtures::byte_level(), fixtures::BYTE_LEVEL_VOCAB, vec![fixtures::END].into())
    }

    /// Returns true if the grammar accepts the text, token by token, and may or must end after it.
    fn takes(grammars: &Grammars, grammar: &Grammar, text: &str) -> bool {
        let mut guide = grammars.compile(grammar).unwrap();
        let ids = fixtures::byte_level().encode(text, false).unwrap();
        for (at, id) in ids.iter().enumerate() {
            if !guide.allowed().unwrap().unwrap().contains(*id) {
                return false;
            }
            if guide.advance(*id).unwrap() {
                return at + 1 == ids.len();
            }
        }
        guide.allowed().unwrap().unwrap().contains(fixtures::END)
    }

    #[test]
    fn forms_are_kept() {
        let grammars = grammars();
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
                            "required": ["a"], "additionalProperties": false});
        let cases = [
            (Grammar::JsonSchema(schema.clone()), "{\"a\": 5}", true),
            (Grammar::JsonSchema(schema.clone()), "{\"a\":-12,\"b\":\"y\"}", true),
            (Grammar::JsonSchema(schema.clone()), "{\n  \"a\": 1\n}", true),
            (Grammar::JsonSchema(schema.clone()), "{\"a\":   5}", false),
            (Grammar::JsonSchema(schema.clone()), "{\"b\": \"y\"}", false),
            (Grammar::JsonSchema(schema), "{\"a\": 5, \"b\": \"z\"}", false),
            (Grammar::JsonSchema(json!({"$defs": {"n": {"type": "null"}}, "$ref": "#/$defs/n"})), "null", true),
            (Grammar::JsonSchema(json!(true)), "[1, {}]", true),
            (Grammar::JsonObject, "{\"k\": [1, true, null]}", true),
            (Grammar::JsonObject, "[1]", false),
            (Grammar::Regex("a[bc]+/d?".into()), "abcb/d", true),
            (Grammar::Regex("a[bc]+/d?".into()), "abcb/", true),
            (Grammar::Regex("a[bc]+/d?".into()), "abd", false),
            (Grammar::Choice(vec!["yes \"sir\"".into(), "no".into()]), "yes \"sir\"", true),
            (Grammar::Choice(vec!["yes".into(), "no".into()]), "ye", false),
            (Grammar::Lark("start: \"x\" y*\ny: /[0-9]/ \",\"".into()), "x1,2,", true),
            (Grammar::Lark("start: \"x\" y*\ny: /[0-9]/ \",\"".into()), "x1,2", false),
            (Grammar::Llguidance(json!({"grammars": [{"lark_grammar": "start: \"x\""}]})), "x", true),
        ];
        for (grammar, text, expected) in cases {
            assert_eq!(takes(&grammars, &grammar, text), expected, "{grammar:?} and {text}");
        }
    }

    #[test]
    fn ebnf_is_understood() {
        const SQL: &str = "root ::= \"SELECT \" col\ncol ::= \"a\" | \"b\"";
        const CLASSES: &str =
            "# words\nroot ::= word (sep word){1,2} [^a-z]?\nword ::= [a-zA-Z_-]+ | \"it's\"\nsep ::= [\\x20\\n]+";
        const JSON: &str = r#"root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}"#;
        let grammars = grammars();
        for (grammar, text, expected) in [
            (SQL, "SELECT a", true),
            (SQL, "SELECT c", false),
            (CLASSES, "ab Cd", true),
            (CLASSES, "ab\n C-d e_f!", true),
            (CLASSES, "it's me", true),
            (CLASSES, "ab", false),
            (CLASSES, "a b c d", false),
            (JSON, "{\"a\": [1.5e3, {}, \"\\u00e9\", null ],\n  \"b\":true}", true),
            (JSON, "{\"a\": [1,]}", false),
            (JSON, "[1]", false),
        ] {
            assert_eq!(takes(&grammars, &Grammar::Lark(grammar.into()), text), expected, "{grammar} and {text}");
        }
    }

    #[test]
    fn structural_tags_are_kept() {
        let integer = json!({"type": "integer"});
        let older = json!({"type": "structural_tag", "triggers": ["<f"], "structures": [
            {"begin": "<f=a>", "schema": integer, "end": "</f>"}, {"begin": "<f=b>", "schema": {"type": "null"}, "end": "</f>"}]});
        let tag = json!({"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"});
        let newer = json!({"format": {"type": "sequence", "elements": [tag, {"type": "triggered_tags", "triggers": ["<f>"],
            "tags": [{"begin": "<f>", "content": {"type": "json_schema", "json_schema": integer}, "end": "</f>"}],
            "at_least_one": true, "stop_after_first": true}]}});
        let either = json!({"format": {"type": "or", "elements": [{"type": "const_string", "value": "no"},
            {"type": "tags_with_separator", "separator": ",", "at_least_one": true,
             "tags": [{"begin": "(", "content": {"type": "regex", "pattern": "[a-z/]+"}, "end": ")"}]}]}});
        let grammars = grammars();
        for (tags, text, expected) in [
            (&older, "free text", true),
            (&older, "ab <f=a>12</f> c <f=b>null</f>", true),
            (&older, "ab <f=a>null</f>", false),
            (&older, "ab <f=c>", false),
            (&older, "ab < f", true),
            (&newer, "<t>hm\n< /t></t>so <f>3</f>", true),
            (&newer, "<t>hm</t>so", false),
            (&newer, "<t>hm</t>so <f>x", false),
            (&either, "no", true),
            (&either, "(a/b),(c)", true),
            (&either, "(1)", false),
        ] {
            let grammar = Grammar::Lark(crate::grammar::tags::to_lark(tags).unwrap());
            assert_eq!(takes(&grammars, &grammar, text), expected, "{tags} and {text}");
        }
        for (tags, fault) in [
            (json!({}), "structures: expected a list"),
            (json!({"structures": [], "triggers": ["<f>"]}), "structures: expected at least one tag"),
            (
                json!({"structures": [{"begin": "x", "schema": {}, "end": ""}], "triggers": ["<f>"]}),
                "structures[0].begin: it",
            ),
            (
                json!({"format": {"type": "sequence", "elements": [{"type": "xml"}]}}),
                "format.elements[0].type: \"xml\" is",
            ),
        ] {
            let error = crate::grammar::tags::to_lark(&tags).unwrap_err();
            assert!(error.starts_with(fault), "{error}");
        }
    }

    #[test]
    fn thousands_of_texts_can_be_chosen_from() {
        let texts: Vec<String> = (0..20_000).map(|number| format!("label {number}")).collect();
        let grammars = grammars();
        let labels = Grammar::Choice(texts);
        for (text, expected) in [("label 19999", true), ("label 20000", false)] {
            assert_eq!(takes(&grammars, &labels, text), expected, "{text}");
        }
        let prefixes = Grammar::Choice(vec!["a".into(), "ab".into()]);
        for (text, expected) in [("a", true), ("ab", true), ("abb", false)] {
            assert_eq!(takes(&grammars, &prefixes, text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let grammars = grammars();
        let deep = (0..90).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
        assert!(grammars.compile(&Grammar::JsonSchema(deep)).is_ok(), "levels are no matter");
        let cases = [
            (Grammar::JsonSchema(json!("x")), "a schema is an object"),
            (Grammar::JsonSchema(json!({"type": "robot"})), "robot"),
            (Grammar::JsonSchema(json!({"$ref": "#/$defs/gone"})), "gone"),
            (Grammar::JsonSchema(json!({"type": "string", "pattern": "("})), "("),
            (Grammar::JsonSchema(json!({"type": "integer", "minimum": 5, "maximum": 2})), "minimum"),
            (Grammar::JsonSchema(json!({"x": "y".repeat(MAX_SOURCE_BYTES)})), "more than 262144"),
            (Grammar::Regex(String::new()), "is empty"),
            (Grammar::Regex("(".into()), "("),
            (Grammar::Choice(vec![]), "at least one text"),
            (Grammar::Lark("start: nothing".into()), "nothing"),
            (Grammar::Lark("(".repeat(100_000)), ""),
            (Grammar::Regex("(".repeat(100_000)), ""),
        ];
        for (grammar, expected) in cases {
            let shown = format!("{grammar:?}").chars().take(80).collect::<String>();
            match grammars.compile(&grammar) {
                Err(GrammarError::Invalid(reason)) => assert!(reason.contains(expected), "{shown}: {reason}"),
                other => panic!("{shown}: {other:?}"),
            }
        }
    }

    #[test]
    fn rules_that_call_each_other_do_not_exhaust_the_stack() {
        let rules: String = (0..8_000).map(|rule| format!("r{rule}: r{}\n", rule + 1)).collect();
        let chain = Grammar::Lark(format!("start: r0\n{rules}r8000: \"x\"\n"));
        drop(grammars().compile(&chain));
        let nested = Grammar::Regex(format!("{}a{}", "(".repeat(2_000), ")".repeat(2_000)));
        drop(grammars().compile(&nested));
    }

    #[test]
    fn what_comes_before_a_mark_is_free() {
        let guide = grammars().compile(&Grammar::Regex("ab".into())).unwrap();
        let mut guide = guide.after_mark("</t>", fixtures::byte_level());
        for id in b"x</</t" {
            assert_eq!(guide.allowed().unwrap(), None);
            assert!(!guide.advance(u32::from(*id)).unwrap());
        }
        assert!(!guide.advance(u32::from(b'>')).unwrap());
        let allowed = guide.allowed().unwrap().unwrap();
        assert!(allowed.contains(u32::from(b'a')) && !allowed.contains(u32::from(b'x')));
    }

    #[test]
    fn a_clone_goes_its_own_way() {
        let mut first = grammars().compile(&Grammar::Regex("ab|cd".into())).unwrap();
        let mut second = first.clone();
        assert!(!first.advance(u32::from(b'a')).unwrap() && !second.advance(u32::from(b'c')).unwrap());
        assert!(first.allowed().unwrap().unwrap().contains(u32::from(b'b')));
        assert!(!second.allowed().unwrap().unwrap().contains(u32::from(b'b')));
        assert!(first.advance(u32::from(b'b')).unwrap(), "nothing can follow");
        assert!(second.advance(u32::from(b'x')).is_err());
    }
}
