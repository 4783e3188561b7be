// The conversation as the page shows it.

const SVG = 'http://www.w3.org/2000/svg';

function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

function iconButton(name, label, onClick) {
  const button = element('button', { type: 'button', className: 'icon', title: label, 'aria-label': label }, icon(name));
  button.addEventListener('click', () => onClick(button));
  return button;
}

let toastTimer;
function showToast(text) {
  const toast = $('toast');
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => {
    toast.hidden = true;
  }, 4000);
}

/** Copies a text, and shows the success on the button. Over plain http browsers have only the older way. */
async function copyText(text, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element('textarea', { value: text, className: 'unseen', 'aria-hidden': 'true' });
    document.body.append(area);
    area.select();
    copied = document.execCommand('copy');
    area.remove();
    button.focus();
  }
  showToast(copied ? 'Copied' : 'The browser does not let this page copy.');
  if (copied && button.classList.contains('icon')) {
    button.replaceChildren(icon('check'));
    setTimeout(() => button.replaceChildren(icon('copy')), 1500);
  }
}

/** Offers a text as a file. */
function saveFile(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Returns the figures below an answer. */
function figuresOf(node) {
  const parts = [];
  const { usage, figures } = node;
  const count = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? '' : 's'}`;
  if (usage) parts.push(count(usage.completion_tokens, 'token'));
  if (usage && figures?.writing > 0 && usage.completion_tokens > 1) {
    parts.push(`${(((usage.completion_tokens - 1) * 1000) / figures.writing).toFixed(1)} tokens/s`);
  }
  if (figures?.first >= 0) parts.push(`first after ${(figures.first / 1000).toFixed(2)} s`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`prompt ${count(usage.prompt_tokens, 'token')}${cached ? `, ${cached.toLocaleString()} cached` : ''}`);
  }
  return parts.join(' · ');
}

const ENDINGS = {
  length: 'The answer reached the most tokens that it may have.',
  stopped: 'You stopped this answer.',
  interrupted: 'The page was closed while this answer came.',
};

function messageNode(chat, node) {
  const own = node.role === 'user' ? userNode(chat, node) : node.role === 'tool' ? toolResultNode(node) : answerNode(chat, node);
  own.dataset.id = node.id;
  return own;
}

function userNode(chat, node) {
  const tools = element('div', { className: 'tools' }, ...siblingButtons(chat, node),
    iconButton('copy', 'Copy the question', (button) => copyText(node.content, button)),
    iconButton('edit', 'Edit the question and ask again', () => editQuestion(chat, node)));
  return element('article', { className: 'message user', 'aria-label': 'You' }, element('div', { className: 'bubble' }, node.content), tools);
}

function toolResultNode(node) {
  const text = element('pre', { tabIndex: 0 }, element('code', {}, node.content));
  const head = element('summary', {}, icon('tool'), `Result of ${node.name || 'the tool'}`);
  return element('article', { className: 'message result', 'aria-label': 'Result of a tool' }, element('details', { className: 'fold', open: true }, head, text));
}

function siblingButtons(chat, node) {
  const siblings = siblingsOf(chat, node);
  if (siblings.length < 2) return [];
  const at = siblings.indexOf(node);
  const turn = (to) => () => {
    selectPath(chat, siblings[to]);
    saveChat(chat);
    showChat();
  };
  const [left, right] = [iconButton('left', 'Earlier version', turn(at - 1)), iconButton('right', 'Later version', turn(at + 1))];
  left.disabled = at === 0;
  right.disabled = at === siblings.length - 1;
  return [element('span', { className: 'versions' }, left, element('span', {}, `${at + 1}/${siblings.length}`), right)];
}

/** Returns the node of an answer. Its parts are filled by `fillAnswer`, again and again while the answer grows. */
function answerNode(chat, node) {
  const reasoning = element('details', { className: 'fold reasoning', hidden: true },
    element('summary', {}, element('span')), element('div', { className: 'text' }));
  const part = (className) => element('div', { className, hidden: true });
  const own = element('article', { className: 'message answer', 'aria-label': 'Answer' },
    reasoning, element('div', { className: 'text content' }), part('calls'), part('progress'), part('notes'), part('foot'));
  fillAnswer(own, chat, node);
  return own;
}

function fillAnswer(own, chat, node) {
  const [reasoning, content, calls, progress, notes, foot] = own.children;
  const run = runs.get(chat.id);
  const running = run?.node === node;
  own.classList.toggle('running', running);
  own.setAttribute('aria-busy', String(running));
  fillReasoning(reasoning, node, running);
  showMarkdown(content, node.content);
  fillCalls(calls, chat, node, running);
  fillProgress(progress, node, running ? run : null);
  if (!running) fillEnd(notes, foot, chat, node);
  notes.hidden = running || notes.childElementCount === 0;
  foot.hidden = running;
}

function fillReasoning(reasoning, node, running) {
  reasoning.hidden = !node.reasoning;
  if (!node.reasoning) return;
  const thinks = running && !node.content && !node.calls.length;
  const seconds = node.figures?.thinking >= 100 ? ` for ${(node.figures.thinking / 1000).toFixed(1)} s` : '';
  setText(reasoning.querySelector('span'), thinks ? 'Thinking…' : `Thought${seconds}`);
  showMarkdown(reasoning.lastChild, node.reasoning);
}

function prettyArguments(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function fillCalls(box, chat, node, running) {
  const calls = node.calls.filter(Boolean);
  box.hidden = calls.length === 0;
  const key = JSON.stringify([calls, running, chat.leaf === node.id]);
  if (calls.length === 0 || box.shownKey === key) return;
  box.shownKey = key;
  const answerable = !running && chat.leaf === node.id && node.status === 'done';
  const cards = calls.map((call) => {
    const head = element('summary', {}, icon('tool'), 'Call of ', element('code', {}, call.name || '…'));
    const text = element('pre', { tabIndex: 0 }, element('code', {}, prettyArguments(call.arguments)));
    return element('details', { className: 'fold', open: true }, head, text);
  });
  box.replaceChildren(...cards, ...(answerable ? [resultForm(chat, node, calls)] : []));
}

/** Returns the form that takes the results of the calls, which the user computes or makes up. */
function resultForm(chat, node, calls) {
  const areas = calls.map((call, index) => element('textarea', { rows: 2, placeholder: 'Result', 'aria-label': `Result of call ${index + 1}, ${call.name}` }));
  const rows = calls.flatMap((call, index) => [element('label', {}, `Result of ${call.name}`), areas[index]]);
  const form = element('form', { className: 'results' }, ...rows, element('button', { type: 'submit', className: 'primary' }, calls.length > 1 ? 'Send the results' : 'Send the result'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    sendResults(chat, node, calls, areas.map((area) => area.value));
  });
  return form;
}

function fillProgress(progress, node, run) {
  progress.hidden = !run;
  if (!run) return;
  const seconds = Math.round((performance.now() - run.began) / 1000);
  const began = node.content || node.reasoning || node.calls.length;
  const trouble = describeTrouble(group.status);
  let words = began ? '' : 'Waiting for the first token';
  if (run.waiting) words = began ? 'Waiting for the group' : 'Waiting in the queue';
  if (trouble) words = group.status ? 'The group forms again' : 'The head cannot be reached';
  if (progress.childElementCount === 0) progress.append(element('span', { className: 'pulse' }), element('span'));
  setText(progress.lastChild, words && seconds > 0 && !began ? `${words}, ${seconds} s` : words);
  progress.classList.toggle('bad', Boolean(trouble));
}

function fillEnd(notes, foot, chat, node) {
  const lines = [];
  if (node.losses) lines.push(element('p', { className: 'survived' }, `${node.losses} The answer went on where it was.`));
  const ending = ENDINGS[node.status] ?? ENDINGS[node.finish];
  if (ending) lines.push(element('p', {}, ending));
  if (node.status === 'failed') {
    const again = element('button', { type: 'button', className: 'primary' }, 'Try again');
    again.addEventListener('click', () => answerAgain(chat, node));
    const key = element('button', { type: 'button', className: 'quiet' }, 'Enter a key');
    key.addEventListener('click', () => askForKey());
    const buttons = element('div', { className: 'buttons' }, again, node.locked ? key : '');
    lines.push(element('div', { className: 'failure', role: 'alert' }, icon('warn'), element('div', {}, element('p', {}, node.failure), buttons)));
  }
  notes.replaceChildren(...lines);
  const figures = figuresOf(node);
  foot.replaceChildren(element('div', { className: 'tools' }, ...siblingButtons(chat, node),
    ...(node.content ? [iconButton('copy', 'Copy the answer', (button) => copyText(node.content, button))] : []),
    iconButton('redo', 'Answer again', () => answerAgain(chat, node))),
  ...(figures ? [element('span', { className: 'figures' }, figures)] : []));
}

/** Shows the current conversation anew. */
function showChat() {
  const path = pathTo(chat);
  const parts = path.map((node) => messageNode(chat, node));
  $('messages').replaceChildren(...(parts.length ? parts : [emptyNode()]));
  $('messages').classList.toggle('empty', parts.length === 0);
  document.title = chat.title ? `${chat.title} · Lockstep` : 'Lockstep';
  showComposer();
  showChats();
  scrollToEnd();
}

function emptyNode() {
  const examples = ['What happens when a worker dies?', 'Write a haiku about a machine that never stops.', 'Explain tensor parallelism to a child.'];
  const buttons = examples.map((text) => {
    const button = element('button', { type: 'button' }, text);
    button.addEventListener('click', () => ask(text));
    return button;
  });
  const mark = icon('mark');
  mark.classList.add('mark');
  return element('div', { className: 'welcome' }, mark, element('h1', {}, 'What do you want to know?'), element('div', { className: 'examples' }, ...buttons));
}

function showChats() {
  const rows = sortedChats().map((other) => {
    const open = element('button', { type: 'button', className: 'open', title: other.title }, other.title || 'Conversation');
    open.addEventListener('click', () => openChat(other.id));
    if (other.id === chat.id) open.setAttribute('aria-current', 'true');
    const save = iconButton('save', `Export: ${other.title}`, () => saveFile(`${fileName(other.title)}.md`, 'text/markdown', chatToMarkdown(other)));
    const remove = iconButton('trash', `Delete: ${other.title}`, () => askToDelete(other));
    const row = element('li', { className: other.id === chat.id ? 'current' : '' }, open, save, remove);
    row.classList.toggle('running', runs.has(other.id));
    return row;
  });
  const none = element('li', { className: 'none' }, 'No conversations yet');
  $('chats').replaceChildren(...(rows.length ? rows : [none]));
}

function fileName(title) {
  return title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 50) || 'conversation';
}

function showComposer() {
  const running = runs.has(chat.id);
  $('send').hidden = running;
  $('stop').hidden = !running;
  $('send').disabled = $('question').value.trim() === '';
}

/** Distance from the end within which the page follows the growing answer. */
const NEAR_END_PX = 90;

function isNearEnd() {
  const box = $('scroller');
  return box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
}

function scrollToEnd() {
  $('scroller').scrollTop = $('scroller').scrollHeight;
  $('to-end').hidden = true;
}
