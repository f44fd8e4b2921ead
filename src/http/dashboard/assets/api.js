// The HTTP API: one fetch wrapper that adds the CSRF token and turns every failure into a `Problem`.

import { learnServerTime } from './clock.js';

/** Relative to the page, so that the dashboard works under any prefix. */
export const API_ROOT = new URL('api/v1/', document.baseURI);

let csrf = null;
let onSignedOut = () => {};

/** Sets the session's CSRF token, sent with every request that changes something; null if not needed. */
export function useCsrf(value) {
  csrf = value;
}

/** Sets the callback for responses saying that the session is no longer valid. */
export function whenSignedOut(callback) {
  onSignedOut = callback;
}

/** An error response (RFC 9457), or no response at all (`status` 0). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The server responded with status ${status}`);
    this.status = status;
    this.title = body.title || `The server responded with status ${status}`;
    this.kind = String(body.type ?? '').replace('urn:postrider:problem:', '');
    /** @type {{field: string, detail: string}[]} */
    this.errors = Array.isArray(body.errors) ? body.errors : [];
  }

  static unreachable() {
    return new Problem(0, {
      type: 'urn:postrider:problem:unreachable',
      title: 'No response from the server',
      detail: 'The request failed, or the connection was lost.',
    });
  }
}

/** A path whose inserted values are encoded: path`endpoints/${id}/pause`. */
export function path(parts, ...values) {
  return String.raw({ raw: parts }, ...values.map(encodeURIComponent));
}

/** Empty values of `query` are omitted. */
export function get(where, query = {}, signal = undefined) {
  return call('GET', where, { query, signal });
}

export function post(where, body = {}) {
  return call('POST', where, { body });
}

export function patch(where, body) {
  return call('PATCH', where, { body });
}

export function remove(where) {
  return call('DELETE', where, {});
}

async function call(method, where, { query = {}, body, signal }) {
  const url = new URL(where, API_ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== '') url.searchParams.set(name, value);
  }
  const headers = { Accept: 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (method !== 'GET' && csrf) headers['X-CSRF-Token'] = csrf;

  const settings = { credentials: 'same-origin', cache: 'no-store' };
  const request = { method, headers, body: JSON.stringify(body), signal, ...settings };
  const response = await fetch(url, request).catch(broken);
  learnServerTime(response.headers.get('Date'));
  const answer = await read(response);
  if (response.ok) return answer;
  if (response.status === 401 && where !== 'session') onSignedOut();
  throw new Problem(response.status, answer ?? {});
}

/** Leaving the page aborts its requests, which is not a failure. */
function broken(error) {
  throw error.name === 'AbortError' ? error : Problem.unreachable();
}

/** The response body as JSON; null if it is empty or not JSON (such as a proxy's error page). */
async function read(response) {
  const text = await response.text().catch(broken);
  try {
    return text === '' ? null : JSON.parse(text);
  } catch {
    return null;
  }
}
