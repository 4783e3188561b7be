//! Parts of expressions that minijinja does otherwise than Python: `%` also formats texts, `~` writes numbers as Python
//! does, and a loop over `none` is an error. They become calls of functions in the template's source. So do the operators
//! that make texts and lists, and the values that variables are set to, so that their bytes count.

/// Function for `a % b`.
pub(super) const MODULO: &str = "__modulo__";
/// Function for `a * b`.
pub(super) const MULTIPLY: &str = "__multiply__";
/// Function for `a ~ b ~ …`.
pub(super) const CONCATENATE: &str = "__concatenate__";
/// Function around `a + b`.
pub(super) const SUM: &str = "__sum__";
/// Function around `a[b:c]`.
pub(super) const SLICE: &str = "__slice__";

/// Function for the values of a loop.
pub(super) const ITERATE: &str = "__iterate__";
/// Functions for the value of a variable and for that of a namespace's field.
pub(super) const KEEP: &str = "__keep__";
pub(super) const KEEP_FIELD: &str = "__keep_field__";
/// Function for the begin of each round of a loop, and of each call of a macro.
pub(super) const ROUND: &str = "__round__";
/// Statements of a loop, and of the value of a variable.
const LOOP: &str = "for";
const SET: &str = "set";

/// Words that end an expression, and operators that bind less tightly than `%` and `~`.
const WORDS: [&str; 12] =
    ["and", "or", "not", "if", "elif", "else", "in", "recursive", "as", "with", "without", "ignore"];

/// Returns the expression with calls instead of these parts. `statement` is true if the text begins with the name of a
/// statement. Returns `None` if there is nothing to change, or if the text is no expression.
pub(super) fn adapt(expression: &str, statement: bool) -> Option<String> {
    let sets = statement && [LOOP, SET].iter().any(|word| expression.trim_start().starts_with(word));
    if !sets && !expression.contains(['%', '~', '+', '*', '[']) {
        return None;
    }
    let mut reader = Reader { rest: expression };
    let mut level = Level::begun(0);
    if statement {
        let head = reader.take_while(char::is_whitespace).len();
        let word = reader.take_while(is_word).len();
        level.push_lower(&expression[..head + word])?;
        level.awaits = match &expression[head..head + word] {
            LOOP => Some("in"),
            SET => Some("="),
            _ => None,
        };
    }
    let (adapted, _) = reader.read_level(level, None)?;
    (reader.rest.is_empty() && adapted != expression).then_some(adapted)
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, takes: impl Fn(char) -> bool) -> &'a str {
        self.take(self.rest.find(|char| !takes(char)).unwrap_or(self.rest.len()))
    }

    /// Takes a text in quotes. A text without an end takes everything.
    fn take_quoted(&mut self, quote: char) -> &'a str {
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => drop(chars.next()),
                _ if char == quote => return self.take(at + 1),
                _ => {}
            }
        }
        self.take(self.rest.len())
    }

    /// Reads up to the bracket `close`, or to the end. Returns the changed text with that bracket, and true if there is a
    /// colon in it.
    fn read_level(&mut self, mut level: Level, close: Option<char>) -> Option<(String, bool)> {
        while let Some(char) = self.rest.chars().next() {
            match char {
                _ if char.is_whitespace() => level.out.push_str(self.take_while(char::is_whitespace)),
                '"' | '\'' => {
                    let quoted = self.take_quoted(char);
                    level.push_operand(quoted);
                }
                '(' | '[' | '{' => {
                    let inner = Level { out: self.take(1).into(), ..Level::begun(1) };
                    let close = [')', ']', '}']["([{".find(char)?];
                    let (inner, has_colon) = self.read_level(inner, Some(close))?;
                    let is_slice = char == '[' && has_colon && level.ends_operand;
                    level.push_operand(&inner);
                    if is_slice {
                        level.call(SLICE, &[level.primary])?;
                    }
                }
                ')' | ']' | '}' => {
                    let (bracket, has_colon) = (self.take(1), level.has_colon);
                    return if close == Some(char) { Some((level.finish()? + bracket, has_colon)) } else { None };
                }
                _ if is_word(char) => {
                    let word = self.take_number_or_word();
                    level.push_word(word)?;
                }
                _ => self.read_operator(char, &mut level)?,
            }
        }
        let has_colon = level.has_colon;
        if close.is_none() { Some((level.finish()?, has_colon)) } else { None }
    }

    fn take_number_or_word(&mut self) -> &'a str {
        let bytes = self.rest.as_bytes();
        if !bytes[0].is_ascii_digit() {
            return self.take_while(is_word);
        }
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let mut end = 0;
        while let Some(byte) = bytes.get(end) {
            let exponent = end > 0 && matches!(bytes[end - 1], b'e' | b'E') && matches!(byte, b'+' | b'-');
            let part = byte.is_ascii_alphanumeric() || *byte == b'_' || (*byte == b'.' || exponent) && digit(end + 1);
            if !part {
                break;
            }
            end += 1;
        }
        self.take(end)
    }

    fn read_operator(&mut self, char: char, level: &mut Level) -> Option<()> {
        let pair = self.rest.get(..2).unwrap_or_default();
        match char {
            '~' => {
                self.take(1);
                level.push_concatenate()
            }
            '%' => {
                self.take(1);
                level.push_factor_of(MODULO)
            }
            // Before an operand, it spreads a list over arguments.
            '*' if pair != "**" && level.ends_operand => {
                self.take(1);
                level.push_factor_of(MULTIPLY)
            }
            '*' if pair == "**" => {
                level.push_operand(self.take(2));
                level.ends_operand = false;
                Some(())
            }
            '*' | '/' => {
                let operator = self.take(if pair == "//" { 2 } else { 1 });
                level.push_factor(operator)
            }
            '.' | '|' => {
                level.push_operand(self.take(1));
                level.ends_operand = false;
                level.names_part = true;
                Some(())
            }
            '+' | '-' if level.ends_operand => level.push_term(self.take(1)),
            '+' | '-' => {
                level.push_operand(self.take(1));
                level.ends_operand = false;
                Some(())
            }
            _ => {
                let both = matches!(pair, "==" | "!=" | "<=" | ">=");
                let operator = self.take(if both { 2 } else { char.len_utf8() });
                level.push_lower(operator)
            }
        }
    }
}

/// Text of one level of brackets, with the operators whose right side is not complete.
#[derive(Default)]
struct Level {
    out: String,
    /// Begin of the operands of `~`.
    operands: Vec<usize>,
    /// Begin of the operands of `+` and `-`.
    sum: usize,
    /// Set while the last operator of the sum is `+`.
    adds: bool,
    /// Begin of the operands of `*`, `/` and `%`.
    product: usize,
    /// Function of a `*` or `%`, and the begin of its right side.
    factor: Option<(&'static str, usize)>,
    /// Begin of an operand without its signs.
    primary: usize,
    /// Set after a `:`.
    has_colon: bool,
    /// Set after an operand: a sign that follows is an operator.
    ends_operand: bool,
    /// Set after `.` and `|`: the next word is a name.
    names_part: bool,
    /// Set after `is`: the next word is the name of a test.
    names_test: bool,
    /// Operator that begins the values of a loop or of a variable, before it has come.
    awaits: Option<&'static str>,
    /// Function for these values, and their begin.
    values: Option<(&'static str, usize)>,
    /// Set if the values are several, without parentheses around them.
    values_are_listed: bool,
}

impl Level {
    /// Makes a level whose first operand begins at `at`.
    fn begun(at: usize) -> Self {
        Self { operands: vec![at], sum: at, product: at, primary: at, ..Self::default() }
    }

    fn push_operand(&mut self, text: &str) {
        if !self.ends_operand && !self.names_part {
            self.primary = self.out.len();
        }
        self.out.push_str(text);
        self.ends_operand = true;
        self.names_part = false;
    }

    fn push_word(&mut self, word: &str) -> Option<()> {
        if self.names_part {
            self.push_operand(word);
        } else if self.names_test {
            self.push_operand(word);
            self.names_test = word == "not";
        } else if word == "is" {
            self.push_operand(word);
            self.names_test = true;
        } else if WORDS.contains(&word) {
            self.push_lower(word)?;
        } else {
            self.push_operand(word);
        }
        Some(())
    }

    /// Adds an operator that binds less tightly than `+`.
    fn push_lower(&mut self, operator: &str) -> Option<()> {
        self.end_term()?;
        match operator {
            "if" | "recursive" if self.values.is_some_and(|(function, _)| function == ITERATE) => self.end_values()?,
            "," => self.values_are_listed = self.values.is_some(),
            ":" => self.has_colon = true,
            _ => {}
        }
        let target_is_field = self.out.contains('.');
        self.out.push_str(operator);
        self.begin_sum();
        if self.awaits == Some(operator) {
            self.awaits = None;
            let function = match operator {
                "in" => ITERATE,
                _ if target_is_field => KEEP_FIELD,
                _ => KEEP,
            };
            self.values = Some((function, self.out.len()));
        }
        Some(())
    }

    fn begin_sum(&mut self) {
        self.sum = self.out.len();
        self.begin_term();
    }

    fn begin_term(&mut self) {
        self.ends_operand = false;
        self.operands = vec![self.out.len()];
        self.product = self.out.len();
    }

    /// Adds `+` or `-` between operands.
    fn push_term(&mut self, operator: &str) -> Option<()> {
        self.end_term()?;
        self.out.push_str(operator);
        self.adds = operator == "+";
        self.begin_term();
        Some(())
    }

    /// Adds `/` or `//`.
    fn push_factor(&mut self, operator: &str) -> Option<()> {
        self.end_factor()?;
        self.out.push_str(operator);
        self.ends_operand = false;
        Some(())
    }

    /// Adds an operator for which a function stands.
    fn push_factor_of(&mut self, function: &'static str) -> Option<()> {
        self.end_factor()?;
        self.factor = Some((function, self.out.len()));
        self.ends_operand = false;
        Some(())
    }

    fn push_concatenate(&mut self) -> Option<()> {
        self.end_factor()?;
        self.operands.push(self.out.len());
        self.product = self.out.len();
        self.ends_operand = false;
        Some(())
    }

    /// Ends the right side of a `*` or `%`.
    fn end_factor(&mut self) -> Option<()> {
        match self.factor.take() {
            Some((function, right)) => self.call(function, &[self.product, right]),
            None => Some(()),
        }
    }

    /// Ends an operand of `+` or `-`.
    fn end_term(&mut self) -> Option<()> {
        self.end_factor()?;
        match std::mem::take(&mut self.operands) {
            operands if operands.len() > 1 => self.call(CONCATENATE, &operands)?,
            _ => {}
        }
        match std::mem::take(&mut self.adds) {
            true => self.call(SUM, &[self.sum]),
            false => Some(()),
        }
    }

    /// Makes the arguments that begin at these places the arguments of a call. Fails if one is empty.
    fn call(&mut self, function: &str, begins: &[usize]) -> Option<()> {
        let ends = begins.iter().skip(1).copied().chain([self.out.len()]);
        let arguments: Vec<&str> = begins.iter().zip(ends).map(|(begin, end)| &self.out[*begin..end]).collect();
        if arguments.iter().any(|argument| argument.trim().is_empty()) {
            return None;
        }
        let (first, last) = (arguments.first()?, arguments.last()?);
        let before = &first[..first.len() - first.trim_start().len()];
        let after = &last[last.trim_end().len()..];
        let arguments: Vec<&str> = arguments.iter().map(|argument| argument.trim()).collect();
        let call = format!("{before}{function}({}){after}", arguments.join(", "));
        self.out.truncate(*begins.first()?);
        self.out.push_str(&call);
        Some(())
    }

    /// Ends the values of a loop or of a variable.
    fn end_values(&mut self) -> Option<()> {
        let Some((function, begin)) = self.values.take() else { return Some(()) };
        if std::mem::take(&mut self.values_are_listed) {
            let list = self.out.split_off(begin);
            self.out.push_str(&format!(" ({}) ", list.trim()));
        }
        self.call(function, &[begin])
    }

    fn finish(mut self) -> Option<String> {
        self.end_term()?;
        self.end_values()?;
        Some(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_become_calls() {
        let cases = [
            ("a", false, None),
            (" a % b ", false, Some(" __modulo__(a, b) ")),
            ("a%b", false, Some("__modulo__(a, b)")),
            ("'%s~' % x", false, Some("__modulo__('%s~', x)")),
            ("'%s' % (a, b)|upper", false, Some("__modulo__('%s', (a, b)|upper)")),
            ("a * b % c / d % -e", false, Some("__modulo__(__modulo__(__multiply__(a, b), c) / d, -e)")),
            ("1 + a % 2 == 0 and b", false, Some("__sum__(1 + __modulo__(a, 2)) == 0 and b")),
            ("a % 2 is odd", false, Some("__modulo__(a, 2 is odd)")),
            ("x ~ y is not in z ~ w", false, Some("__concatenate__(x, y is not in z, w)")),
            ("a ~ b ~ 'c'", false, Some("__concatenate__(a, b, 'c')")),
            ("a ~ b % c ~ d", false, Some("__concatenate__(a, __modulo__(b, c), d)")),
            ("a + b ~ c - d", false, Some("__sum__(a + __concatenate__(b, c)) - d")),
            ("a - b + c + d", false, Some("__sum__(__sum__(a - b + c) + d)")),
            ("-a + +b * -c", false, Some("__sum__(-a + __multiply__(+b, -c))")),
            ("f(*a, **b)", false, None),
            (
                "a[1] + x.y[b + 1:].z(c)[::-1]",
                false,
                Some("__sum__(a[1] + __slice__(__slice__(x.y[__sum__(b + 1):]).z(c)[::-1]))"),
            ),
            ("[a, -b[1:]]|f(c[:2])", false, Some("[a, -__slice__(b[1:])]|f(__slice__(c[:2]))")),
            ("{'a': [b]}", false, None),
            ("a ~ -1 ~ 1e-7", false, Some("__concatenate__(a, -1, 1e-7)")),
            ("'x' ~ a if b ~ c else d", false, Some("__concatenate__('x', a) if __concatenate__(b, c) else d")),
            (
                "f(a ~ b, k=c % d)[e ~ f].in ~ {g: h ~ i}",
                false,
                Some(
                    "__concatenate__(f(__concatenate__(a, b), k=__modulo__(c, d))[__concatenate__(e, f)].in, \
                 {g: __concatenate__(h, i)})",
                ),
            ),
            (" set x = a ~ b", true, Some(" set x = __keep__(__concatenate__(a, b))")),
            (" set x.y = a if b == c else d ", true, Some(" set x.y = __keep_field__(a if b == c else d) ")),
            (" set x, y = 1, 2", true, Some(" set x, y = __keep__((1, 2)) ")),
            (" set x", true, None),
            (" set x | upper", true, None),
            (" if a ~ b", true, Some(" if __concatenate__(a, b)")),
            (
                " for k, v in a ~ b if v % 2",
                true,
                Some(" for k, v in __iterate__(__concatenate__(a, b)) if __modulo__(v, 2)"),
            ),
            (" for x in a or b recursive ", true, Some(" for x in __iterate__(a or b) recursive ")),
            (" for x in [1, 2] ", true, Some(" for x in __iterate__([1, 2]) ")),
            (" for x in 1, a ~ 2 if x", true, Some(" for x in __iterate__((1, __concatenate__(a, 2))) if x")),
            (" for x", true, None),
            (" forx in y", true, None),
            ("m ~ 2 ** 3 % 4", false, Some("__concatenate__(m, __modulo__(2 ** 3, 4))")),
            ("é ~ 'ß\\'~'", false, Some("__concatenate__(é, 'ß\\'~')")),
            ("a ~", false, None),
            ("% b", false, None),
            ("(a ~ b", false, None),
            ("a ~ b)", false, None),
            ("'a ~ b", false, None),
        ];
        for (expression, statement, expected) in cases {
            assert_eq!(adapt(expression, statement).as_deref(), expected, "{expression}");
        }
    }
}
