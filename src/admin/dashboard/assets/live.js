// What happens now: one EventSource for the whole dashboard. Views listen through `on`, until their signal.
//
// Besides the server's own events there are `reload` (some were missed: load what you show again) and
// `state` (see `state()`).

import { API_ROOT } from './api.js';

const FROM_SERVER = ['overview', 'delivery', 'endpoint'];
const RETRY_MS = 5000;

const events = new EventTarget();
let source = null;
let retryTimer = null;
/** @type {'connecting'|'live'|'reconnecting'} */
let condition = 'connecting';

export function state() {
  return condition;
}

/** Calls `handler` with the event's data until `signal`, if there is one, is aborted. */
export function on(type, handler, signal) {
  events.addEventListener(type, (event) => handler(event.detail), { signal });
}

export function start() {
  change('connecting');
  connect();
}

function connect() {
  stop();
  source = new EventSource(new URL('stream', API_ROOT));
  source.addEventListener('open', () => {
    const missedSome = condition === 'reconnecting';
    change('live');
    if (missedSome) tell('reload');
  });
  source.addEventListener('error', () => {
    change('reconnecting');
    // The browser tries again by itself, unless the answer was an error.
    if (source?.readyState === EventSource.CLOSED) retryTimer = setTimeout(connect, RETRY_MS);
  });
  for (const type of FROM_SERVER) {
    source.addEventListener(type, (event) => tell(type, JSON.parse(event.data)));
  }
  source.addEventListener('lagged', () => tell('reload'));
}

export function stop() {
  clearTimeout(retryTimer);
  source?.close();
  source = null;
}

/**
 * A function that has `refresh` run soon, but at most once in `everyMs`, and not while nobody looks.
 * For what many events ask for.
 */
export function gently(refresh, everyMs, signal) {
  let timer = null;
  let last = Date.now(); // who listens has just loaded
  const run = () => {
    if (signal.aborted) return;
    if (document.hidden) {
      document.addEventListener('visibilitychange', run, { once: true, signal });
      return;
    }
    timer = null;
    last = Date.now();
    refresh();
  };
  return () => {
    timer ??= setTimeout(run, Math.max(0, last + everyMs - Date.now()));
  };
}

function change(next) {
  condition = next;
  tell('state', next);
}

function tell(type, detail) {
  events.dispatchEvent(new CustomEvent(type, { detail }));
}
