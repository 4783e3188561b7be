//! The rule for fields, and the table in `API.md`.

use serde_json::json;

use super::known::{At, NESTED, OBEYED, REFUSED, Rule, WITHOUT_EFFECT};
use super::*;

fn fields(body: Value) -> Fields {
    Fields::parse(body.to_string().as_bytes(), Unknown::default()).unwrap()
}

#[test]
fn no_field_has_two_rules() {
    let obeyed = OBEYED.iter().map(|(name, ..)| *name);
    let others = WITHOUT_EFFECT.iter().map(|(name, _)| *name).chain(REFUSED.iter().map(|(name, ..)| *name));
    let mut names: Vec<String> = obeyed.chain(others).map(str::to_owned).collect();
    names.extend(NESTED.iter().map(|(scope, name, _)| format!("{}{name}", scope.path())));
    let mut seen = std::collections::HashSet::new();
    names.iter().for_each(|name| assert!(seen.insert(name), "{name} has two rules"));
}

#[test]
fn what_asks_for_nothing_is_taken() {
    let neutral = REFUSED.iter().flat_map(|(name, neutral, _)| neutral.iter().map(move |text| (*name, *text)));
    let elsewhere = OBEYED.iter().flat_map(|(name, _, neutral, _)| neutral.iter().map(move |text| (*name, *text)));
    for (name, text) in neutral.chain(elsewhere) {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(judge(Scope::Request, name, &value), Verdict::Taken, "{name}: {text}");
    }
    for (name, neutral, _) in REFUSED {
        let is_wish = judge(Scope::Request, name, &json!(false)) != Verdict::Taken;
        assert_eq!(is_wish, neutral.contains(&"true"), "{name}: false");
        for value in [json!(null), json!(""), json!([]), json!({})] {
            assert_eq!(judge(Scope::Request, name, &value), Verdict::Taken, "{name}: {value}");
        }
        let asks = judge(Scope::Request, name, &json!(["x"]));
        assert!(matches!(&asks, Verdict::Refused(reason) if reason.starts_with("not supported: ")), "{name}");
    }
    assert_eq!(judge(Scope::Request, "typical_p", &json!(1.0)), Verdict::Taken);
    assert!(matches!(judge(Scope::Request, "typical_p", &json!(1.1)), Verdict::Refused(_)));
    assert_eq!(judge(Scope::Request, "mesages", &json!([])), Verdict::Unknown);
}

#[test]
fn all_faults_are_named_in_the_order_of_the_body() {
    let mut fields = fields(json!({"z": 1, "echo": true, "n": "two", "suffix": "x", "seed": [], "prompt": "p"}));
    fields.take_value("prompt");
    let (seed, n): (Option<i64>, Option<u32>) = (fields.read("seed"), fields.read("n"));
    assert_eq!((seed, n), (None, None));
    let unknown = fields.unknown.clone();
    let error = fields.refuse_rest().unwrap_err();
    assert_eq!(error.param.as_deref(), Some("echo"));
    let faults: Vec<&str> = error.message.split("; ").map(|fault| fault.split(':').next().unwrap()).collect();
    assert_eq!(faults, ["echo", "n", "suffix", "seed"]);
    assert!(!unknown.is_strict());
}

#[test]
fn a_hostile_body_gets_a_short_answer() {
    let many: Map<String, Value> = REFUSED.iter().map(|(name, ..)| ((*name).to_owned(), json!(["x"]))).collect();
    let error = fields(Value::Object(many)).refuse_rest().unwrap_err();
    assert!(error.message.ends_with("; and more") && error.message.len() < 4096, "{}", error.message);
    let mut many = fields(json!({"messages": vec![json!({}); 1000]}));
    many.noting(crate::http::messages::take_messages);
    assert_eq!(many.faults.len(), MAX_FAULTS + 1);
}

#[test]
fn inner_objects_have_their_paths() {
    let mut outer = fields(json!({"stream": true, "stream_options": {"include_usage": 1, "other": 2}}));
    assert!(outer.take_streaming().is_some());
    let unknown = outer.unknown.clone();
    let error = outer.refuse_rest().unwrap_err();
    assert_eq!(error.message, "stream_options.include_usage: expected true or false, got a number");
    assert!(format!("{unknown:?}").contains("\"stream_options.other\""), "{unknown:?}");
}

/// Returns the table of `API.md`.
fn document() -> String {
    let code = |values: &[&str]| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    let mut text = String::from("\n| field | endpoint | effect |\n|---|---|---|\n");
    for (name, at, _, effect) in OBEYED {
        let at = match at {
            At::Both => "both",
            At::Chat => "chat",
            At::Completions => "completions",
        };
        text += &format!("| `{name}` | {at} | {effect} |\n");
    }
    text += "\nFields without an effect:\n\n| field | reason |\n|---|---|\n";
    for (name, reason) in WITHOUT_EFFECT {
        text += &format!("| `{name}` | {reason} |\n");
    }
    text += "\nFields that are refused unless they ask for nothing:\n\n";
    text += "| field | taken beside `false`, `\"\"`, `[]`, `{}` | instead |\n|---|---|---|\n";
    for (name, neutral, remedy) in REFUSED {
        text += &format!("| `{name}` | {} | {remedy} |\n", code(neutral));
    }
    text += "\nFields of objects in a request:\n\n| field | rule |\n|---|---|\n";
    for (scope, name, rule) in NESTED {
        let rule = match rule {
            Rule::Obeyed => "obeyed".to_owned(),
            Rule::Idle(reason) => format!("no effect: {reason}"),
            Rule::Refused(remedy) => format!("refused unless it asks for nothing: {remedy}"),
        };
        text += &format!("| `{}{name}` | {rule} |\n", scope.path());
    }
    text + "\n"
}

/// With `UPDATE_API_MD` set, writes the table.
#[test]
fn the_documentation_has_the_table() {
    const BEGIN: &str =
        "<!-- The table of src/http/fields/known.rs; `UPDATE_API_MD=1 cargo test -p lockstep-api` writes it. -->\n";
    const END: &str = "<!-- End of the table. -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/API.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the table begins");
    let (table, after) = rest.split_once(END).expect("the table ends");
    if std::env::var_os("UPDATE_API_MD").is_some() {
        std::fs::write(path, [before, BEGIN, &document(), END, after].concat()).unwrap();
    } else {
        assert_eq!(table, document(), "API.md differs: UPDATE_API_MD=1 cargo test -p lockstep-api writes it");
    }
}
