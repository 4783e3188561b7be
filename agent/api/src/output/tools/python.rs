//! The part of Python in which calls are written: literals and named arguments.

use serde_json::{Map, Value};

/// Most levels of lists and dictionaries.
const MAX_DEPTH: usize = 64;

/// Search for the parenthesis that closes a call.
#[derive(Debug, Default)]
pub(crate) struct Extent {
    text: String,
    depth: usize,
    quote: Option<char>,
    escaped: bool,
}

impl Extent {
    /// Takes one character after the opening parenthesis. Returns true if the character closes the call.
    pub(crate) fn push(&mut self, char: char) -> bool {
        match self.quote {
            Some(_) if self.escaped => self.escaped = false,
            Some(_) if char == '\\' => self.escaped = true,
            Some(quote) if char == quote => self.quote = None,
            Some(_) => {}
            None => match char {
                '"' | '\'' => self.quote = Some(char),
                '(' | '[' | '{' => self.depth += 1,
                ')' if self.depth == 0 => return true,
                ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            },
        }
        self.text.push(char);
        false
    }

    /// Everything between the parentheses.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// Parses `name=value, …` to an object. Returns `None` for any other text.
pub(crate) fn arguments(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let mut arguments = Map::new();
    reader.skip_blanks();
    while !reader.rest.is_empty() {
        let name = reader.take_name()?;
        reader.expect('=')?;
        arguments.insert(name.to_owned(), reader.parse_value(0)?);
        if !reader.take_if_next(',') && !reader.rest.is_empty() {
            return None;
        }
    }
    Some(Value::Object(arguments))
}

/// Parses one value. Returns `None` for any other text.
pub(crate) fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    reader.skip_blanks();
    let value = reader.parse_value(0)?;
    reader.skip_blanks();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes the character and the blanks around it if it comes next.
    fn take_if_next(&mut self, char: char) -> bool {
        self.skip_blanks();
        let Some(rest) = self.rest.strip_prefix(char) else { return false };
        self.rest = rest;
        self.skip_blanks();
        true
    }

    fn expect(&mut self, char: char) -> Option<()> {
        self.take_if_next(char).then_some(())
    }

    /// Takes letters, digits, and the other characters of numbers and names.
    fn take_word(&mut self) -> &'a str {
        let end = self.rest.find(|char: char| !(char.is_alphanumeric() || "_+-.".contains(char)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn take_name(&mut self) -> Option<&'a str> {
        let word = self.take_word();
        word.starts_with(|char: char| char.is_alphabetic() || char == '_').then_some(word)
    }

    fn parse_value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.rest.chars().next()? {
            '"' | '\'' => self.parse_string().map(Value::String),
            '[' => self.parse_list('[', ']', depth),
            '(' => self.parse_list('(', ')', depth),
            '{' => self.parse_dictionary(depth),
            _ => match self.take_word() {
                "True" | "true" => Some(Value::Bool(true)),
                "False" | "false" => Some(Value::Bool(false)),
                "None" | "null" => Some(Value::Null),
                number => {
                    let whole = number.parse::<i64>().map(Value::from).ok();
                    whole.or_else(|| serde_json::Number::from_f64(number.parse().ok()?).map(Value::Number))
                }
            },
        }
    }

    fn parse_list(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        self.expect(open)?;
        let mut values = Vec::new();
        while !self.take_if_next(close) {
            if !values.is_empty() {
                self.expect(',')?;
                if self.take_if_next(close) {
                    break;
                }
            }
            values.push(self.parse_value(depth + 1)?);
        }
        Some(Value::Array(values))
    }

    fn parse_dictionary(&mut self, depth: usize) -> Option<Value> {
        self.expect('{')?;
        let mut fields = Map::new();
        while !self.take_if_next('}') {
            if !fields.is_empty() {
                self.expect(',')?;
                if self.take_if_next('}') {
                    break;
                }
            }
            let key = match self.parse_value(depth + 1)? {
                Value::String(key) => key,
                Value::Array(_) | Value::Object(_) => return None,
                other => other.to_string(),
            };
            self.expect(':')?;
            fields.insert(key, self.parse_value(depth + 1)?);
        }
        Some(Value::Object(fields))
    }

    /// Parses a string in either kind of quotes, with Python's common escapes.
    fn parse_string(&mut self) -> Option<String> {
        let mut chars = self.rest.char_indices();
        let (_, quote) = chars.next()?;
        let mut text = String::new();
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    '\n' => {}
                    'u' => {
                        let digits: String = (0..4).map_while(|_| chars.next().map(|(_, digit)| digit)).collect();
                        text.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                    }
                    quoted @ ('"' | '\'' | '\\') => text.push(quoted),
                    other => text.extend(['\\', other]),
                },
                _ if char == quote => {
                    self.rest = &self.rest[at + quote.len_utf8()..];
                    self.skip_blanks();
                    return Some(text);
                }
                _ => text.push(char),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_become_json() {
        let cases = [
            ("", Some(json!({}))),
            (" a = 1 , b=-2.5e3,", Some(json!({"a": 1, "b": -2500.0}))),
            ("a='x\\'y', b=\"\\n\\u00e9\\d\"", Some(json!({"a": "x'y", "b": "\né\\d"}))),
            (
                "a=[1, 'x', (2,), []], b={'k': None, 3: {}}",
                Some(json!({"a": [1, "x", [2], []], "b": {"k": null, "3": {}}})),
            ),
            ("a=True, b=false", Some(json!({"a": true, "b": false}))),
            ("a", None),
            ("1=2", None),
            ("a=b", None),
            ("a=1 b=2", None),
            ("a='x", None),
            ("a={[1]: 2}", None),
            ("a=1e999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(arguments(text), expected, "{text}");
        }
        assert_eq!(arguments(&format!("a={}", "[".repeat(100_000))), None);
    }
}
