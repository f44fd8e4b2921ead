// Time: the server's now, and the texts that count seconds. The only timer of the dashboard that repeats.

/** How far the server's clock is ahead of the browser's. */
let aheadMs = 0;

/** What each ticking element shows; an element that is gone takes its entry along. */
const shows = new WeakMap();

/** Takes the `Date` of an answer. It has whole seconds, so that small differences mean nothing. */
export function learnServerTime(date) {
  const difference = Date.parse(date) - Date.now();
  if (Number.isFinite(difference)) aheadMs = Math.abs(difference) > 3000 ? difference : 0;
}

export function now() {
  return Date.now() + aheadMs;
}

/** Seconds until `time` (RFC 3339), negative after it. */
export function secondsUntil(time) {
  return (Date.parse(time) - now()) / 1000;
}

/** Has `element` show what `text()` says, each second anew. */
export function ticking(element, text) {
  element.setAttribute('data-ticking', '');
  element.textContent = text();
  shows.set(element, text);
  return element;
}

setInterval(() => {
  for (const element of document.querySelectorAll('[data-ticking]')) {
    const text = shows.get(element)();
    if (element.textContent !== text) element.textContent = text;
  }
}, 1000);
