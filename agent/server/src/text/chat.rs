//! The model's chat template: Jinja, rendered the way the reference implementation renders it.
//!
//! Blocks are trimmed, Python's string and dict methods work, `tojson` escapes nothing for HTML, and a template's own
//! `raise_exception` becomes the client's error.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::Value as Json;

use super::{TextError, clock, jinja};

const NAME: &str = "chat_template";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
}

/// A parsed chat template with the special tokens that it may write.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// The template in its own file, else the one in the tokenizer's configuration; none where there is neither.
    ///
    /// # Errors
    /// The template does not parse.
    pub fn new(file: Option<String>, tokenizer_config: &Json) -> Result<Option<Self>, TextError> {
        let Some(source) = file.or_else(|| configured_template(&tokenizer_config["chat_template"])) else {
            return Ok(None);
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(TextError::TemplateSyntax)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: String| clock::now(&format));
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, jinja::adapt(&source)).map_err(TextError::TemplateSyntax)?;
        let bos_token = special_token(tokenizer_config, "bos_token");
        let eos_token = special_token(tokenizer_config, "eos_token");
        Ok(Some(Self { environment, bos_token, eos_token }))
    }

    /// The prompt of a conversation, up to where the answer begins.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, TextError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let context = context! {
            messages => messages,
            tools => (),
            documents => (),
            add_generation_prompt => true,
            bos_token => self.bos_token.as_deref().unwrap_or_default(),
            eos_token => self.eos_token.as_deref().unwrap_or_default(),
        };
        let template = self.environment.get_template(NAME).map_err(TextError::TemplateSyntax)?;
        template.render(context).map_err(|error| TextError::TemplateRefused(reason(&error)))
    }
}

/// The template's own words where it raised, else the engine's.
fn reason(error: &Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.to_string(),
    }
}

/// A template as text, or the one named `default` of a list, else its first.
fn configured_template(value: &Json) -> Option<String> {
    match value {
        Json::String(template) => Some(template.clone()),
        Json::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default").or(named.first())?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// A special token of the tokenizer's configuration: a string, or an object with its `content`.
pub fn special_token(tokenizer_config: &Json, name: &str) -> Option<String> {
    let token = &tokenizer_config[name];
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// As Python's `json.dumps` writes it: the engine's own filter escapes four characters for HTML.
fn tojson(value: &Value, indent: Option<Value>, args: Kwargs) -> Result<Value, Error> {
    let escaped = minijinja::filters::tojson(value, indent, args)?.to_string();
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        out.push_str(plain);
        let (text, length) = match escape.get(..6).unwrap_or_default() {
            "\\u003c" => ("<", 6),
            "\\u003e" => (">", 6),
            "\\u0026" => ("&", 6),
            "\\u0027" => ("'", 6),
            _ => (escape.get(..2).unwrap_or(escape), escape.get(..2).unwrap_or(escape).len()),
        };
        out.push_str(text);
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(Value::from_safe_string(out))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(turns: &[(&str, &str)]) -> Vec<ChatMessage> {
        turns.iter().map(|(role, content)| ChatMessage { role: (*role).into(), content: (*content).into() }).collect()
    }

    fn render(config: Json, turns: &[(&str, &str)]) -> String {
        match ChatTemplate::new(None, &config).map(|template| template.map(|t| t.render(&messages(turns)))) {
            Ok(Some(Ok(text))) => text,
            Ok(Some(Err(error))) | Err(error) => format!("error: {error}"),
            Ok(None) => "none".into(),
        }
    }

    #[test]
    fn renders_as_the_reference_does() {
        const CHATML: &str = "{% for m in messages %}\n  {% if m.role == 'tool' %}{{ raise_exception('no ' + m.role) }}\
            {% endif %}\n{{ '<|im_start|>' + m['role'] + '\\n' + m.content.strip() + '<|im_end|>' + '\\n' }}\
            {% endfor %}\n{% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let cases = [
            (json!({}), "none"),
            (json!({"chat_template": CHATML}), "<|im_start|>user\n<hi>'&\"<|im_end|>\n<|im_start|>assistant\n"),
            (
                json!({"chat_template": "{{ bos_token }}{{ eos_token }}", "bos_token": "<s>",
                    "eos_token": {"content": "</s>"}}),
                "<s></s>",
            ),
            (
                json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}),
                "d",
            ),
            (json!({"chat_template": "{{ messages[0].content | tojson }}"}), "\"<hi>'&\\\"\""),
            (
                json!({"chat_template": "{{ raise_exception('System role not supported') }}"}),
                "error: the model's chat template refuses the conversation: System role not supported",
            ),
            (
                json!({"chat_template": "{% generation %}{{ tools is none }}{% endgeneration %}{{ \"a\\\nb\" }}"}),
                "Trueab",
            ),
            (json!({"chat_template": "{{ {'b': 1, 'a': [true, none]} | tojson }}"}), "{\"b\": 1, \"a\": [true, null]}"),
            (json!({"chat_template": "{{ strftime_now('%%') }}{{ date is defined }}"}), "%False"),
            (json!({"chat_template": "{{ 'a,b'.split(',')[1] }}{{ messages[-1].get('x', 'y') }}"}), "by"),
        ];
        for (config, expected) in cases {
            assert_eq!(render(config.clone(), &[("user", "<hi>'&\"")]), expected, "{config}");
        }
        let refused = render(json!({"chat_template": CHATML}), &[("tool", "x")]);
        assert!(refused.ends_with(": no tool"), "{refused}");
        assert!(render(json!({"chat_template": "{% if %}"}), &[]).contains("does not parse"));
    }

    /// Expected values are what Jinja2 gives, set up as transformers sets it up.
    #[test]
    fn constructs_of_real_templates_work() {
        let cases = [
            (
                "{%- set ns = namespace(i=9) %}{%- for m in messages[::-1] %}{%- if m.role == 'user' %}\
              {%- set ns.i = (messages|length - 1) - loop.index0 %}{%- endif %}{%- endfor %}{{ ns.i }}",
                "1",
            ),
            ("{{ messages[1].content[:2] }}|{{ messages[1:]|length }}|{{ messages[-1]['content'][-2:] }}", "hi|2|er"),
            (
                "{%- set c = messages[-1].content %}{{ (c.split('</t>')|last).lstrip('\\n') }}{{ '</t>' in c }}",
                "answerTrue",
            ),
            (
                "{%- set f = [] %}{%- for m in messages %}{%- if m['role'] not in ['tool'] and not m.get('tool_calls') %}\
              {%- set f = f + [m] %}{%- endif %}{%- endfor %}{{ f|length }}",
                "0",
            ),
            ("{{ (messages | selectattr('role', 'equalto', 'user') | list)[-1] == messages[1] }}", "True"),
            ("{%- for t in messages[0].tool_calls -%}x{%- endfor -%}{{ messages[0].tool_calls is defined }}", "False"),
            (
                "{%- macro f(x, up=True) -%}{{ x | upper if up else x }}{%- endmacro -%}{{ f('a') }}{{ f('a', up=False) }}",
                "Aa",
            ),
            (
                "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
                "user",
            ),
            (
                "{% for m in messages %}\n    {% if loop.first %}\n  A\n    {% endif %}\n{{ m.role }}\n{% endfor %}\n",
                "  A\nsystem\nuser\nassistant\n",
            ),
            ("{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=hi there;"),
            (
                "{{ 'x' is string }}{{ {} is mapping }}{{ none is none }}{{ 7 // 2 }}{{ [1, 'a', true] }}",
                "TrueTrueTrue3[1, 'a', True]",
            ),
        ];
        let turns = [("system", "be good"), ("user", "hi there"), ("assistant", "<t>hm</t>\n\nanswer")];
        for (template, expected) in cases {
            assert_eq!(render(json!({"chat_template": template}), &turns), expected, "{template}");
        }
    }

    #[test]
    fn a_file_counts_before_the_configuration() {
        let template = ChatTemplate::new(Some("file".into()), &json!({"chat_template": "config"})).unwrap().unwrap();
        assert_eq!(template.render(&[]).unwrap(), "file");
    }
}
