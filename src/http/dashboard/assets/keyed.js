// A list that is refreshed in place: unchanged rows keep their elements, and the keyboard focus is kept.

/**
 * Shows `items` in `parent`.
 * @param {(item) => string} keyOf a unique key of the item
 * @param {(item) => Element} render creates the element of the item
 */
export function showKeyed(parent, items, keyOf, render) {
  const before = new Map([...parent.children].map((element) => [element.getAttribute('data-key'), element]));
  const shown = items.map((item) => {
    const [key, state] = [keyOf(item), JSON.stringify(item)];
    const old = before.get(key);
    if (old && states.get(old) === state) return old;
    const element = render(item);
    element.setAttribute('data-key', key);
    states.set(element, state);
    return element;
  });
  const focus = focusIn(parent);
  if (shown.length !== parent.children.length || shown.some((element, at) => parent.children[at] !== element)) {
    parent.replaceChildren(...shown);
  }
  if (focus) focus.restore();
}

/** The item that each element shows, as JSON, to detect changes. */
const states = new WeakMap();

const FOCUSABLE = 'a[href], button, input, select, summary';

function focusIn(parent) {
  const focused = document.activeElement;
  if (!parent.contains(focused)) return null;
  const row = focused.closest('[data-key]');
  if (!row) return null;
  const at = [...row.querySelectorAll(FOCUSABLE)].indexOf(focused);
  const key = row.getAttribute('data-key');
  return {
    restore() {
      const now = [...parent.children].find((element) => element.getAttribute('data-key') === key);
      now?.querySelectorAll(FOCUSABLE)[at]?.focus({ preventScroll: true });
    },
  };
}
