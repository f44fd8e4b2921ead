// Entry point: restores the session, then shows the page of the current URL.

import { h, replace } from './dom.js';
import { whenSignedOut } from './api.js';
import { read } from './router.js';
import * as live from './live.js';
import * as session from './session.js';
import { markPage, showShell } from './shell.js';
import { empty, failure } from './ui.js';
import signIn from './views/signin.js';
import overview from './views/overview.js';
import endpoints from './views/endpoints.js';
import endpoint from './views/endpoint.js';
import deliveries from './views/deliveries.js';
import delivery from './views/delivery.js';
import reference from './views/reference.js';

const main = document.getElementById('main');

/** By first path segment: the list page and the detail page. */
const PAGES = {
  '': [overview],
  endpoints: [endpoints, endpoint],
  deliveries: [deliveries, delivery],
  reference: [reference],
};

/** Aborts the listeners and requests of the previous page. */
let leaving = new AbortController();

/**
 * Shows a page. A page is a function that takes:
 * @typedef {object} Page
 * @property {Element} root the element it renders into
 * @property {string} id the id of the endpoint or delivery, on a detail page
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal aborted when the user leaves the page
 * @property {(title: string) => void} setTitle
 */
function open(view, { id, query } = {}) {
  leaving.abort();
  leaving = new AbortController();
  replace(main);
  view({ root: main, id, query, signal: leaving.signal, setTitle });
}

function setTitle(title) {
  const { kind, tenant } = session.current() ?? {};
  document.title = [title, kind === 'portal' ? tenant : null, 'Postrider'].filter(Boolean).join(' · ');
}

function showPage() {
  if (!session.current()) return;
  const { segments, query } = read();
  const [name = '', id] = segments;
  const view = (Object.hasOwn(PAGES, name) && PAGES[name][id === undefined ? 0 : 1]) || notFound;
  open(view, { id, query });
  markPage();
}

function notFound({ root, setTitle }) {
  setTitle('Not found');
  replace(root, empty('Page not found', h('p', null, h('a', { href: '#/' }, 'Go to the overview'), '.')));
}

function enter() {
  showShell(showSignIn);
  if (session.current().scope === 'publish') {
    const hint = 'Sign out, then sign in with a token of scope read or admin.';
    replace(main, empty('This token can only publish', h('p', null, hint)));
    return;
  }
  live.start();
  showPage();
}

function showSignIn() {
  session.end();
  live.stop();
  showShell();
  open((page) => signIn({ ...page, onSignedIn: enter }));
}

async function begin(credential = session.takePortalCredential()) {
  try {
    const signedIn = credential ? await session.enterPortal(credential) : await session.restore();
    if (signedIn) enter();
    else showSignIn();
  } catch (problem) {
    showShell();
    if (credential && problem.status === 401) {
      const hint = 'Ask the person who gave it to you for a new one: links like this expire.';
      replace(main, empty('This link has expired', h('p', null, hint)));
    } else {
      replace(main, failure(problem, () => begin(credential)));
    }
  }
}

// An event stream does not report why it was closed: the session may have expired.
live.on('state', async (state) => {
  if (state !== 'reconnecting' || !session.current()) return;
  const signedIn = await session.restore().catch(() => session.current());
  if (!signedIn) showSignIn();
});
whenSignedOut(() => {
  if (session.current()) showSignIn();
});
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#portal=')) {
    begin();
    return;
  }
  showPage();
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
});
begin();
