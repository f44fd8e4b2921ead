// Time: the server's clock, and texts that update every second, with the dashboard's only interval timer.

/** Offset of the server's clock from the browser's clock. */
let aheadMs = 0;

/** The text function of each ticking element; removed together with the element. */
const shows = new WeakMap();

/** Takes the `Date` header of a response. It is in whole seconds, so small differences are ignored. */
export function learnServerTime(date) {
  const difference = Date.parse(date) - Date.now();
  if (Number.isFinite(difference)) aheadMs = Math.abs(difference) > 3000 ? difference : 0;
}

export function now() {
  return Date.now() + aheadMs;
}

/** Seconds until `time` (RFC 3339); negative if it has passed. */
export function secondsUntil(time) {
  return (Date.parse(time) - now()) / 1000;
}

/** Sets the text of `element` to `text()`, and updates it every second. */
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
