//! The operations of the endpoint: one for each method of each route.

/// Groups of operations, in the order in which the page shows them.
pub(super) const TAGS: [(&str, &str); 4] = [
    ("Answers", "Ask the model."),
    ("Models", "The served model."),
    ("State", "Probes and metrics of the head."),
    ("Pages", "Pages for people, and this description."),
];

/// Statuses of errors, with their causes.
pub(super) const ERRORS: &[(u16, &str)] = &[
    (
        400,
        "A field is wrong, and `param` names it. Without `param`: the body is no JSON object, or it cannot be served.",
    ),
    (401, "The server asks for a key, and the request has none of the server's keys."),
    (403, "The request calls this machine by a name that is not its own."),
    (404, "There is no such model."),
    (405, "The path does not take the method."),
    (408, "The body did not arrive in time, or the client read too slowly."),
    (413, "The body is too long."),
    (415, "The body is said to be something else than JSON."),
    (429, "The queue is full. `Retry-After` says when to try again."),
    (500, "The server has a defect, or the group failed again and again while it computed the request."),
    (503, "The group cannot serve in time, or the head drains. `Retry-After` says when to try again."),
    (504, "The request's deadline passed."),
];

/// Errors of every operation: a wrong name of the machine, a wrong method.
pub(super) const COMMON_ERRORS: &[u16] = &[403, 405];
/// Errors of a request with a body.
pub(super) const BODY_ERRORS: &[u16] = &[400, 408, 413, 415];
/// Errors of an operation that asks the model.
const ANSWER_ERRORS: &[u16] = &[404, 408, 429, 500, 503, 504];

/// One method of one path.
pub(super) struct Operation {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// Name of the request's schema.
    pub(super) request: Option<&'static str>,
    pub(super) answers: &'static [Answer],
    /// Statuses of [`ERRORS`], beside those of every operation and of every body.
    pub(super) errors: &'static [u16],
}

/// Content of an answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) meaning: &'static str,
    pub(super) content: &'static [Content],
}

pub(super) enum Content {
    /// JSON of a schema with this name.
    Json(&'static str),
    /// Server-sent events, each with JSON of a schema with this name.
    Events(&'static str),
    /// Text of this media type.
    Text(&'static str),
}

const fn ok(meaning: &'static str, content: &'static [Content]) -> Answer {
    Answer { status: 200, meaning, content }
}

const UNCHANGED: Answer =
    Answer { status: 304, meaning: "The client has this page already (`If-None-Match`).", content: &[] };

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        path: "/v1/chat/completions",
        method: "post",
        id: "createChatCompletion",
        tag: TAGS[0].0,
        summary: "Answer a conversation",
        description: "The model's chat template turns the messages into a prompt. With `stream`, the answer comes as events \
                      while it is computed, and ends with `data: [DONE]`. While a request waits, a comment comes every \
                      five seconds.",
        request: Some("ChatRequest"),
        answers: &[ok("The answer.", &[Content::Json("ChatAnswer"), Content::Events("ChatChunk")])],
        errors: ANSWER_ERRORS,
    },
    Operation {
        path: "/v1/chat/completions/batch",
        method: "post",
        id: "createChatCompletions",
        tag: TAGS[0].0,
        summary: "Answer several conversations",
        description: "As with vLLM, `messages` is a list of conversations. The choices come in the order of the \
                      conversations. All other fields hold for each conversation.",
        request: Some("ChatBatchRequest"),
        answers: &[ok("The answers.", &[Content::Json("ChatAnswer"), Content::Events("ChatChunk")])],
        errors: ANSWER_ERRORS,
    },
    Operation {
        path: "/v1/completions",
        method: "post",
        id: "createCompletion",
        tag: TAGS[0].0,
        summary: "Continue a text",
        description: "The prompt goes to the model as it is. Several prompts are answered at once.",
        request: Some("CompletionRequest"),
        answers: &[ok("The continuation.", &[Content::Json("CompletionAnswer"), Content::Events("CompletionAnswer")])],
        errors: ANSWER_ERRORS,
    },
    Operation {
        path: "/v1/responses",
        method: "post",
        id: "createResponse",
        tag: TAGS[0].0,
        summary: "Answer a conversation, as OpenAI's Responses API",
        description: "The server stores nothing: each request holds its whole conversation. A stream ends with \
                      `response.completed`, `response.incomplete` or `response.failed`.",
        request: Some("ResponseRequest"),
        answers: &[ok("The response.", &[Content::Json("Response"), Content::Events("Event")])],
        errors: ANSWER_ERRORS,
    },
    Operation {
        path: "/v1/responses/input_tokens",
        method: "post",
        id: "countResponseTokens",
        tag: TAGS[0].0,
        summary: "Count the tokens of a request for a response",
        description: "Nothing is computed.",
        request: Some("ResponseRequest"),
        answers: &[ok("The number of tokens.", &[Content::Json("ResponseTokens")])],
        errors: &[404, 500],
    },
    Operation {
        path: "/v1/messages",
        method: "post",
        id: "createMessage",
        tag: TAGS[0].0,
        summary: "Answer a conversation, as Anthropic's Messages API",
        description: "Errors have Anthropic's shape. A stream ends with `message_stop` or `error`. While a request waits, the \
                      event `ping` comes every five seconds.",
        request: Some("MessagesRequest"),
        answers: &[ok("The message.", &[Content::Json("MessageAnswer"), Content::Events("Event")])],
        errors: ANSWER_ERRORS,
    },
    Operation {
        path: "/v1/messages/count_tokens",
        method: "post",
        id: "countMessageTokens",
        tag: TAGS[0].0,
        summary: "Count the tokens of a request for a message",
        description: "Nothing is computed.",
        request: Some("MessagesRequest"),
        answers: &[ok("The number of tokens.", &[Content::Json("MessageTokens")])],
        errors: &[404, 500],
    },
    Operation {
        path: "/invocations",
        method: "post",
        id: "invoke",
        tag: TAGS[0].0,
        summary: "Answer a conversation or continue a text",
        description: "For platforms that know only this address: `messages` make it a conversation, else `prompt` is continued.",
        request: Some("Invocation"),
        answers: &[ok("The answer.", &[Content::Json("Anything"), Content::Events("Anything")])],
        errors: ANSWER_ERRORS,
    },
    Operation {
        path: "/v1/models",
        method: "get",
        id: "listModels",
        tag: TAGS[1].0,
        summary: "List the names of the served model",
        description: "",
        request: None,
        answers: &[ok("The list, with an entry for each name.", &[Content::Json("ModelList")])],
        errors: &[],
    },
    Operation {
        path: "/v1/models/{id}",
        method: "get",
        id: "getModel",
        tag: TAGS[1].0,
        summary: "Describe the served model",
        description: "",
        request: None,
        answers: &[ok("The model.", &[Content::Json("Model")])],
        errors: &[404],
    },
    Operation {
        path: "/tokenize",
        method: "post",
        id: "tokenize",
        tag: TAGS[1].0,
        summary: "Count and list the tokens of a text",
        description: "The text is a `prompt`, or the prompt that `messages` make.",
        request: Some("TokenizeRequest"),
        answers: &[ok("The tokens.", &[Content::Json("Tokens")])],
        errors: &[404, 500],
    },
    Operation {
        path: "/detokenize",
        method: "post",
        id: "detokenize",
        tag: TAGS[1].0,
        summary: "Turn tokens into text",
        description: "",
        request: Some("DetokenizeRequest"),
        answers: &[ok("The text.", &[Content::Json("Text")])],
        errors: &[404, 500],
    },
    Operation {
        path: "/health",
        method: "get",
        id: "getHealth",
        tag: TAGS[2].0,
        summary: "The head works",
        description: "A probe of liveness.",
        request: None,
        answers: &[
            ok("The process and the head's task run.", &[Content::Json("Health")]),
            Answer { status: 503, meaning: "The head's task hangs.", content: &[Content::Json("Health")] },
        ],
        errors: &[],
    },
    Operation {
        path: "/ready",
        method: "get",
        id: "getReady",
        tag: TAGS[2].0,
        summary: "Every rank serves",
        description: "The body lists each rank's phase and the reasons why the group is not ready.",
        request: None,
        answers: &[
            ok("The group is ready.", &[Content::Json("GroupState")]),
            Answer { status: 503, meaning: "The group is not ready.", content: &[Content::Json("GroupState")] },
        ],
        errors: &[],
    },
    Operation {
        path: "/accepting",
        method: "get",
        id: "getAccepting",
        tag: TAGS[2].0,
        summary: "The head expects to answer a new request",
        description: "A group that forms again after a loss is not ready, but it is accepting: its requests wait.",
        request: None,
        answers: &[
            ok("The head is accepting.", &[Content::Json("GroupState")]),
            Answer { status: 503, meaning: "The head is not accepting.", content: &[Content::Json("GroupState")] },
        ],
        errors: &[],
    },
    Operation {
        path: "/ping",
        method: "get",
        id: "ping",
        tag: TAGS[2].0,
        summary: "The head works",
        description: "As `/health`, without a body.",
        request: None,
        answers: &[
            Answer { status: 200, meaning: "The head's task runs.", content: &[] },
            Answer { status: 503, meaning: "The head's task hangs.", content: &[] },
        ],
        errors: &[],
    },
    Operation {
        path: "/ping",
        method: "post",
        id: "pingByPost",
        tag: TAGS[2].0,
        summary: "The head works",
        description: "As `/health`, without a body.",
        request: None,
        answers: &[
            Answer { status: 200, meaning: "The head's task runs.", content: &[] },
            Answer { status: 503, meaning: "The head's task hangs.", content: &[] },
        ],
        errors: &[],
    },
    Operation {
        path: "/load",
        method: "get",
        id: "getLoad",
        tag: TAGS[2].0,
        summary: "Count the unfinished requests",
        description: "",
        request: None,
        answers: &[ok("The numbers.", &[Content::Json("Load")])],
        errors: &[],
    },
    Operation {
        path: "/version",
        method: "get",
        id: "getVersion",
        tag: TAGS[2].0,
        summary: "The program's version",
        description: "",
        request: None,
        answers: &[ok("The version.", &[Content::Json("Version")])],
        errors: &[],
    },
    Operation {
        path: "/server_info",
        method: "get",
        id: "getServerInfo",
        tag: TAGS[2].0,
        summary: "Facts of the program, the model and the group",
        description: "",
        request: None,
        answers: &[ok("The facts.", &[Content::Json("Anything")])],
        errors: &[],
    },
    Operation {
        path: "/metrics",
        method: "get",
        id: "getMetrics",
        tag: TAGS[2].0,
        summary: "Metrics for Prometheus",
        description: "",
        request: None,
        answers: &[ok("The metrics.", &[Content::Text("application/openmetrics-text"), Content::Text("text/plain")])],
        errors: &[500],
    },
    Operation {
        path: "/",
        method: "get",
        id: "getChatPage",
        tag: TAGS[3].0,
        summary: "The chat page",
        description: "",
        request: None,
        answers: &[ok("The page.", &[Content::Text("text/html")]), UNCHANGED],
        errors: &[],
    },
    Operation {
        path: "/docs",
        method: "get",
        id: "getDocs",
        tag: TAGS[3].0,
        summary: "This description as a page",
        description: "",
        request: None,
        answers: &[ok("The page.", &[Content::Text("text/html")]), UNCHANGED],
        errors: &[],
    },
    Operation {
        path: "/openapi.json",
        method: "get",
        id: "getOpenApi",
        tag: TAGS[3].0,
        summary: "This description",
        description: "",
        request: None,
        answers: &[ok("The description, in OpenAPI 3.1.", &[Content::Json("Anything")])],
        errors: &[],
    },
];
