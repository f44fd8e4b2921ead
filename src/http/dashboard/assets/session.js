// The current session and its rights. The token is never stored: the session is in a cookie that scripts
// cannot read, and the CSRF token is kept only in memory.

import { Problem, get, post, remove, useCsrf } from './api.js';
import { decode } from './router.js';

/** @type {{scope: string, tenant: string|null, kind: 'token'|'portal'|'host'}|null} */
let session = null;

export function current() {
  return session;
}

/** Whether to show actions that change something. (The server enforces this; here they are only hidden.) */
export function mayChange() {
  return ['admin', 'portal'].includes(session?.scope);
}

/** Whether the session can see more than one tenant. */
export function seesAllTenants() {
  return session !== null && session.tenant === null;
}

/** Restores the browser's session; null if there is none. */
export async function restore() {
  try {
    return begin(await get('session'));
  } catch (problem) {
    if (problem instanceof Problem && problem.status === 401) return null;
    throw problem;
  }
}

export async function signIn(token) {
  return begin(await post('session', { token }));
}

/** The credential in the fragment of a portal link, if any. It is removed from the URL immediately. */
export function takePortalCredential() {
  if (!location.hash.startsWith('#portal=')) return null;
  const credential = decode(location.hash.slice('#portal='.length));
  history.replaceState(null, '', '#/');
  return credential;
}

export async function enterPortal(credential) {
  return begin(await post('session', { portal: credential }));
}

export async function signOut() {
  await remove('session');
  end();
}

/** Clears the session in this page. */
export function end() {
  session = null;
  useCsrf(null);
}

function begin(response) {
  session = response;
  useCsrf(response.csrf);
  return response;
}
