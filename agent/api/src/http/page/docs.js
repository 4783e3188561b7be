// Shows the description at openapi.json: the operations by their tags, each with its fields and its answers.

/** Deepest nesting of objects whose fields are listed. */
const MAX_LEVEL = 4;

let description = {};

/** Returns the schema that a reference names. */
function resolve(schema) {
  const name = schema?.$ref?.split('/').pop();
  return name ? description.components.schemas[name] : (schema ?? {});
}

/** Returns the type of a schema in a few words, with its bounds. */
function describeType(given) {
  const schema = resolve(given);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  const either = schema.oneOf ?? schema.anyOf;
  if (either) return [...new Set(either.map(describeType))].join(' or ');
  if (schema.type === 'array') return `list of ${describeType(schema.items)}`;
  const lowest = schema.minimum ?? schema.exclusiveMinimum;
  const bounds = [];
  if (lowest !== undefined) bounds.push(`${schema.minimum === undefined ? 'above' : 'from'} ${lowest}`);
  if (schema.maximum !== undefined) bounds.push(`to ${schema.maximum}`);
  return [schema.const === undefined ? (schema.type ?? 'any') : JSON.stringify(schema.const), ...bounds].join(' ');
}

/** Returns the nodes of a text with `code` in it. */
function withCode(text) {
  return text.split('`').map((part, index) => (index % 2 ? element('code', {}, part) : part));
}

/** Returns a row for each field of an object, and for the fields of the objects inside. */
function fieldRows(given, prefix = '', level = 0) {
  const schema = resolve(given);
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const path = prefix + name;
    const own = resolve(field);
    const needed = (schema.required ?? []).includes(name) && prefix === '' ? element('span', { className: 'required' }, 'required') : '';
    const usual = own.default === undefined ? '' : ` Default: ${JSON.stringify(own.default)}.`;
    const row = element('tr', {}, element('td', {}, element('code', {}, path), needed),
      element('td', { className: 'type' }, describeType(field)), element('td', {}, ...withCode(`${field.description ?? own.description ?? ''}${usual}`)));
    const inner = own.type === 'array' ? own.items : field;
    const deeper = level < MAX_LEVEL ? fieldRows(inner, `${path}${own.type === 'array' ? '[]' : ''}.`, level + 1) : [];
    return [row, ...deeper];
  });
}

function table(heads, rows) {
  const head = element('tr', {}, ...heads.map((text) => element('th', {}, text)));
  return element('div', { className: 'table', tabIndex: 0 }, element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows)));
}

/** Returns a command that sends the example of an operation. */
function exampleCommand(method, path, example) {
  const address = `${new URL('.', location.href).href.replace(/\/$/, '')}${path}`;
  if (example === undefined) return `curl ${method === 'post' ? '-X POST ' : ''}${address}`;
  return `curl ${address} -H 'content-type: application/json' -d '${JSON.stringify(example).replaceAll("'", "'\\''")}'`;
}

function operationNode(path, method, operation) {
  const parts = [];
  if (operation.description) parts.push(element('p', {}, ...withCode(operation.description)));
  const body = operation.requestBody?.content?.['application/json'];
  const parameters = (operation.parameters ?? []).map((parameter) => element('tr', {}, element('td', {}, element('code', {}, parameter.name)),
    element('td', { className: 'type' }, `${describeType(parameter.schema)}, in the ${parameter.in}`), element('td', {}, ...withCode(parameter.description ?? ''))));
  if (parameters.length) parts.push(element('h3', {}, 'Parameters'), table(['name', 'type', 'meaning'], parameters));
  if (body) parts.push(element('h3', {}, 'Fields of the request'), table(['field', 'type', 'meaning'], fieldRows(body.schema)));
  parts.push(element('h3', {}, 'Example'), element('pre', { tabIndex: 0 }, element('code', {}, exampleCommand(method, path, body?.example))));
  const answers = Object.entries(operation.responses).map(([status, answer]) => element('tr', {}, element('td', {}, element('code', {}, status)),
    element('td', { className: 'type' }, Object.keys(answer.content ?? {}).join(', ')), element('td', {}, ...withCode(answer.description))));
  parts.push(element('h3', {}, 'Answers'), table(['status', 'content', 'meaning'], answers));
  const success = operation.responses['200']?.content?.['application/json']?.schema;
  const rows = success ? fieldRows(success) : [];
  if (rows.length) parts.push(element('h3', {}, 'Fields of the answer'), table(['field', 'type', 'meaning'], rows));
  const summary = element('summary', {}, element('span', { className: `method ${method}` }, method), element('span', { className: 'path' }, path),
    element('span', { className: 'summary' }, operation.summary));
  const node = element('details', { className: 'operation', id: operation.operationId }, summary, element('div', { className: 'body' }, ...parts));
  return node;
}

function showOperations() {
  const byTag = new Map(description.tags.map((tag) => [tag.name, []]));
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(methods)) byTag.get(operation.tags[0]).push(operationNode(path, method, operation));
  }
  const sections = [...byTag].map(([tag, nodes]) => element('section', {}, element('h2', {}, tag), ...nodes));
  $('operations').replaceChildren(...sections);
}

function filterOperations() {
  const wanted = $('filter').value.trim().toLowerCase();
  let found = 0;
  for (const section of $('operations').children) {
    let shown = 0;
    for (const node of section.querySelectorAll('.operation')) {
      node.hidden = !node.textContent.toLowerCase().includes(wanted);
      if (!node.hidden) shown += 1;
    }
    section.hidden = shown === 0;
    found += shown;
  }
  $('none').hidden = found > 0;
}

/** Opens the operation that the address names. */
function openNamed() {
  const node = location.hash.length > 1 ? $(location.hash.slice(1)) : null;
  if (!node?.classList.contains('operation')) return;
  node.open = true;
  node.scrollIntoView();
}

async function start() {
  apiKey.read();
  try {
    const response = await callHead('openapi.json');
    if (!response.ok) throw await failureOf(response);
    description = await response.json();
  } catch (error) {
    setText($('about'), error instanceof RequestFailure ? error.message : 'The head cannot be reached. Reload the page to try again.');
    return;
  }
  setText($('title'), description.info.title);
  $('about').replaceChildren(...withCode(description.info.description));
  showOperations();
  $('filter').addEventListener('input', filterOperations);
  window.addEventListener('hashchange', openNamed);
  openNamed();
}

start();
