//! Grammars in the dialect of EBNF of llama.cpp (GBNF) and XGrammar, translated to Lark.
//!
//! A rule that does not call itself becomes a terminal, so that the lexer sees its whole text. Otherwise the longest match
//! of one of its parts could hide another way to read the text.

use std::collections::HashMap;
use std::fmt::Write;

use super::literal;

/// Most rules, as each costs a search through the others.
const MAX_RULES: usize = 1024;

/// Returns true if the text is a grammar in EBNF, and not in Lark.
pub(super) fn is_ebnf(text: &str) -> bool {
    tokens(text).is_ok_and(|tokens| tokens.contains(&Token::Is))
}

/// Translates a grammar, whose first rule is `root`.
///
/// # Errors
/// Names the fault and its line.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let rules = rules(tokens(text)?)?;
    let numbers: HashMap<&str, usize> = rules.iter().enumerate().map(|(at, rule)| (rule.name.as_str(), at)).collect();
    if numbers.len() != rules.len() {
        let twice = rules.iter().enumerate().find(|(at, rule)| numbers[rule.name.as_str()] != *at);
        return Err(format!("two rules are called {:?}", twice.map_or("", |(_, rule)| &rule.name)));
    }
    let root = *numbers.get("root").ok_or("there is no rule `root`, with which an answer begins")?;
    let mut calls = Vec::with_capacity(rules.len());
    for rule in &rules {
        let mut called = Vec::new();
        for token in &rule.body {
            if let Token::Name(name) = token {
                let number = numbers.get(name.as_str());
                called.push(*number.ok_or_else(|| format!("no rule is called {name:?}, and {:?} uses it", rule.name))?);
            }
        }
        calls.push(called);
    }
    let is_terminal = terminals(&calls);
    let spell = |number: usize| if is_terminal[number] { format!("R{number}") } else { format!("r{number}") };
    let mut lark = format!("start: {}\n", spell(root));
    for (number, rule) in rules.iter().enumerate() {
        write!(lark, "{}:", spell(number)).ok();
        for token in &rule.body {
            match token {
                Token::Name(name) => write!(lark, " {}", spell(numbers[name.as_str()])).ok(),
                Token::Literal(text) => write!(lark, " {}", literal(text)).ok(),
                Token::Class(regex) => write!(lark, " /{regex}/").ok(),
                Token::Repeat(repeat) => write!(lark, "{repeat}").ok(),
                Token::Mark(mark) => write!(lark, " {mark}").ok(),
                Token::Is => None,
            };
        }
        lark.push('\n');
    }
    Ok(lark)
}

/// Returns for each rule whether it is free of calls that lead back to a rule that calls itself.
fn terminals(calls: &[Vec<usize>]) -> Vec<bool> {
    let mut is_terminal = vec![false; calls.len()];
    loop {
        let mut changed = false;
        for (number, called) in calls.iter().enumerate() {
            if !is_terminal[number] && called.iter().all(|called| is_terminal[*called]) {
                is_terminal[number] = true;
                changed = true;
            }
        }
        if !changed {
            return is_terminal;
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Is,
    Literal(String),
    /// A class of characters, as a regular expression.
    Class(String),
    /// `*`, `+`, `?` or `{m,n}`.
    Repeat(String),
    /// `|`, `(` or `)`.
    Mark(char),
}

struct Rule {
    name: String,
    body: Vec<Token>,
}

fn rules(tokens: Vec<Token>) -> Result<Vec<Rule>, String> {
    let mut rules: Vec<Rule> = Vec::new();
    for token in tokens {
        if token != Token::Is {
            match rules.last_mut() {
                Some(rule) => rule.body.push(token),
                None => rules.push(Rule { name: String::new(), body: vec![token] }),
            }
            continue;
        }
        // The name before `::=` is the last token of the rule before.
        let Some(Token::Name(name)) = rules.last_mut().and_then(|rule| rule.body.pop()) else {
            return Err("a rule has no name before `::=`".into());
        };
        rules.push(Rule { name, body: Vec::new() });
        if rules.len() > MAX_RULES {
            return Err(format!("the grammar has more than {MAX_RULES} rules"));
        }
    }
    let before = rules.iter().position(|rule| rule.name.is_empty() && !rule.body.is_empty());
    match before {
        Some(_) => Err("something comes before the first rule".into()),
        None => Ok(rules.into_iter().filter(|rule| !rule.name.is_empty()).collect()),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut source = Source { chars: text.chars().collect(), at: 0 };
    let mut tokens = Vec::new();
    while let Some(char) = source.next() {
        let token = match char {
            char if char.is_whitespace() => continue,
            '#' => {
                while source.peek().is_some_and(|char| char != '\n') {
                    source.at += 1;
                }
                continue;
            }
            ':' if source.take(":=") => Token::Is,
            '"' | '\'' => Token::Literal(source.literal(char)?),
            '[' => Token::Class(source.class()?),
            '.' => Token::Class("(?s:.)".into()),
            '|' | '(' | ')' => Token::Mark(char),
            '*' | '+' | '?' => Token::Repeat(char.into()),
            '{' => Token::Repeat(source.repeat()?),
            char if is_name(char) => Token::Name(source.name(char)),
            other => return Err(source.fault(&format!("unexpected {other:?}"))),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

fn is_name(char: char) -> bool {
    char.is_alphanumeric() || "_-".contains(char)
}

struct Source {
    chars: Vec<char>,
    at: usize,
}

impl Source {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    /// Takes `text` if it comes next.
    fn take(&mut self, text: &str) -> bool {
        let comes = text.chars().enumerate().all(|(at, char)| self.chars.get(self.at + at) == Some(&char));
        if comes {
            self.at += text.chars().count();
        }
        comes
    }

    fn fault(&self, reason: &str) -> String {
        let line = self.chars[..self.at].iter().filter(|char| **char == '\n').count() + 1;
        format!("{reason} in line {line}")
    }

    fn name(&mut self, first: char) -> String {
        let mut name = String::from(first);
        while let Some(char) = self.peek().filter(|char| is_name(*char)) {
            name.push(char);
            self.at += 1;
        }
        name
    }

    fn literal(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(self.fault("a text has no end")),
                Some(char) if char == quote => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(char) => text.push(char),
            }
        }
    }

    /// Reads the rest of a class of characters. Returns a regular expression.
    fn class(&mut self) -> Result<String, String> {
        let mut regex = String::from("[");
        if self.take("^") {
            regex.push('^');
        }
        let mut first = true;
        loop {
            match self.next() {
                None => return Err(self.fault("a class of characters has no end")),
                Some(']') if first => return Err(self.fault("a class of characters is empty")),
                Some(']') => {
                    regex.push(']');
                    return Ok(regex);
                }
                // A hyphen between two characters makes a range. A hyphen at the end of the class is itself.
                Some('-') if !first && self.peek().is_some_and(|next| next != ']') => regex.push('-'),
                Some('\\') => push_escaped(&mut regex, self.escape()?),
                Some(char) => push_escaped(&mut regex, char),
            }
            first = false;
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(char) => return Ok(char),
            None => return Err(self.fault("an escape has no end")),
        };
        let hex: String = std::iter::from_fn(|| self.next()).take(digits).collect();
        let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
        code.ok_or_else(|| self.fault(&format!("{hex:?} is no code of a character")))
    }

    /// Reads the rest of `{m,n}`.
    fn repeat(&mut self) -> Result<String, String> {
        let inner: String = std::iter::from_fn(|| self.next()).take_while(|char| *char != '}').collect();
        let counts: Vec<&str> = inner.split(',').map(str::trim).collect();
        let is_count = |text: &&str| text.parse::<u16>().is_ok();
        match counts[..] {
            [count] if is_count(&count) => Ok(format!("{{{count}}}")),
            [least, ""] if is_count(&least) => Ok(format!("{{{least},}}")),
            ["", most] if is_count(&most) => Ok(format!("{{0,{most}}}")),
            [least, most] if is_count(&least) && is_count(&most) => Ok(format!("{{{least},{most}}}")),
            _ => Err(self.fault(&format!("{inner:?} is no number of repetitions"))),
        }
    }
}

fn push_escaped(regex: &mut String, char: char) {
    write!(regex, "\\x{{{:x}}}", u32::from(char)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        for (text, fault) in [
            (
                "root ::= select_statementinvalidsyntax\n column ::= \"a\"",
                "no rule is called \"select_statementinvalid",
            ),
            ("start ::= \"a\"", "there is no rule `root`"),
            ("root ::= \"a\nb ::= \"c\"", "a text has no end"),
            ("root ::= \"a\"\nroot ::= \"b\"", "two rules are called \"root\""),
            ("root ::= \"a\"{x}", "\"x\" is no number of repetitions in line 1"),
            ("root ::= \"a\"\n  | \"\\xzz\"", "\"zz\" is no code of a character in line 2"),
            ("\"x\" root ::= \"a\"", "something comes before the first rule"),
            ("::= \"a\"", "a rule has no name"),
            ("root ::= []", "a class of characters is empty"),
            ("root ::= [a", "a class of characters has no end"),
            ("root ::= @", "unexpected '@' in line 1"),
        ] {
            let error = to_lark(text).unwrap_err();
            assert!(error.contains(fault), "{text}: {error}");
        }
    }

    #[test]
    fn the_dialects_are_told_apart() {
        assert!(is_ebnf("root ::= \"a\" # comment ::= \""));
        assert!(!is_ebnf("start: \"::=\" x\nx: /a/ // ::="));
        assert!(!is_ebnf("start: \"a\""));
    }
}
