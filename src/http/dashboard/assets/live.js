// Live updates: one EventSource for the whole dashboard. Views subscribe with `on` until their signal aborts.
//
// Besides the events of the server there are `reload` (events were missed: views have to load their data
// again) and `state` (see `state()`).

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

/** Calls `handler` with the data of each event, until the optional `signal` is aborted. */
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
    // The browser reconnects automatically, unless the response was an error.
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
 * Returns a function that calls `refresh` at most once per `everyMs`, and not while the page is hidden.
 * For refreshes that many events trigger.
 */
export function gently(refresh, everyMs, signal) {
  let timer = null;
  let last = Date.now(); // the view has just loaded its data
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
