//! The pages for people: the chat at `/`, and the description of the endpoint at `/docs`.
//!
//! Each page is one response. Its style and its script stand in it, and it loads nothing from elsewhere. Its security
//! policy allows this style and this script alone, by their digests, and requests to this server alone. The files of
//! this folder are the parts. There is no build step: the parts are joined when the page is first asked for.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

static CHAT: LazyLock<Page> = LazyLock::new(|| {
    Page::join(
        include_str!("chat.html"),
        &[include_str!("base.css"), include_str!("chat.css")],
        &[
            include_str!("dom.js"),
            include_str!("markdown.js"),
            include_str!("store.js"),
            include_str!("client.js"),
            include_str!("group.js"),
            include_str!("view.js"),
            include_str!("main.js"),
        ],
    )
});

static DOCS: LazyLock<Page> = LazyLock::new(|| {
    Page::join(
        include_str!("docs.html"),
        &[include_str!("base.css"), include_str!("docs.css")],
        &[include_str!("dom.js"), include_str!("client.js"), include_str!("docs.js")],
    )
});

/// Empty elements of a page's HTML that its style and its script fill.
const STYLE: [&str; 2] = ["<style>", "</style>"];
const SCRIPT: [&str; 2] = ["<script>", "</script>"];

pub(crate) async fn chat(headers: HeaderMap) -> Response {
    CHAT.respond(&headers)
}

pub(crate) async fn docs(headers: HeaderMap) -> Response {
    DOCS.respond(&headers)
}

/// A page with the headers that belong to it.
struct Page {
    html: String,
    policy: String,
    etag: String,
}

impl Page {
    fn join(html: &str, styles: &[&str], scripts: &[&str]) -> Self {
        let (style, script) = (styles.concat(), scripts.concat());
        let html = fill(&fill(html, STYLE, &style), SCRIPT, &script);
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
            source_of(&script),
            source_of(&style),
        );
        let etag = format!("\"{}\"", digest(&html));
        Self { html, policy, etag }
    }

    /// Returns the page, or 304 if the client has it already.
    fn respond(&self, asked: &HeaderMap) -> Response {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
        let mut known = known.flat_map(|tags| tags.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        // Browsers ask each time if the page has changed, so that a newer head shows its own page.
        let caching: [(HeaderName, &str); 2] = [(header::CACHE_CONTROL, "no-cache"), (header::ETAG, &self.etag)];
        if known.any(|tag| tag == self.etag || tag == "*") {
            return (StatusCode::NOT_MODIFIED, caching).into_response();
        }
        let safety: [(HeaderName, &str); 4] = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, &self.policy),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        (caching, safety, self.html.clone()).into_response()
    }
}

/// Puts `content` into the empty element of `html`.
fn fill(html: &str, [open, close]: [&str; 2], content: &str) -> String {
    html.replacen(&format!("{open}{close}"), &format!("{open}{content}{close}"), 1)
}

fn digest(text: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(text))
}

/// Returns the source expression of a security policy that allows `text` as an inline style or script.
fn source_of(text: &str) -> String {
    format!("'sha256-{}'", digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_whole_and_loads_nothing_from_elsewhere() {
        for page in [&CHAT, &DOCS] {
            for element in ["style", "script"] {
                let (open, close) = (format!("<{element}>"), format!("</{element}>"));
                let parts: Vec<&str> = page.html.split(&open).collect();
                assert_eq!(parts.len(), 2, "one {element}");
                let (content, rest) = parts[1].split_once(&close).unwrap();
                assert!(content.len() > 1000, "{element} is filled");
                assert!(page.policy.contains(&source_of(content)), "the policy allows the {element}");
                assert!(!rest.contains(&close), "{close} stands once, at the end of the {element}");
            }
            for foreign in [" src=", "<link rel=\"stylesheet", "@import", "url(", " style=", " onclick=", "innerHTML"] {
                assert!(!page.html.contains(foreign), "{foreign}");
            }
        }
    }

    #[test]
    fn a_client_that_has_the_page_is_told_so() {
        let ask = |tag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, tag.parse().unwrap());
            CHAT.respond(&headers)
        };
        let etag = &CHAT.etag;
        for (tag, status) in [
            (etag.clone(), 304),
            (format!("\"old\", W/{etag}"), 304),
            ("*".to_owned(), 304),
            ("\"old\"".to_owned(), 200),
            (DOCS.etag.clone(), 200),
        ] {
            assert_eq!(ask(&tag).status(), status, "{tag}");
        }
        assert_eq!(ask(etag).headers()[header::ETAG], etag.as_str());
    }
}
