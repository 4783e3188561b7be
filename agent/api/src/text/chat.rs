//! The model's chat template: Jinja, rendered the way the reference implementation renders it.
//!
//! A template's own `raise_exception` becomes the client's error.

use minijinja::{Environment, Error, Value, context};
use serde_json::{Map, Value as Json, json};

use super::clock::Clock;
use super::{TextError, jinja};

const NAME: &str = "chat_template";
/// Longest prompt that a template may write, in bytes: twice the longest request.
const MAX_PROMPT_BYTES: usize = 32 << 20;
/// Longest reason of a template for an error, in characters.
const MAX_REASON: usize = 1000;
/// Mark of firefunction's template, which takes its tools and the time from variables of its own.
const FIREFUNCTION: &str = "functools[";
/// Another name of the field `reasoning_content`, in the templates of gpt-oss and LFM2.5.
const THINKING: &str = "message.thinking";
/// Mark of gpt-oss's template, which refuses a message with reasoning, content and calls.
const GPT_OSS: &str = "<|channel|>analysis<|message|>";
/// Mark behind the message that an answer goes on with. Its last character shows whether the template cuts blanks off.
const OPEN_END: &str = "\u{2}open end\u{3} ";
/// Name of a second template, for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    /// Calls that an assistant made.
    pub tool_calls: Vec<ToolCall>,
    /// Id of the call that a tool answers.
    pub tool_call_id: Option<String>,
    pub name: Option<String>,
    /// Reasoning of an assistant before its answer.
    pub reasoning: Option<String>,
}

impl ChatMessage {
    /// Makes a message that has only text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// Returns the message as templates expect it.
    fn value(&self) -> Json {
        let mut message = json!({"role": self.role, "content": self.content});
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = self.tool_calls.iter().map(ToolCall::value).collect();
        }
        let optional =
            [("tool_call_id", &self.tool_call_id), ("name", &self.name), ("reasoning_content", &self.reasoning)];
        for (name, value) in optional {
            if let Some(value) = value {
                message[name] = json!(value);
            }
        }
        message
    }

    /// Returns the number of bytes that the client wrote.
    fn bytes(&self) -> usize {
        let calls = self.tool_calls.iter().map(|call| call.name.len() + call.arguments.to_string().len());
        self.content.len() + self.reasoning.as_ref().map_or(0, String::len) + calls.sum::<usize>()
    }
}

/// A call that an assistant made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// An object.
    pub arguments: Json,
}

impl ToolCall {
    fn value(&self) -> Json {
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}})
    }
}

/// Input of a chat template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    pub messages: Vec<ChatMessage>,
    /// Definitions of tools, as the client sent them.
    pub tools: Vec<Json>,
    /// Documents that the answer can be based on, for templates that show them.
    pub documents: Vec<Json>,
    /// Further variables of the template.
    pub variables: Map<String, Json>,
    pub ending: PromptEnding,
    /// Set if the tokenizer adds its special tokens to those of the template.
    pub adds_special_tokens: bool,
}

/// End of the prompt that a conversation becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptEnding {
    /// The beginning of an answer.
    #[default]
    Answer,
    /// The end of the last message.
    LastMessage,
    /// The last message without its end: the answer goes on with it.
    OpenMessage,
}

impl Conversation {
    /// Returns the number of bytes that the client wrote.
    pub fn bytes(&self) -> usize {
        let shown = self.tools.iter().chain(&self.documents).map(|shown| shown.to_string().len());
        self.messages.iter().map(ChatMessage::bytes).sum::<usize>() + shown.sum::<usize>()
    }
}

/// Chat templates of a model, in Jinja, with the special tokens that they may write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    /// Template of conversations. `None` if the model has no template, or only one for tools.
    pub default: Option<String>,
    /// Template of conversations with tools. `None` if `default` is for them too.
    pub tool_use: Option<String>,
    /// Text of the token that begins a sequence.
    pub bos_token: Option<String>,
    /// Text of the token that ends an answer.
    pub eos_token: Option<String>,
}

/// A parsed chat template with the special tokens that it may write.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Set if conversations with tools have a template of their own.
    for_tools: bool,
    bos_token: Option<String>,
    eos_token: Option<String>,
    clock: Clock,
}

impl ChatTemplate {
    /// Parses the templates. Returns `None` if there are none.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`] if a template does not parse.
    pub(crate) fn new(templates: ChatTemplates) -> Result<Option<Self>, TextError> {
        let ChatTemplates { default, tool_use, bos_token, eos_token } = templates;
        let Some(source) = tool_use.as_ref().or(default.as_ref()).cloned() else { return Ok(None) };
        let mut environment = jinja::environment()?;
        let for_tools = tool_use.is_some();
        for (name, template) in [(NAME, default), (TOOL_USE, tool_use)] {
            if let Some(template) = template {
                environment.add_template_owned(name, jinja::adapt(&template)).map_err(TextError::TemplateSyntax)?;
            }
        }
        Ok(Some(Self { environment, source, for_tools, bos_token, eos_token, clock: Clock::default() }))
    }

    /// Returns the template's source. With two templates, this is the template for tools.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Sets the time that the templates see.
    #[cfg(test)]
    pub(crate) fn at(mut self, time: &str) -> Self {
        let clock = Clock::At(time.parse().unwrap());
        self.clock = clock;
        self.environment.add_function("strftime_now", move |format: String| clock.now(&format));
        self
    }

    /// Renders a conversation to a prompt.
    ///
    /// # Errors
    /// Fails if the template refuses the conversation, or does not show the message that the answer goes on with.
    pub(crate) fn render(&self, conversation: &Conversation) -> Result<String, TextError> {
        if conversation.ending != PromptEnding::OpenMessage {
            return self.render_whole(conversation);
        }
        let mut marked = conversation.clone();
        if let Some(last) = marked.messages.last_mut() {
            last.content.push_str(OPEN_END);
        }
        let mut prompt = self.render_whole(&marked)?;
        let Some(end) = prompt.rfind(OPEN_END.trim_end()) else {
            let reason = "it does not show the last message as it is, so no answer can go on with it";
            return Err(TextError::TemplateRefused(reason.into()));
        };
        let keeps_blanks = prompt[end..].starts_with(OPEN_END);
        prompt.truncate(end);
        if !keeps_blanks {
            prompt.truncate(prompt.trim_end().len());
        }
        Ok(prompt)
    }

    /// Renders a conversation with all of its last message.
    fn render_whole(&self, conversation: &Conversation) -> Result<String, TextError> {
        let Conversation { messages, tools, documents, variables, ending, .. } = conversation;
        let messages: Vec<Value> = messages.iter().map(|message| self.message_value(message)).collect();
        let with_tools = !tools.is_empty();
        let given = variables.iter().map(|(name, variable)| (name.as_str(), value(variable)));
        let own = [(jinja::INPUT, Value::from(conversation.bytes()))];
        let context = context! {
            messages => messages,
            tools => with_tools.then(|| tools.iter().map(value).collect::<Vec<Value>>()),
            documents => (!documents.is_empty()).then(|| documents.iter().map(value).collect::<Vec<Value>>()),
            add_generation_prompt => *ending == PromptEnding::Answer,
            bos_token => self.bos_token.as_deref().unwrap_or_default(),
            eos_token => self.eos_token.as_deref().unwrap_or_default(),
            ..Value::from_pairs(self.firefunction_variables(tools).into_iter().chain(own).chain(given))
        };
        let name = if with_tools && self.for_tools { TOOL_USE } else { NAME };
        let template = self.environment.get_template(name).map_err(|_| TextError::NoTemplate)?;
        let mut prompt = Prompt(Vec::new());
        let rendered = template.render_captured_to(context, &mut prompt);
        rendered.map_err(|error| TextError::TemplateRefused(reason(&error)))?;
        String::from_utf8(prompt.0).map_err(|error| TextError::TemplateRefused(error.to_string()))
    }

    /// Returns the message as this template reads it. Content gives way to reasoning where gpt-oss takes one of them, as in
    /// llama.cpp.
    fn message_value(&self, message: &ChatMessage) -> Value {
        let mut fields = message.value();
        let reads_thinking = self.source.contains(THINKING) && !self.source.contains("reasoning_content");
        if let Some(reasoning) = message.reasoning.as_ref().filter(|text| reads_thinking && !text.is_empty()) {
            fields["thinking"] = json!(reasoning);
            if !message.tool_calls.is_empty() && self.source.contains(GPT_OSS) {
                fields["content"] = json!("");
            }
        }
        value(&fields)
    }

    /// Returns firefunction's variables as its makers set them, or nothing for another template.
    fn firefunction_variables(&self, tools: &[Json]) -> Vec<(&'static str, Value)> {
        if !self.source.contains(FIREFUNCTION) {
            return Vec::new();
        }
        let functions: Vec<Value> = tools.iter().map(|tool| value(&tool["function"])).collect();
        let functions = jinja::to_json(&Value::from(functions), 4).unwrap_or_default();
        let time = self.clock.now("%Y-%m-%d %H:%M:%S UTC");
        vec![("functions", Value::from(functions)), ("datetime", Value::from(time))]
    }
}

/// Output of a template. It is bounded, because the author of a template may be anybody.
struct Prompt(Vec<u8>);

impl std::io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(std::io::Error::other(format!("it writes more than {MAX_PROMPT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns JSON as a value of the template engine, with the order of its keys.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => Value::from(values.iter().map(value).collect::<Vec<Value>>()),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(name, field)| (name.as_str(), value(field)))),
    }
}

/// Returns the template's own words if it raised an error, else the engine's.
fn reason(error: &Error) -> String {
    let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    match reason.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(turns: &[(&str, &str)]) -> Conversation {
        let messages = turns.iter().map(|(role, content)| ChatMessage::new(*role, *content)).collect();
        Conversation { messages, ..Conversation::default() }
    }

    /// Templates and tokens under the keys of a tokenizer's configuration.
    fn templates(config: &Json) -> ChatTemplates {
        let text = |key: &str| config[key].as_str().map(str::to_owned);
        ChatTemplates {
            default: text("chat_template"),
            tool_use: text("tool_use"),
            bos_token: text("bos_token"),
            eos_token: text("eos_token"),
        }
    }

    fn render(config: Json, turns: &[(&str, &str)]) -> String {
        match ChatTemplate::new(templates(&config)).map(|template| template.map(|t| t.render(&messages(turns)))) {
            Ok(Some(Ok(text))) => text,
            Ok(Some(Err(error))) | Err(error) => format!("error: {error}"),
            Ok(None) => "none".into(),
        }
    }

    #[test]
    fn every_template_comes_to_an_end() {
        const TEXT: &str = "a text of more than 16777216 bytes";
        const SPENT: &str = "it makes more than 4194304 bytes of texts and lists";
        const ITEMS: &str = "a list of more than 1048576 items";
        const LEVELS: &str = "a value of more than 256 levels";
        const FIELD: &str = "a field of a namespace cannot be a namespace, a loop or a function";
        const DOUBLED: &str =
            "{% set n = namespace(x=[]) %}{% for i in range(300) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
        let cases = [
            ("{{ {} | tojson(indent=4294967296) }}", "an indentation of 4294967296 is more than 256"),
            ("{{ 'a' | indent(4294967296) }}", "an indentation of 4294967296 is more than 256"),
            ("{{ 'a\nb' | indent(width=300) }}", "an indentation of 300"),
            ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", SPENT),
            ("{{ '%999999999d' % 1 }}", "a width of 999999999 is more than 65536"),
            ("{{ '%.*f' % (999999999, 1.5) }}", "a width of 999999999"),
            ("{{ '{:999999999}'.format(1) }}", "a width of 999999999"),
            ("{{ 'a'.zfill(999999999) ~ 'a'.center(999999999) }}", "a width of 999999999"),
            ("{{ 'a' | center(999999999) }}", "a width of 999999999"),
            ("{{ '\t'.expandtabs(999999999) }}", "a width of 999999999"),
            ("{{ [1] | batch(999999999999, 'x') | list }}", "`linecount` is not from 1 to 100000"),
            ("{{ [1] | slice(999999999999) | list }}", "`slices` is not from 1 to 100000"),
            (
                "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
                SPENT,
            ),
            ("{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", SPENT),
            ("{% set x = 'x' * 99999 %}{{ x.replace('x', x) }}", TEXT),
            ("{% set x = 'x' * 99999 %}{{ x.join(x) }}", TEXT),
            ("{% set x = 'x' * 99999 %}{{ x | join(x) }}", TEXT),
            ("{{ 'x' * 99999999 }}", TEXT),
            ("{{ [['x' * 9999] * 9999] | string }}", TEXT),
            ("{{ ('{0}' * 9999).format('x' * 9999) }}", TEXT),
            ("{{ [0] * 99999999 }}", ITEMS),
            ("{{ ('\n' * 1100000) | indent }}", ITEMS),
            ("{{ strftime_now('%Y' * 999) }}", "a format of more than 1000 bytes"),
            ("{% set n = namespace(x=[0]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", SPENT),
            (
                "{% set n = namespace(l=[]) %}{% for i in range(999) %}{% set n.l = n.l + range(90000) | list %}{% endfor %}",
                SPENT,
            ),
            ("{% set x = 'x' * 9999999 %}{% for i in range(99) %}{% set y = x[:-1] %}{% endfor %}", SPENT),
            ("{% set x = range(90000) %}{% for i in range(999) %}{% set y = x[1:] %}{% endfor %}", SPENT),
            ("{% set x = range(90000) | list %}{% for i in range(999) %}{% set y = x | sort %}{% endfor %}", SPENT),
            (
                "{% set x = range(90000) %}{% for i in range(999) %}{% set y = x | map('string') | unique %}{% endfor %}",
                SPENT,
            ),
            ("{% set x = 'x ' * 999999 %}{% for i in range(99) %}{% set y = x.split() %}{% endfor %}", SPENT),
            ("{{ ('x' * 9999999) | list | length }}", SPENT),
            ("{% set x %}{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}{% endset %}", SPENT),
            ("{% set x = range(9999) %}{% for i in x %}{% set y = x | batch(1) %}{% endfor %}", SPENT),
            (
                "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}{% for i in range(99999) %}{% call f() %}\
              {{ 'x' * 999 }}{% endcall %}{% endfor %}",
                SPENT,
            ),
            (
                "{% for i in range(9999) %}{% for j in range(99) %}{% set x = {'a': [], 'b': []} %}{% endfor %}{% endfor %}",
                SPENT,
            ),
            ("{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}", LEVELS),
            ("{% set n = namespace() %}{% set n.n = n %}{{ n }}", FIELD),
            ("{% set n = namespace() %}{% set n.n = [[n]][0:] %}", FIELD),
            ("{% set n = namespace() %}{% for i in [n] %}{% set n.n = loop %}{% endfor %}", FIELD),
            ("{% set n = namespace() %}{% macro f() %}{{ n }}{% endmacro %}{% set n.n = f %}", FIELD),
            (DOUBLED, SPENT),
            ("{% include 'chat_template' %}", "a template cannot load another one"),
            ("{{ raise_exception('x' * 9999) }}", "xxx…"),
            (
                "{% set long = 'x' * 99999 %}{% for a in range(9999) %}{{ long }}{% endfor %}",
                "error: the model's chat template refuses",
            ),
        ];
        let raw = format!("{{% set x %}}{{% for i in range(9999) %}}{}{{% endfor %}}{{% endset %}}", "x".repeat(9999));
        for (template, expected) in cases.into_iter().chain([(raw.as_str(), SPENT)]) {
            let text = render(json!({"chat_template": template}), &[]);
            assert!(text.len() < 4096 && text.contains(expected), "{template}: {text:.200}");
        }
        assert_eq!(render(json!({"chat_template": "{{ 'a\nb' | indent(2, true) }}"}), &[]), "  a\n  b");
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
                    "eos_token": "</s>"}),
                "<s></s>",
            ),
            (json!({"chat_template": "d", "tool_use": "t"}), "d"),
            (
                json!({"tool_use": "t"}),
                "error: the model has no chat template: send a plain prompt, or add chat_template.jinja to the model's files",
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

    /// The expected values come from Jinja2 with the settings of transformers.
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
            ("{% for k, v in {'a': true, 'b': 'x'}|items %}{{ k }}={{ v }};{% endfor %}", "a=True;b=x;"),
            (
                "{{ 'x' is string }}{{ {} is mapping }}{{ none is none }}{{ 7 // 2 }}{{ [1, 'a', true] }}",
                "TrueTrueTrue3[1, 'a', True]",
            ),
            ("{%- if tools is iterable and tools | length > 0 %}x{% endif %}{{ 'a' is iterable }}", "True"),
            ("{{ {'a': 'é😀<'} | tojson(ensure_ascii=False) }}", "{\"a\": \"é😀<\"}"),
            ("{{ ['é😀'] | tojson(ensure_ascii=True, indent=2) }}", "[\n  \"\\u00e9\\ud83d\\ude00\"\n]"),
        ];
        let turns = [("system", "be good"), ("user", "hi there"), ("assistant", "<t>hm</t>\n\nanswer")];
        for (template, expected) in cases {
            assert_eq!(render(json!({"chat_template": template}), &turns), expected, "{template}");
        }
    }

    #[test]
    fn tools_and_their_calls_are_rendered() {
        let template = "{%- if tools %}{%- for tool in tools %}{{ tool | tojson }};{%- endfor %}{%- endif %}\
            {%- for m in messages %}{{ m.role }}:{{ m.content }}{%- if m.tool_calls %}{%- for call in m.tool_calls %}\
            {{ call.id }}={{ call.function.name }}{{ call.function.arguments | tojson }}{%- endfor %}{%- endif %}\
            {{ m.tool_call_id }}|{%- endfor %}{{ enable_thinking is defined and enable_thinking is false }}";
        let call = ToolCall { id: "c1".into(), name: "add".into(), arguments: json!({"b": 1, "a": [2]}) };
        let conversation = Conversation {
            messages: vec![
                ChatMessage { tool_calls: vec![call], ..ChatMessage::new("assistant", "") },
                ChatMessage { tool_call_id: Some("c1".into()), ..ChatMessage::new("tool", "3") },
            ],
            tools: vec![json!({"type": "function", "function": {"name": "add", "description": "<adds>"}})],
            variables: Map::from_iter([("enable_thinking".to_owned(), json!(false))]),
            ..Conversation::default()
        };
        let expected = "{\"type\": \"function\", \"function\": {\"name\": \"add\", \"description\": \"<adds>\"}};\
            assistant:c1=add{\"b\": 1, \"a\": [2]}|tool:3c1|True";
        let with = |config: Json| ChatTemplate::new(templates(&config)).unwrap().unwrap();
        assert_eq!(with(json!({"chat_template": template})).render(&conversation).unwrap(), expected);
        let two = with(json!({"chat_template": "plain", "tool_use": template}));
        assert_eq!(two.render(&conversation).unwrap(), expected);
        assert_eq!(two.render(&Conversation::default()).unwrap(), "plain");
        assert_eq!(two.source(), template);
    }

    #[test]
    fn a_prompt_ends_as_asked() {
        let render = |template: &str, ending, content: &str| {
            let source = json!({"chat_template": template});
            let template = ChatTemplate::new(templates(&source)).unwrap().unwrap();
            let conversation = Conversation { ending, ..messages(&[("user", "hi"), ("assistant", content)]) };
            template.render(&conversation).map_err(|error| error.to_string())
        };
        const CHATML: &str =
            "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}A:{% endif %}";
        const TRIMMED: &str = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
        for (template, ending, content, expected) in [
            (CHATML, PromptEnding::Answer, "The ", "[hi][The ]A:"),
            (CHATML, PromptEnding::LastMessage, "The ", "[hi][The ]"),
            (CHATML, PromptEnding::OpenMessage, "The ", "[hi][The "),
            (CHATML, PromptEnding::OpenMessage, "", "[hi]["),
            (TRIMMED, PromptEnding::OpenMessage, "The ", "[hi][The"),
            (TRIMMED, PromptEnding::OpenMessage, "The", "[hi][The"),
        ] {
            assert_eq!(render(template, ending, content).unwrap(), expected, "{template} {ending:?} {content:?}");
        }
        let refused = render("{{ messages | length }}", PromptEnding::OpenMessage, "x").unwrap_err();
        assert!(refused.contains("it does not show the last message"), "{refused}");
    }

    #[test]
    fn documents_are_shown() {
        let template = "{% if documents %}{% for d in documents %}{{ d.text }};{% endfor %}{% else %}none{% endif %}";
        let template = ChatTemplate::new(templates(&json!({"chat_template": template}))).unwrap().unwrap();
        let documents = vec![json!({"text": "one"}), json!({"text": "two"})];
        let conversation = Conversation { documents, ..messages(&[]) };
        assert_eq!(template.render(&conversation).unwrap(), "one;two;");
        assert_eq!(template.render(&messages(&[])).unwrap(), "none");
    }

    #[test]
    fn reasoning_has_the_name_that_the_template_reads() {
        const BOTH: &str = "{{ message.thinking is defined }}|{{ message.content }}|{{ message.reasoning_content }}";
        const LFM: &str = "{{ message.thinking }}|{{ message.content }}";
        const OPENAI: &str = "{{ '<|channel|>analysis<|message|>' ~ message.thinking }}|{{ message.content }}";
        let cases = [
            (BOTH, "hm", false, "False|ok|hm"),
            (LFM, "hm", false, "hm|ok"),
            (LFM, "hm", true, "hm|ok"),
            (LFM, "", false, "|ok"),
            (OPENAI, "hm", false, "<|channel|>analysis<|message|>hm|ok"),
            (OPENAI, "hm", true, "<|channel|>analysis<|message|>hm|"),
            (OPENAI, "", true, "<|channel|>analysis<|message|>|ok"),
        ];
        for (template, reasoning, calls, expected) in cases {
            let source = format!("{{% for message in messages %}}{template}{{% endfor %}}");
            let template = ChatTemplate::new(templates(&json!({"chat_template": source}))).unwrap().unwrap();
            let call = ToolCall { id: "c1".into(), name: "add".into(), arguments: json!({}) };
            let message = ChatMessage {
                reasoning: Some(reasoning.into()),
                tool_calls: calls.then_some(call).into_iter().collect(),
                ..ChatMessage::new("assistant", "ok")
            };
            let conversation = Conversation { messages: vec![message], ..Conversation::default() };
            assert_eq!(template.render(&conversation).unwrap(), expected, "{source} {reasoning} {calls}");
        }
    }
}
