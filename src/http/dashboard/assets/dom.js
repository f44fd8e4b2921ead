// Creates all elements. Untrusted input becomes text or an attribute value, never markup: no other module
// creates elements, and none uses innerHTML.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * Creates an HTML element. `props` are attributes: `true` sets an empty one, null and false set none;
 * `onclick` and similar names add an event listener.
 */
export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** Creates an SVG element in the same way. */
export function svg(tag, props, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

/** Replaces the content of `element`. */
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/** An external link if `url` is an http or https URL; otherwise its text. */
export function outsideLink(url) {
  return isWebAddress(url) ? h('a', { href: url, rel: 'noopener noreferrer', target: '_blank' }, url) : url;
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) setProp(element, name, value);
  element.append(...nodes(children));
  return element;
}

function setProp(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith('on')) {
    element.addEventListener(name.slice(2), value);
  } else if (name === 'style' || name === 'srcdoc') {
    throw new Error(`the attribute ${name} is not allowed`);
  } else if (name === 'href' && !value.startsWith('#') && !isWebAddress(value)) {
    element.setAttribute('title', 'This link cannot be opened');
  } else if (name === 'value') {
    element.value = value;
  } else {
    element.setAttribute(name, value === true ? '' : String(value));
  }
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== '');
}

function isWebAddress(text) {
  try {
    return ['http:', 'https:'].includes(new URL(text).protocol);
  } catch {
    return false;
  }
}
