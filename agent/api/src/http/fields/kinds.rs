//! Types that a field can have. A whole number may be spelled `4` or `4.0`, as in JSON.

use serde_json::{Map, Value};

/// A type that a field can have.
pub(crate) trait FromField: Sized {
    /// Name of the type for errors, with its article.
    const EXPECTED: &'static str;

    fn from_field(value: Value) -> Option<Self>;
}

/// Largest number up to which each whole number has a 64-bit float of its own.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Returns a number without a fraction, however it is spelled.
fn whole_number(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    if let Some(whole) = number.as_i128() {
        return Some(whole);
    }
    number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= MAX_EXACT).map(|float| float as i128)
}

impl FromField for f32 {
    const EXPECTED: &'static str = "a number";

    fn from_field(value: Value) -> Option<Self> {
        value.as_f64().map(|number| number as f32)
    }
}

impl FromField for i32 {
    const EXPECTED: &'static str = "a whole number of 32 bits";

    fn from_field(value: Value) -> Option<Self> {
        i64::from_field(value).and_then(|number| number.try_into().ok())
    }
}

impl FromField for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn from_field(value: Value) -> Option<Self> {
        whole_number(&value)?.try_into().ok()
    }
}

impl FromField for i64 {
    const EXPECTED: &'static str = "a whole number of 64 bits";

    fn from_field(value: Value) -> Option<Self> {
        whole_number(&value)?.try_into().ok()
    }
}

/// Texts are accepted as well, because vLLM accepts them.
impl FromField for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_field(value: Value) -> Option<Self> {
        match value.as_str() {
            Some(text) => text.parse().ok(),
            None => value.as_bool(),
        }
    }
}

impl FromField for String {
    const EXPECTED: &'static str = "a string";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl FromField for Vec<u32> {
    const EXPECTED: &'static str = "a list of token ids";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::Array(values) => values.into_iter().map(u32::from_field).collect(),
            _ => None,
        }
    }
}

/// One string or a list of them.
impl FromField for Vec<String> {
    const EXPECTED: &'static str = "a string or a list of strings";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(vec![text]),
            Value::Array(values) => values.into_iter().map(String::from_field).collect(),
            _ => None,
        }
    }
}

impl FromField for Vec<Value> {
    const EXPECTED: &'static str = "a list";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }
}

impl FromField for Map<String, Value> {
    const EXPECTED: &'static str = "an object";

    fn from_field(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }
}

/// Reads a value.
///
/// # Errors
/// The value has another type. The error is the reason.
pub(crate) fn read_kind<T: FromField>(value: Value) -> Result<T, String> {
    let got = describe_kind(&value, T::EXPECTED);
    T::from_field(value).ok_or_else(|| expected_got(T::EXPECTED, got))
}

/// Returns the reason for refusing a value of another kind than `expected`.
pub(crate) fn other_kind(value: &Value, expected: &str) -> String {
    expected_got(expected, describe_kind(value, expected))
}

fn expected_got(expected: &str, got: &str) -> String {
    format!("expected {expected}, got {got}")
}

/// Returns the kind of a value, for errors. If `expected` allows this kind, the returned text says that the value
/// itself is wrong.
pub(super) fn describe_kind(value: &Value, expected: &str) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) if expected.starts_with("a ") && expected.contains("number") => {
            "a number out of range or of another kind"
        }
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) if expected.contains("list") => "a list of something else",
        Value::Array(_) => "a list",
        Value::Object(_) if expected.starts_with("an object of") => "an object of something else",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_number_has_many_spellings() {
        let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        for (text, expected) in [
            ("4", Some(4)),
            ("4.0", Some(4)),
            ("4e0", Some(4)),
            ("40e-1", Some(4)),
            ("4.5", None),
            ("-1", None),
            ("-0.0", Some(0)),
            ("4294967296.0", None),
            ("1e300", None),
            ("\"4\"", None),
        ] {
            assert_eq!(u32::from_field(number(text)), expected, "{text}");
        }
        assert_eq!(i64::from_field(json!(1_u64 << 63)), None);
        assert_eq!(i64::from_field(json!(-1)), Some(-1));
        assert_eq!(i64::from_field(number("18446744073709551616")), None, "it is a float, and not exact");
        assert_eq!(i64::from_field(number("-3.0")), Some(-3));
    }

    #[test]
    fn truth_may_be_spelled_as_a_text() {
        for (value, expected) in
            [(json!(true), Some(true)), (json!("false"), Some(false)), (json!("yes"), None), (json!(1), None)]
        {
            assert_eq!(bool::from_field(value.clone()), expected, "{value}");
        }
    }
}
