// Who is signed in, and what they may do. The token itself is never kept: the server holds the session in a
// cookie that scripts cannot read, and the CSRF value lives in this page alone.

import { Problem, get, post, remove, useCsrf } from './api.js';
import { decode } from './router.js';

/** @type {{scope: string, tenant: string|null, kind: 'token'|'portal'|'host'}|null} */
let session = null;

export function current() {
  return session;
}

/** Whether actions that change something are offered. (The server decides; this only hides them.) */
export function mayChange() {
  return ['admin', 'portal'].includes(session?.scope);
}

/** Whether more than one tenant is to be seen. */
export function seesAllTenants() {
  return session !== null && session.tenant === null;
}

/** Takes up the session that the browser has; null where it has none. */
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

/** The credential in the page's fragment, if it is a portal's link; it is taken out of the address at once. */
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

/** Forgets the session here. */
export function end() {
  session = null;
  useCsrf(null);
}

function begin(answer) {
  session = answer;
  useCsrf(answer.csrf);
  return answer;
}
