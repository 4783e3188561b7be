// What the user does, and the answers that run.

const THEME_KEY = 'lockstep.theme';
const THEMES = ['system', 'light', 'dark'];
/** Least time between two saves of a growing answer. */
const SAVE_MS = 1000;
/** Longest text that is read aloud at once while an answer grows. */
const MAX_SPOKEN = 300;

/** The conversation that is shown. */
let chat = createChat();
/** Answers that are being written, by conversation: {node, controller, began, …}. */
const runs = new Map();

/** Adds a question to the shown conversation and asks for the answer. */
function ask(text) {
  if (runs.has(chat.id) || !text.trim() || !readSettings()) return;
  addMessage(chat, chat.leaf, { role: 'user', content: text });
  answer(chat, chat.leaf);
}

/** Asks for another answer to the question above `node`. */
function answerAgain(owner, node) {
  if (!runs.has(owner.id) && readSettings()) answer(owner, node.parent);
}

function sendResults(owner, node, calls, results) {
  if (runs.has(owner.id)) return;
  let parent = node.id;
  calls.forEach((call, index) => {
    parent = addMessage(owner, parent, { role: 'tool', content: results[index], callId: call.id, name: call.name }).id;
  });
  answer(owner, parent);
}

/** Asks for the answer to the path that ends at `parent`, and shows it while it grows. */
async function answer(owner, parent) {
  const node = addMessage(owner, parent, { role: 'assistant', content: '', reasoning: '', status: 'streaming' });
  const run = { node, controller: new AbortController(), began: performance.now(), first: 0, waiting: false, saved: 0, spoken: '' };
  runs.set(owner.id, run);
  saveChat(owner);
  if (owner === chat) showChat();
  const clock = setInterval(() => paintRun(owner, run), 1000);
  try {
    const body = requestFor(pathTo(owner, parent), owner.settings);
    await streamAnswer(body, {
      signal: run.controller.signal,
      onWait: () => {
        run.waiting = true;
        paintRun(owner, run);
      },
      onChunk: (chunk) => takeChunk(owner, run, chunk),
    });
    node.status = 'done';
  } catch (error) {
    const stopped = error.name === 'AbortError';
    node.status = stopped ? 'stopped' : 'failed';
    if (!stopped) {
      node.failure = error.message;
      node.locked = error.status === 401;
    }
  }
  clearInterval(clock);
  finishRun(owner, run);
}

function takeChunk(owner, run, chunk) {
  const { node } = run;
  if (run.dropped) return;
  const now = performance.now();
  const had = node.content.length + (node.reasoning?.length ?? 0) + node.calls.length;
  const said = addChunk(node, chunk);
  run.waiting = false;
  if (node.content.length + node.reasoning.length + node.calls.length > 0) {
    if (!had) run.first = now;
    if (chunk.choices?.length) run.last = now;
    if ((node.content || node.calls.length) && !run.thought) run.thought = now;
    node.figures = { first: run.first - run.began, writing: run.last - run.first };
    if (node.reasoning && run.thought) node.figures.thinking = run.thought - run.first;
  }
  speak(owner, run, said);
  if (now - run.saved > SAVE_MS) {
    run.saved = now;
    saveChat(owner);
  }
  paintRun(owner, run);
}

/** Draws a running answer at the next frame. */
function paintRun(owner, run) {
  if (owner !== chat || run.painting) return;
  run.painting = true;
  requestAnimationFrame(() => {
    run.painting = false;
    if (owner === chat) paintAnswer(owner, run.node);
  });
}

function paintAnswer(owner, node) {
  const own = $('messages').querySelector(`[data-id="${CSS.escape(node.id)}"]`);
  if (!own) return;
  const follow = isNearEnd();
  fillAnswer(own, owner, node);
  if (follow) scrollToEnd();
  else $('to-end').hidden = false;
}

/** Ends the answer of a conversation that is deleted. */
function dropRun(id) {
  const run = runs.get(id);
  if (!run) return;
  run.dropped = true;
  run.controller.abort();
  runs.delete(id);
}

function finishRun(owner, run) {
  const { node } = run;
  if (run.dropped) return;
  runs.delete(owner.id);
  speak(owner, run, '', true);
  const empty = !node.content && !node.reasoning && node.calls.length === 0;
  // An answer that was stopped before its first token leaves nothing.
  if (node.status === 'stopped' && empty) {
    delete owner.nodes[node.id];
    owner.leaf = node.parent;
  }
  saveChat(owner);
  if (owner === chat) {
    if (owner.nodes[node.id]) paintAnswer(owner, node);
    else showChat();
    showComposer();
    showChats();
  }
  if (node.status === 'failed' && owner !== chat) showToast(`${owner.title}: ${node.failure}`);
  if (node.locked) askForKey(() => answerAgain(owner, node));
}

/** Gives whole sentences of a growing answer to screen readers. */
function speak(owner, run, text, end = false) {
  run.spoken += text;
  let cut = run.spoken.search(/(?:[.!?:]\s|[。！？])[^.!?:。！？]*$/) + 1;
  if (end || run.spoken.length > MAX_SPOKEN) cut = run.spoken.length;
  const said = run.spoken.slice(0, cut).replace(/[`*_#|]/g, '').trim();
  run.spoken = run.spoken.slice(cut);
  if (!said || owner !== chat) return;
  $('spoken').append(element('p', {}, said));
  while ($('spoken').childElementCount > 5) $('spoken').firstChild.remove();
}

/** Notes in running answers that the group lost a rank. */
function watchGroup(before, status) {
  const lost = lostRanks(before, status);
  for (const run of runs.values()) {
    for (const rank of lost) (run.lost ??= new Set()).add(rank);
    if (run.lost && status?.ready) {
      const names = [...run.lost].sort((one, other) => one - other).join(', ');
      run.node.losses = `Rank ${names} was lost and came back in epoch ${status.epoch}.`;
    }
  }
  const own = runs.get(chat.id);
  if (own) paintRun(chat, own);
  if (status && !before) showModel();
}

/** Shows the model's name. If the endpoint asks for a key, the page does too. */
async function showModel() {
  try {
    const response = await callHead('v1/models');
    if (response.status === 401) askForKey();
    if (!response.ok) return;
    const { data: [model] } = await response.json();
    setText($('model'), model.id);
    setText($('context'), model.max_model_len ? `context ${model.max_model_len.toLocaleString()}` : '');
  } catch {
    // The page asks again when the head answers again.
  }
}

function openChat(id) {
  chat = chats.get(id) ?? createChat();
  fillSettings();
  showChat();
  closeSidebar();
  if (!isTouch()) $('question').focus();
}

function editQuestion(owner, node) {
  const own = $('messages').querySelector(`[data-id="${CSS.escape(node.id)}"]`);
  if (!own || runs.has(owner.id)) return;
  const area = element('textarea', { value: node.content, 'aria-label': 'Edit the question' });
  const send = element('button', { type: 'submit', className: 'primary' }, 'Ask again');
  const cancel = element('button', { type: 'button', className: 'quiet' }, 'Cancel');
  const form = element('form', { className: 'edit' }, area, element('div', { className: 'buttons' }, cancel, send));
  cancel.addEventListener('click', () => own.replaceWith(messageNode(owner, node)));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (!area.value.trim() || !readSettings()) return;
    addMessage(owner, node.parent, { role: 'user', content: area.value });
    answer(owner, owner.leaf);
  });
  area.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') {
      event.stopPropagation();
      cancel.click();
    } else if (isSendKey(event)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  area.addEventListener('input', () => fitHeight(area));
  own.replaceChildren(form);
  fitHeight(area);
  area.focus();
}

// Dialogs.

/** Asks the user, and calls `onYes` with the text that was entered. */
function askUser({ title, text, yes, danger = false, input = null }, onYes) {
  setText($('ask-title'), title);
  setText($('ask-text'), text);
  setText($('ask-yes'), yes);
  $('ask-yes').classList.toggle('danger', danger);
  const field = $('ask-input');
  field.hidden = input === null;
  field.type = input ?? 'text';
  field.value = '';
  $('ask').onYes = () => onYes(field.value);
  $('ask').showModal();
  if (input !== null) field.focus();
}

function askForKey(after = () => {}) {
  if ($('ask').open) return;
  const title = apiKey.value ? 'The endpoint refuses this API key' : 'The endpoint asks for an API key';
  const text = 'The key stays in this tab and is forgotten with it.';
  askUser({ title, text, yes: 'Use this key', input: 'password' }, (key) => {
    apiKey.set(key);
    $('api-key').value = apiKey.value;
    showModel();
    if (apiKey.value) after();
  });
}

function askToDelete(other) {
  const text = `“${other.title}” is removed from this browser. It cannot be brought back.`;
  askUser({ title: 'Delete this conversation?', text, yes: 'Delete', danger: true }, () => {
    dropRun(other.id);
    deleteChat(other.id);
    if (other.id === chat.id) openChat('');
    else showChats();
  });
}

function askToDeleteAll() {
  if (chats.size === 0) return showToast('There are no conversations.');
  const text = `${chats.size} conversations are removed from this browser. They cannot be brought back.`;
  return askUser({ title: 'Delete all conversations?', text, yes: 'Delete all', danger: true }, () => {
    for (const id of [...chats.keys()]) {
      dropRun(id);
      deleteChat(id);
    }
    openChat('');
  });
}

// Settings.

function fillSettings() {
  for (const field of document.querySelectorAll('[data-setting]')) field.value = chat.settings[field.dataset.setting];
  readSettings();
}

/** Reads the fields into the conversation. Returns false and shows the fault if a field is wrong. */
function readSettings() {
  let fault = '';
  for (const field of document.querySelectorAll('[data-setting]')) {
    const name = document.querySelector(`label[for="${field.id}"]`).textContent;
    field.removeAttribute('aria-invalid');
    let wrong = field.validity.valid ? '' : `${name}: ${field.validationMessage}`;
    if (field.dataset.setting === 'tools' && field.value.trim()) {
      try {
        if (!Array.isArray(JSON.parse(field.value))) wrong = `${name}: this is not a list.`;
      } catch (error) {
        wrong = `${name}: ${error.message}`;
      }
    }
    if (wrong) field.setAttribute('aria-invalid', 'true');
    fault ||= wrong;
    chat.settings[field.dataset.setting] = field.value;
  }
  setText($('setting-fault'), fault);
  $('setting-fault').hidden = !fault;
  if (fault && $('settings').hidden) openSettings(true);
  return !fault;
}

function openSettings(open) {
  $('settings').hidden = !open;
  $('open-settings').setAttribute('aria-expanded', String(open));
  showShade();
  if (open) $('set-system').focus({ preventScroll: true });
  else $('open-settings').focus();
}

function openGroup(open) {
  $('group').hidden = !open;
  $('group-toggle').setAttribute('aria-expanded', String(open));
}

// The list of conversations covers a narrow screen.

function isNarrow() {
  return matchMedia('(max-width: 820px)').matches;
}

function isTouch() {
  return matchMedia('(pointer: coarse)').matches;
}

function openSidebar() {
  document.body.classList.add('sidebar-open');
  showSidebar();
  $('close-sidebar').focus();
}

function closeSidebar() {
  const was = document.body.classList.contains('sidebar-open');
  document.body.classList.remove('sidebar-open');
  showSidebar();
  if (was) $('open-sidebar').focus();
}

function showSidebar() {
  $('sidebar').inert = isNarrow() && !document.body.classList.contains('sidebar-open');
  showShade();
}

function showShade() {
  const covered = document.body.classList.contains('sidebar-open') || !$('settings').hidden;
  $('shade').hidden = !isNarrow() || !covered;
}

function showTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText($('theme').querySelector('span'), `Theme: ${theme}`);
}

function nextTheme() {
  const now = readStored(THEME_KEY);
  const theme = THEMES[(THEMES.indexOf(THEMES.includes(now) ? now : 'system') + 1) % THEMES.length];
  writeStored(THEME_KEY, theme);
  showTheme(theme);
}

function fitHeight(area) {
  area.style.height = 'auto';
  area.style.height = `${Math.min(area.scrollHeight + 2, innerHeight * 0.4)}px`;
}

/** Enter sends, but on a telephone Enter is the only way to begin a line. */
function isSendKey(event) {
  return event.key === 'Enter' && !event.shiftKey && !event.isComposing && (!isTouch() || event.ctrlKey || event.metaKey);
}

function submitQuestion() {
  const area = $('question');
  const text = area.value;
  if (!text.trim() || runs.has(chat.id) || !readSettings()) return;
  area.value = '';
  fitHeight(area);
  ask(text);
}

function stopAnswer() {
  runs.get(chat.id)?.controller.abort();
  $('question').focus();
}

function lastOf(role) {
  return pathTo(chat).findLast((node) => node.role === role);
}

const SHORTCUTS = {
  KeyN: () => openChat(''),
  KeyG: () => openGroup($('group').hidden),
  KeyS: () => openSettings($('settings').hidden),
  KeyE: () => lastOf('user') && editQuestion(chat, lastOf('user')),
  KeyR: () => lastOf('assistant') && answerAgain(chat, lastOf('assistant')),
  KeyC: () => lastOf('assistant') && copyText(lastOf('assistant').content, $('question')),
  ArrowUp: () => stepChat(-1),
  ArrowDown: () => stepChat(1),
};

function stepChat(step) {
  const all = sortedChats();
  const next = all[all.findIndex((other) => other.id === chat.id) + step];
  if (next) openChat(next.id);
}

function takeKey(event) {
  if (document.querySelector('dialog[open]')) return;
  const typing = /^(?:INPUT|TEXTAREA)$/.test(event.target.tagName);
  if (event.altKey && !event.ctrlKey && !event.metaKey && SHORTCUTS[event.code]) {
    event.preventDefault();
    SHORTCUTS[event.code]();
  } else if (event.key === 'Escape') {
    if (document.body.classList.contains('sidebar-open')) closeSidebar();
    else if (runs.has(chat.id)) stopAnswer();
    else if (!$('settings').hidden) openSettings(false);
  } else if (!typing && event.key === '/') {
    event.preventDefault();
    $('question').focus();
  } else if (!typing && event.key === '?') {
    $('keys').showModal();
  }
}

async function importFile(event) {
  const [file] = event.target.files;
  event.target.value = '';
  if (!file) return;
  try {
    const count = importChats(await file.text());
    showToast(`${count} conversations were added.`);
    showChats();
  } catch (error) {
    showToast(error.message);
  }
}

function listen() {
  const click = (id, act) => $(id).addEventListener('click', act);
  click('new-chat', () => openChat(''));
  click('open-sidebar', openSidebar);
  click('close-sidebar', closeSidebar);
  click('shade', () => (document.body.classList.contains('sidebar-open') ? closeSidebar() : openSettings(false)));
  click('open-settings', () => openSettings($('settings').hidden));
  click('close-settings', () => openSettings(false));
  click('group-toggle', () => openGroup($('group').hidden));
  click('stop', stopAnswer);
  click('to-end', scrollToEnd);
  click('theme', nextTheme);
  click('shortcuts', () => $('keys').showModal());
  click('keys-close', () => $('keys').close());
  click('export-all', () => saveFile('lockstep-conversations.json', 'application/json', exportChats()));
  click('import', () => $('import-file').click());
  click('delete-all', askToDeleteAll);
  click('ask-no', () => $('ask').close());
  click('ask-yes', () => {
    $('ask').close();
    $('ask').onYes();
  });
  click('reset-settings', () => {
    for (const field of document.querySelectorAll('[data-setting]')) field.value = '';
    keepSettings();
  });
  $('ask-input').addEventListener('keydown', (event) => event.key === 'Enter' && $('ask-yes').click());
  $('import-file').addEventListener('change', importFile);
  $('settings').addEventListener('change', keepSettings);
  $('api-key').addEventListener('change', () => apiKey.set($('api-key').value));
  $('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    submitQuestion();
  });
  $('question').addEventListener('input', () => {
    fitHeight($('question'));
    showComposer();
  });
  $('question').addEventListener('keydown', (event) => {
    if (!isSendKey(event)) return;
    event.preventDefault();
    submitQuestion();
  });
  $('scroller').addEventListener('scroll', () => {
    if (isNearEnd()) $('to-end').hidden = true;
  });
  document.addEventListener('keydown', takeKey);
  matchMedia('(max-width: 820px)').addEventListener('change', showSidebar);
  window.addEventListener('pagehide', () => {
    for (const id of runs.keys()) saveChat(chats.get(id));
  });
  // Another tab changed a conversation.
  window.addEventListener('storage', ({ key }) => {
    const id = key?.startsWith(CHAT_KEY) ? key.slice(CHAT_KEY.length) : null;
    if (!id || runs.has(id)) return;
    const stored = checkChat(readStored(key));
    if (stored) chats.set(id, stored);
    else chats.delete(id);
    if (id === chat.id && stored) openChat(id);
    else showChats();
  });
}

function keepSettings() {
  if (readSettings()) writeStored(SETTINGS_KEY, chat.settings);
  saveChat(chat);
}

function start() {
  showTheme(THEMES.includes(readStored(THEME_KEY)) ? readStored(THEME_KEY) : 'system');
  apiKey.read();
  $('api-key').value = apiKey.value;
  if (isTouch()) setText($('hint'), 'Answers can be wrong');
  readAllChats();
  listen();
  showSidebar();
  // The first answer of the head shows the model.
  group.watchers.push(watchGroup);
  const [latest] = sortedChats();
  openChat(latest?.id ?? '');
  followGroup();
}

start();
