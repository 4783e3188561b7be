'use strict';

// Nodes of the page. No text ever becomes markup: elements are created here, and their text is set.

function $(id) {
  return document.getElementById(id);
}

/** Sets a text only if it changes, so that screen readers do not repeat it. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Creates an element. A property is set on the element, or as an attribute if its name has a hyphen. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-')) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ''));
  return node;
}
