// Requests to the head. Addresses are relative to the page, so the page also works below a path of a proxy.

const API_KEY = 'lockstep.api-key';
/** Time without any byte, comments included, after which a stream counts as broken. The head comments every 5 s. */
const SILENCE_MS = 60_000;

/** Failure of a request, in words for the user. */
class RequestFailure extends Error {
  constructor(message, { status = 0, again = true } = {}) {
    super(message);
    this.status = status;
    /** Whether the same request may succeed later. */
    this.again = again;
  }
}

/** The key for this tab. Some browsers keep nothing at all: the key is then forgotten with the page. */
const apiKey = {
  value: '',
  read() {
    try {
      this.value = sessionStorage.getItem(API_KEY) ?? '';
    } catch {
      this.value = '';
    }
  },
  set(value) {
    this.value = value.trim();
    try {
      if (this.value) sessionStorage.setItem(API_KEY, this.value);
      else sessionStorage.removeItem(API_KEY);
    } catch {
      // The key stays in memory.
    }
  },
};

function callHead(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey.value) headers.authorization = `Bearer ${apiKey.value}`;
  return fetch(path, { ...options, headers, cache: 'no-store', credentials: 'same-origin', redirect: 'error' });
}

/** Returns the failure that a response with an error status tells of. */
async function failureOf(response) {
  const { status } = response;
  const body = await response.json().catch(() => null);
  const said = body?.error?.message ?? body?.message;
  if (status === 401) {
    return new RequestFailure(apiKey.value ? 'The endpoint refuses this API key.' : 'The endpoint asks for an API key.', { status });
  }
  const words = said ? said[0].toUpperCase() + said.slice(1) : `The endpoint answered with status ${status}.`;
  return new RequestFailure(/[.!?]$/.test(words) ? words : `${words}.`, { status, again: status === 408 || status === 429 || status >= 500 });
}

/** Yields the data of each event of a stream, and null for each comment. */
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new RequestFailure(`Nothing came from the head for ${SILENCE_MS / 1000} s.`)), SILENCE_MS);
      });
      const { done, value } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith(':')) yield null;
        else if (line.startsWith('data:')) yield line.slice(5).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Asks for an answer, and calls `onChunk` with each chunk of it and `onWait` with each comment of a stream that waits.
 * Fails with a RequestFailure, or with an AbortError after `signal`.
 */
async function streamAnswer(body, { signal, onChunk, onWait }) {
  const options = { method: 'POST', signal, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  let response;
  try {
    response = await callHead('v1/chat/completions', options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new RequestFailure('The head cannot be reached.');
  }
  if (!response.ok) throw await failureOf(response);
  let done = false;
  try {
    for await (const data of readEvents(response.body)) {
      if (data === null) {
        onWait();
      } else if (data === '[DONE]') {
        done = true;
      } else {
        const chunk = JSON.parse(data);
        if (chunk.error) throw new RequestFailure(`The answer broke off: ${chunk.error.message}.`);
        onChunk(chunk);
      }
    }
  } catch (error) {
    if (error.name === 'AbortError' || error instanceof RequestFailure) throw error;
    throw new RequestFailure('The connection to the head broke off.');
  }
  if (!done) throw new RequestFailure('The connection ended before the answer did.');
}

/** Returns the request for an answer to the messages of a path. */
function requestFor(path, settings) {
  const messages = settings.system.trim() ? [{ role: 'system', content: settings.system }] : [];
  for (const node of path) {
    if (node.role === 'tool') {
      messages.push({ role: 'tool', tool_call_id: node.callId, content: node.content });
    } else if (node.role === 'user') {
      messages.push({ role: 'user', content: node.content });
    } else if (node.content || node.calls.length) {
      const message = { role: 'assistant', content: node.content };
      if (node.reasoning) message.reasoning_content = node.reasoning;
      if (node.calls.length) {
        message.tool_calls = node.calls.map((call) => ({ id: call.id, type: 'function', function: { name: call.name, arguments: call.arguments } }));
      }
      messages.push(message);
    }
  }
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ['temperature', 'top_p', 'max_tokens', 'seed']) {
    if (settings[name] !== '') body[name] = Number(settings[name]);
  }
  if (settings.tools.trim()) body.tools = JSON.parse(settings.tools);
  return body;
}

/** Adds the parts of a chunk to an answer. Returns the text that the chunk adds to the content. */
function addChunk(node, chunk) {
  if (chunk.usage) node.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return '';
  if (choice.finish_reason) node.finish = choice.finish_reason;
  const { content = '', reasoning_content: reasoning = '', tool_calls: calls = [] } = choice.delta ?? {};
  node.content += content ?? '';
  node.reasoning = (node.reasoning ?? '') + (reasoning ?? '');
  for (const call of calls ?? []) {
    const own = (node.calls[call.index ?? 0] ??= { id: '', name: '', arguments: '' });
    own.id ||= call.id ?? '';
    own.name ||= call.function?.name ?? '';
    own.arguments += call.function?.arguments ?? '';
  }
  return content ?? '';
}
