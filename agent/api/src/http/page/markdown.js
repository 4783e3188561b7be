// Markdown of answers. The parser turns text into plain objects, and the renderer turns those into nodes of the page.
// No part of a text ever becomes markup: the renderer only creates elements of its own and sets their text.

/** Deepest nesting of quotes, lists and emphasis. Deeper marks stay text. */
const MAX_DEPTH = 12;

const FENCE = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}>[ ]?/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|$)/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

function parseMarkdown(text) {
  return parseBlocks(text.replace(/\r\n?/g, '\n').split('\n'), 0);
}

function parseBlocks(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (lines[at].trim() === '') {
      at += 1;
      continue;
    }
    const [block, end] = parseBlock(lines, at, depth);
    blocks.push(block);
    at = end;
  }
  return blocks;
}

/** Returns the block that begins at a line, and the line after the block. */
function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return parseFence(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = line.slice(heading[0].length).trim().replace(/(?:^|[ \t])#+$/, '');
    return [{ type: 'heading', level: heading[1].length, text }, at + 1];
  }
  if (RULE.test(line)) return [{ type: 'rule' }, at + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return parseQuote(lines, at, depth);
    if (ITEM.test(line)) return parseList(lines, at, depth);
  }
  if (beginsTable(lines, at)) return parseTable(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== '' && !interruptsParagraph(lines, end, depth)) end += 1;
  const text = lines.slice(at, end).map((part) => part.trimStart()).join('\n').trimEnd();
  return [{ type: 'paragraph', text }, end];
}

function interruptsParagraph(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || beginsTable(lines, at)) return true;
  if (depth >= MAX_DEPTH) return false;
  const item = ITEM.exec(line);
  // A number within a sentence may stand at the beginning of a line. Only 1 begins a list there.
  return QUOTE.test(line) || Boolean(item && item[4] && (!/\d/.test(item[2]) || /^1[.)]/.test(item[2])));
}

function parseFence(lines, at, [, indent, mark, info]) {
  const [language] = info.trim().split(/\s/);
  const code = [];
  const closing = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) {
    let line = lines[end];
    for (let left = indent.length; left > 0 && line.startsWith(' '); left -= 1) line = line.slice(1);
    code.push(line);
    end += 1;
  }
  return [{ type: 'code', language, text: code.join('\n') }, end + 1];
}

function parseQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ''));
  return [{ type: 'quote', blocks: parseBlocks(inner, depth + 1) }, end];
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function parseList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const indent = first[1].length;
  const list = { type: 'list', ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, loose: false, items: [] };
  let end = at;
  let blank = false;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    const begins = item && item[1].length <= indent + 1 && /\d/.test(item[2]) === ordered && !RULE.test(lines[end]);
    if (!begins) break;
    if (blank) list.loose = true;
    // Code may be indented further than its item: more than four blanks after the mark belong to the text.
    const gap = item[3] && item[3].length <= 4 ? item[3].length : 1;
    const offset = item[1].length + item[2].length + gap;
    const inner = [lines[end].slice(offset)];
    end += 1;
    blank = false;
    while (end < lines.length) {
      const line = lines[end];
      if (line.trim() === '') {
        blank = true;
        inner.push('');
      } else if (indentOf(line) >= Math.min(offset, indent + 2)) {
        if (blank) list.loose ||= indentOf(line) <= offset && !ITEM.test(line) && !FENCE.test(line.trimStart());
        inner.push(line.slice(Math.min(offset, indentOf(line))));
        blank = false;
      } else if (blank || interruptsParagraph(lines, end, depth) || ITEM.test(line)) {
        break;
      } else {
        inner.push(line);
      }
      end += 1;
    }
    list.items.push(parseBlocks(inner, depth + 1));
  }
  return [list, end];
}

function beginsTable(lines, at) {
  const [line, next] = [lines[at], lines[at + 1]];
  if (next === undefined || !line.includes('|') || !next.includes('-') || !DIVIDER.test(next)) return false;
  return splitRow(line).length === splitRow(next).length;
}

function splitRow(line) {
  const cells = [''];
  const text = line.trim().replace(/^\|/, '').replace(/(^|[^\\])\|$/, '$1');
  let code = false;
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === '\\' && text[at + 1] === '|') {
      cells[cells.length - 1] += '|';
      at += 1;
    } else if (text[at] === '|' && !code) {
      cells.push('');
    } else {
      if (text[at] === '`') code = !code && text.indexOf('`', at + 1) > 0;
      cells[cells.length - 1] += text[at];
    }
  }
  return cells.map((cell) => cell.trim());
}

function parseTable(lines, at) {
  const head = splitRow(lines[at]);
  const align = splitRow(lines[at + 1]).map((mark) => {
    if (mark.endsWith(':')) return mark.startsWith(':') ? 'center' : 'right';
    return 'left';
  });
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes('|') && lines[end].trim() !== '') {
    const cells = splitRow(lines[end]);
    rows.push(head.map((_, column) => cells[column] ?? ''));
    end += 1;
  }
  return [{ type: 'table', head, align, rows }, end];
}

/** Returns the parts of a line of text: texts, code, emphasis, links, line ends. */
function parseInline(text, depth = 0) {
  const parts = [];
  // Marks for which no closing mark is left. The search for one is not repeated.
  const unclosed = new Set();
  let plain = '';
  const add = (part) => {
    if (plain) parts.push({ type: 'text', text: plain });
    plain = '';
    parts.push(part);
  };
  for (let at = 0; at < text.length;) {
    const found = parseMark(text, at, depth, unclosed);
    if (!found) {
      plain += text[at];
      at += 1;
    } else if (found.part.type === 'text') {
      plain += found.part.text;
      at = found.end;
    } else {
      if (found.part.type === 'break') plain = plain.replace(/[ \\]+$/, '');
      add(found.part);
      at = found.end;
    }
  }
  if (plain) parts.push({ type: 'text', text: plain });
  return parts;
}

/** Returns the part that a mark begins, and the place after the part. */
function parseMark(text, at, depth, unclosed) {
  const char = text[at];
  switch (char) {
    case '\n':
      return { part: { type: 'break' }, end: at + 1 };
    case '\\': {
      const next = text[at + 1];
      if (next === undefined || !/[!-/:-@[-`{-~]/.test(next)) return null;
      return { part: { type: 'text', text: next }, end: at + 2 };
    }
    case '`':
      return parseCode(text, at, unclosed);
    case '[':
      return depth < MAX_DEPTH ? parseLink(text, at, at, depth) : null;
    case '!':
      return text[at + 1] === '[' && depth < MAX_DEPTH ? parseLink(text, at, at + 1, depth) : null;
    case '<': {
      const close = text.indexOf('>', at);
      const href = close > 0 ? safeAddress(text.slice(at + 1, close)) : null;
      return href ? { part: link(href, text.slice(at + 1, close)), end: close + 1 } : null;
    }
    case 'h':
      return parseAddress(text, at);
    case '*':
    case '_':
    case '~':
      return depth < MAX_DEPTH ? parseEmphasis(text, at, depth, unclosed) : null;
    default:
      return null;
  }
}

function parseCode(text, at, unclosed) {
  const run = /^`+/.exec(text.slice(at, at + 100))[0];
  let end = unclosed.has(run) ? -1 : at + run.length;
  while (end >= 0) {
    end = text.indexOf(run, end);
    if (end < 0) break;
    let after = end;
    while (text[after] === '`') after += 1;
    if (after - end === run.length) {
      let code = text.slice(at + run.length, end).replace(/\n/g, ' ');
      if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
      return { part: { type: 'code', text: code }, end: after };
    }
    end = after;
  }
  unclosed.add(run);
  return { part: { type: 'text', text: run }, end: at + run.length };
}

function link(href, text) {
  return { type: 'link', href, parts: [{ type: 'text', text }] };
}

/** Longest text of a link. It bounds the search for the closing bracket. */
const MAX_LINK = 1000;

function parseLink(text, from, at, depth) {
  let open = 0;
  let close = at;
  const limit = Math.min(text.length, at + MAX_LINK);
  for (; close < limit; close += 1) {
    if (text[close] === '\\') close += 1;
    else if (text[close] === '[') open += 1;
    else if (text[close] === ']' && (open -= 1) === 0) break;
  }
  if (text[close] !== ']' || text[close + 1] !== '(') return null;
  let nested = 1;
  let end = close + 2;
  for (; end < Math.min(text.length, close + MAX_LINK); end += 1) {
    if (text[end] === '\n') return null;
    if (text[end] === '(') nested += 1;
    else if (text[end] === ')' && (nested -= 1) === 0) break;
  }
  if (text[end] !== ')') return null;
  const [target] = text.slice(close + 2, end).trim().split(/[ \t]/);
  const label = text.slice(at + 1, close);
  const href = safeAddress(target.replace(/^<|>$/g, ''));
  // A link that leads nowhere outside, such as `javascript:` or a path of this server, stays text.
  if (!href) return { part: { type: 'text', text: text.slice(from, end + 1) }, end: end + 1 };
  return { part: { type: 'link', href, parts: withoutLinks(parseInline(label || target, depth + 1)) }, end: end + 1 };
}

/** Replaces links by their texts: a link holds no other link. */
function withoutLinks(parts) {
  return parts.flatMap((part) => {
    if (part.type === 'link') return withoutLinks(part.parts);
    return part.parts ? [{ ...part, parts: withoutLinks(part.parts) }] : [part];
  });
}

function safeAddress(text) {
  if (!/^(?:https?:\/\/|mailto:)[^\s]/i.test(text)) return null;
  try {
    const { protocol, href } = new URL(text);
    return ['http:', 'https:', 'mailto:'].includes(protocol) ? href : null;
  } catch {
    return null;
  }
}

function parseAddress(text, at) {
  if (!text.startsWith('http', at) || (at > 0 && /[\w/]/.test(text[at - 1]))) return null;
  const found = /^https?:\/\/[^\s<>"`\\]+/.exec(text.slice(at, at + 2000));
  if (!found) return null;
  let address = found[0].replace(/[.,;:!?*_~'\]]+$/, '');
  // A closing parenthesis belongs to the sentence unless the address opened one.
  while (address.endsWith(')') && address.split('(').length < address.split(')').length) address = address.slice(0, -1);
  const href = safeAddress(address);
  return href ? { part: link(href, address), end: at + address.length } : null;
}

function parseEmphasis(text, at, depth, unclosed) {
  const char = text[at];
  let run = 1;
  while (text[at + run] === char) run += 1;
  const literal = { part: { type: 'text', text: char.repeat(run) }, end: at + run };
  const size = char === '~' ? 2 : Math.min(run, 3);
  const before = text[at - 1] ?? ' ';
  const after = text[at + run] ?? ' ';
  if (run > 3 || (char === '~' && run !== 2) || /\s/.test(after)) return literal;
  if (char === '_' && /[\p{L}\p{N}]/u.test(before)) return literal;
  const mark = char.repeat(size);
  const end = unclosed.has(mark) ? -1 : findClosing(text, at + size, mark);
  if (end < 0) {
    unclosed.add(mark);
    return literal;
  }
  const inner = parseInline(text.slice(at + size, end), depth + 1);
  const wrap = (type, parts) => ({ type, parts });
  if (char === '~') return { part: wrap('deleted', inner), end: end + size };
  const part = size === 3 ? wrap('strong', [wrap('emphasis', inner)]) : wrap(size === 2 ? 'strong' : 'emphasis', inner);
  return { part, end: end + size };
}

function findClosing(text, from, mark) {
  for (let at = from; at < text.length;) {
    const char = text[at];
    if (char === '\\') {
      at += 2;
    } else if (char === '`') {
      const close = text.indexOf('`', at + 1);
      at = close < 0 ? at + 1 : close + 1;
    } else if (char === mark[0]) {
      let run = 1;
      while (text[at + run] === char) run += 1;
      const closes = at > from && !/\s/.test(text[at - 1]) && (char !== '_' || !/[\p{L}\p{N}]/u.test(text[at + run] ?? ' '));
      if (closes && run === mark.length) return at;
      // `**a *b***`: the inner mark closes first.
      if (closes && run > mark.length && run <= 3) return mark.length === 1 ? at : at + run - mark.length;
      at += run;
    } else {
      at += 1;
    }
  }
  return -1;
}

// Nodes of the page.

function inlineNodes(parts) {
  return parts.map((part) => {
    switch (part.type) {
      case 'code':
        return element('code', {}, part.text);
      case 'strong':
        return element('strong', {}, ...inlineNodes(part.parts));
      case 'emphasis':
        return element('em', {}, ...inlineNodes(part.parts));
      case 'deleted':
        return element('del', {}, ...inlineNodes(part.parts));
      case 'link':
        return element('a', { href: part.href, rel: 'noopener noreferrer nofollow', target: '_blank' }, ...inlineNodes(part.parts));
      case 'break':
        return element('br');
      default:
        return document.createTextNode(part.text);
    }
  });
}

function blockNode(block, tight = false) {
  const inline = (text) => inlineNodes(parseInline(text));
  switch (block.type) {
    case 'heading':
      // The page's own headings are h1 and h2.
      return element(`h${Math.min(6, block.level + 2)}`, { className: `level-${block.level}` }, ...inline(block.text));
    case 'rule':
      return element('hr');
    case 'quote':
      return element('blockquote', {}, ...block.blocks.map((inner) => blockNode(inner)));
    case 'code':
      return codeNode(block);
    case 'list': {
      const items = block.items.map((item) => element('li', {}, ...item.map((inner) => blockNode(inner, !block.loose))));
      const list = element(block.ordered ? 'ol' : 'ul', {}, ...items);
      if (block.ordered && block.start !== 1) list.start = block.start;
      return list;
    }
    case 'table':
      return tableNode(block, inline);
    default:
      return tight ? element('span', { className: 'tight' }, ...inline(block.text)) : element('p', {}, ...inline(block.text));
  }
}

function codeNode({ language, text }) {
  const copy = element('button', { type: 'button', className: 'copy-code' }, 'Copy');
  copy.addEventListener('click', () => copyText(text, copy));
  const head = element('figcaption', {}, element('span', {}, language || 'code'), copy);
  return element('figure', { className: 'code' }, head, element('pre', { tabIndex: 0 }, element('code', {}, text)));
}

function tableNode({ head, align, rows }, inline) {
  const cell = (tag) => (text, column) => element(tag, { className: `align-${align[column]}` }, ...inline(text));
  const row = (tag) => (cells) => element('tr', {}, ...cells.map(cell(tag)));
  const table = element('table', {}, element('thead', {}, row('th')(head)), element('tbody', {}, ...rows.map(row('td'))));
  return element('div', { className: 'table', tabIndex: 0 }, table);
}

/** Shows the text in a node. Blocks that have not changed since the last call keep their nodes. */
function showMarkdown(node, text) {
  const blocks = parseMarkdown(text);
  const keys = blocks.map((block) => JSON.stringify(block));
  const shown = node.blockKeys ?? [];
  let same = 0;
  while (same < keys.length && keys[same] === shown[same]) same += 1;
  while (node.childNodes.length > same) node.lastChild.remove();
  node.append(...blocks.slice(same).map((block) => blockNode(block)));
  node.blockKeys = keys;
}
