// Elements from data, and a morph: what is shown is brought to a fresh tree in place, so that focus, scroll and what a
// person has opened stay. Nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== ""));
  return element;
}

/** An HTML element. Attributes that are null or false are left out; children are nodes, texts, or lists of them. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** Bring `container`'s children to `wanted`. Children with a data-key keep their element wherever they move to. */
export function show(container, ...wanted) {
  children(container, wanted.flat(Infinity).filter(Boolean));
}

const keyOf = (node) => node.dataset?.key;

function children(parent, wanted) {
  const keyed = new Map();
  const kept = new Set(wanted.map(keyOf));
  for (const child of [...parent.childNodes]) {
    if (!keyOf(child)) continue;
    if (kept.has(keyOf(child))) keyed.set(keyOf(child), child);
    else child.remove(); // first, so that those that stay need not move: a moved element loses the focus
  }
  let at = parent.firstChild;
  for (const fresh of wanted) {
    const key = keyOf(fresh);
    const old = key ? keyed.get(key) : at && !keyOf(at) ? at : null;
    if (old && old.nodeName === fresh.nodeName) {
      if (old === at) at = at.nextSibling;
      else parent.insertBefore(old, at);
      morph(old, fresh);
    } else {
      parent.insertBefore(fresh, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // Whether details are open is the reader's choice.
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  children(old, [...fresh.childNodes]);
}
