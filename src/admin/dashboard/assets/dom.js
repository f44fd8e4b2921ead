// How elements are made. Whatever comes from outside becomes text or the value of an attribute, never markup:
// no other module creates elements, and none uses innerHTML.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * An HTML element. `props`: attributes; `true` sets an empty one, null and false none; a function at
 * `onclick` and the like is a listener.
 */
export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

/** Replaces all that `element` holds. */
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/** A link to somewhere else, where `url` is one a browser may be sent to; else its text. */
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
    throw new Error(`${name} is not set here`);
  } else if (name === 'href' && !value.startsWith('#') && !isWebAddress(value)) {
    element.setAttribute('title', 'Not a link that can be opened');
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
