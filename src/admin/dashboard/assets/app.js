// Where it begins: takes up the session, then shows the page that the address names.

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

/** By the first segment: the page of the whole, and the page of one. */
const PAGES = {
  '': [overview],
  endpoints: [endpoints, endpoint],
  deliveries: [deliveries, delivery],
  reference: [reference],
};

/** Ends what the page before listens to and asks for. */
let leaving = new AbortController();

/**
 * Shows a page. Each is a function of what it may use:
 * @typedef {object} Page
 * @property {Element} root where it shows itself
 * @property {string} id whose page it is
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal aborted when it is left
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
  replace(root, empty('There is no such page', h('p', null, h('a', { href: '#/' }, 'Go to the overview'), '.')));
}

function enter() {
  showShell(showSignIn);
  if (session.current().scope === 'publish') {
    replace(main, empty('This token may only publish', h('p', null, 'Sign out, then sign in with one of scope read or admin.')));
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
    const known = credential ? await session.enterPortal(credential) : await session.restore();
    if (known) enter();
    else showSignIn();
  } catch (problem) {
    showShell();
    if (credential && problem.status === 401) {
      replace(main, empty('This link is no longer good', h('p', null, 'Ask whoever gave it to you for a new one: links like this end after a while.')));
    } else {
      replace(main, failure(problem, () => begin(credential)));
    }
  }
}

// An event stream does not say why it broke off: it may be that the session has ended.
live.on('state', async (state) => {
  if (state !== 'reconnecting' || !session.current()) return;
  const known = await session.restore().catch(() => session.current());
  if (!known) showSignIn();
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
