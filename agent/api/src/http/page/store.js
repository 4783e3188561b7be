// Conversations, kept in this browser's localStorage: one entry for each.
//
// A conversation is a tree of messages. A question that is edited, or an answer that is made again, becomes a sibling of
// the older one, so nothing is lost. `leaf` names the message at which the shown path ends.

const CHAT_KEY = 'lockstep.chat.';
const SETTINGS_KEY = 'lockstep.settings';
const SETTINGS = ['system', 'temperature', 'top_p', 'max_tokens', 'seed', 'tools'];
const ROLES = ['user', 'assistant', 'tool'];

/** All conversations by their ids. */
const chats = new Map();

/** Returns a new id. `crypto.randomUUID` exists only on https and localhost. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, '0')).join('');
}

function readStored(key) {
  try {
    return JSON.parse(localStorage.getItem(key) ?? 'null');
  } catch {
    return null;
  }
}

/** Writes a value. If the browser keeps nothing, the page says so and goes on. */
function writeStored(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch (error) {
    const full = error.name === 'QuotaExceededError';
    showToast(full ? 'The browser has no room for more conversations: delete some.' : 'The browser keeps no data of this page.');
  }
}

function removeStored(key) {
  try {
    localStorage.removeItem(key);
  } catch {
    // The browser keeps no data of this page, so there is nothing to remove.
  }
}

function readAllChats() {
  let keys = [];
  try {
    keys = Object.keys(localStorage).filter((key) => key.startsWith(CHAT_KEY));
  } catch {
    // The browser keeps no data of this page.
  }
  for (const key of keys) {
    const chat = checkChat(readStored(key));
    if (chat) chats.set(chat.id, chat);
  }
}

/** Returns a conversation whose parts have the right types, or null. Stored and imported data may be of any form. */
function checkChat(value) {
  if (typeof value?.id !== 'string' || !/^[\w-]{1,64}$/.test(value.id) || typeof value.nodes !== 'object' || !value.nodes) return null;
  const nodes = {};
  for (const [id, node] of Object.entries(value.nodes)) {
    if (!ROLES.includes(node?.role) || typeof node.content !== 'string') return null;
    if (node.parent !== null && !Object.hasOwn(value.nodes, node.parent)) return null;
    // A page that was closed while an answer came could not say so.
    const status = node.status === 'streaming' ? 'interrupted' : node.status;
    nodes[id] = { ...node, id, status, calls: Array.isArray(node.calls) ? node.calls : [] };
  }
  const leaf = Object.hasOwn(nodes, value.leaf ?? '') ? value.leaf : null;
  const title = typeof value.title === 'string' ? value.title : '';
  return {
    id: value.id, title, nodes, leaf, created: Number(value.created) || 0, updated: Number(value.updated) || 0,
    settings: checkSettings(value.settings),
  };
}

/** Returns the known settings. Each is a text, as its field has it. */
function checkSettings(value) {
  return Object.fromEntries(SETTINGS.map((name) => [name, typeof value?.[name] === 'string' ? value[name] : '']));
}

function createChat() {
  const now = Date.now();
  const settings = checkSettings(readStored(SETTINGS_KEY));
  return { id: newId(), title: '', nodes: {}, leaf: null, created: now, updated: now, settings };
}

/** Keeps a conversation. One without a message is not kept. */
function saveChat(chat) {
  if (Object.keys(chat.nodes).length === 0) return;
  chats.set(chat.id, chat);
  writeStored(CHAT_KEY + chat.id, chat);
}

function deleteChat(id) {
  chats.delete(id);
  removeStored(CHAT_KEY + id);
}

/** Returns the conversations, the latest first. */
function sortedChats() {
  return [...chats.values()].sort((one, other) => other.updated - one.updated);
}

/** Adds a message below `parent` and makes it the end of the shown path. */
function addMessage(chat, parent, message) {
  const node = { id: newId(), parent, created: Date.now(), calls: [], ...message };
  chat.nodes[node.id] = node;
  chat.leaf = node.id;
  chat.updated = Date.now();
  if (!chat.title && node.role === 'user') chat.title = node.content.trim().replace(/\s+/g, ' ').slice(0, 80);
  return node;
}

/** Returns the messages from the first to `leaf`. */
function pathTo(chat, leaf = chat.leaf) {
  const path = [];
  for (let node = chat.nodes[leaf]; node && path.length <= Object.keys(chat.nodes).length; node = chat.nodes[node.parent]) path.unshift(node);
  return path;
}

/** Returns the messages that can stand in the place of `node`, the oldest first. */
function siblingsOf(chat, node) {
  const siblings = Object.values(chat.nodes).filter((other) => other.parent === node.parent && other.role === node.role);
  return siblings.sort((one, other) => one.created - other.created);
}

/** Shows the path through `node`, to its newest descendant. */
function selectPath(chat, node) {
  let leaf = node;
  for (;;) {
    const below = Object.values(chat.nodes).filter((other) => other.parent === leaf.id);
    if (below.length === 0) break;
    leaf = below.reduce((newest, other) => (other.created > newest.created ? other : newest));
  }
  chat.leaf = leaf.id;
}

/** Returns the shown path of a conversation as Markdown. */
function chatToMarkdown(chat) {
  const names = { user: 'You', assistant: 'Model', tool: 'Result of a tool' };
  const parts = [`# ${chat.title || 'Conversation'}`];
  if (chat.settings.system) parts.push(`## System\n\n${chat.settings.system}`);
  for (const node of pathTo(chat)) {
    const calls = node.calls.map((call) => `\`\`\`json\n${call.name}(${call.arguments})\n\`\`\``);
    const reasoning = node.reasoning ? [`> ${node.reasoning.trim().replace(/\n/g, '\n> ')}`] : [];
    parts.push([`## ${names[node.role]}`, ...reasoning, node.content, ...calls].filter(Boolean).join('\n\n'));
  }
  return `${parts.join('\n\n')}\n`;
}

function exportChats() {
  return JSON.stringify({ format: 'lockstep-conversations', version: 1, conversations: sortedChats() }, null, 2);
}

/** Adds conversations from an exported text, and returns their number. */
function importChats(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`The file is not JSON: ${error.message}`);
  }
  const read = Array.isArray(value?.conversations) ? value.conversations.map(checkChat) : [null];
  if (read.includes(null)) throw new Error('The file holds no conversations that this page exported.');
  read.forEach(saveChat);
  return read.length;
}
