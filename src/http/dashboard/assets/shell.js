// The bar on top of every page: links, live indicator, theme toggle and sign-out.

import { h, replace } from './dom.js';
import { read, to } from './router.js';
import { current, signOut } from './session.js';
import * as live from './live.js';
import { button } from './ui.js';

const PAGES = [
  ['', 'Overview', 'nav-overview'],
  ['endpoints', 'Endpoints', 'nav-endpoints'],
  ['deliveries', 'Deliveries', 'nav-deliveries'],
  ['reference', 'API', 'nav-reference'],
];

const LIVE = { connecting: 'Connecting…', live: 'Live', reconnecting: 'Reconnecting…' };

const bar = document.getElementById('shell');
const main = document.getElementById('main');

/** Shows the bar of the current session; without a session, only the name and the theme toggle. */
export function showShell(onSignedOut) {
  const session = current();
  const name = session?.kind === 'portal' ? `Webhooks of ${session.tenant}` : 'Postrider';
  const toggle = 'Switch between light and dark theme';
  const leave = async () => {
    await signOut();
    onSignedOut();
  };
  replace(
    bar,
    h(
      'header',
      { class: 'bar' },
      h('a', { class: 'brand', href: '#/' }, h('img', { src: 'assets/icon.svg', alt: '', width: 22, height: 22 }), h('span', null, name)),
      session && h('nav', { 'aria-label': 'Pages' }, PAGES.map(([segment, label, id]) => h('a', { href: segment ? to(segment) : '#/', 'data-page': segment, 'data-testid': id }, label))),
      h(
        'div',
        { class: 'bar-end' },
        session?.scope === 'read' && h('span', { class: 'muted' }, 'read-only'),
        session && liveState(),
        h(
          'button',
          {
            type: 'button',
            class: 'quiet',
            'data-testid': 'theme-toggle',
            'aria-label': toggle,
            title: toggle,
          },
          '◐',
        ),
        session && session.kind !== 'host' && button('Sign out', leave, { class: 'quiet', 'data-testid': 'sign-out' }),
      ),
    ),
  );
}

/** Marks the link of the current page. */
export function markPage() {
  const [segment = ''] = read().segments;
  for (const link of bar.querySelectorAll('[data-page]')) {
    if (link.getAttribute('data-page') === segment) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

function liveState() {
  const text = h('span', null, LIVE[live.state()]);
  const element = h('span', { class: `stream ${live.state()}`, role: 'status', 'data-testid': 'live-state' }, text);
  const show = (state) => {
    element.className = `stream ${state}`;
    text.textContent = LIVE[state];
  };
  stopShowing?.abort();
  stopShowing = new AbortController();
  live.on('state', show, stopShowing.signal);
  return element;
}

let stopShowing = null;

document.querySelector('.skip-link').addEventListener('click', (event) => {
  event.preventDefault(); // its fragment would be read as a page
  main.focus();
});

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, select, dialog');
  if (event.key !== '/' || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.querySelector('[data-testid="search"]');
  if (!search) return;
  event.preventDefault();
  search.focus();
});
