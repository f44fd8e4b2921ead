// The list of endpoints: a table with the current state of each, filters, and the dialog for adding one.

import { h, replace } from '../dom.js';
import { get, path, post } from '../api.js';
import { sparkline } from '../chart.js';
import { endpointFields } from '../endpoint/fields.js';
import { form } from '../forms.js';
import { count } from '../format.js';
import { filterField, filterSelect, filters, listing } from '../listing.js';
import * as live from '../live.js';
import { to } from '../router.js';
import { mayChange, seesAllTenants } from '../session.js';
import { badge, commandLine, copyButton, empty, openDialog, ticks } from '../ui.js';
import { explainEndpoint } from '../words.js';

const STATES = [['', 'any'], ['active', 'active'], ['paused', 'paused']];
const REFRESH_MS = 3000;

export default function endpointsView({ root, signal, setTitle }) {
  setTitle('Endpoints');
  const tenants = seesAllTenants();
  const filter = filters(
    [
      filterField('Search', h('input', { name: 'search', type: 'search', placeholder: 'URL or description', 'data-testid': 'search' })),
      filterField('Status', filterSelect('status', STATES)),
      tenants && filterField('Tenant', h('input', { name: 'tenant', placeholder: 'all' })),
    ],
    () => list.load(),
  );
  const sparks = lazySparklines(signal);
  const columns = ['Endpoint', tenants && 'Tenant', 'State', 'Pending', 'Last hour', 'Rate limit'];
  const list = listing({
    path: 'endpoints',
    label: 'Endpoints',
    query: filter.values,
    columns: columns.filter(Boolean),
    row: (endpoint) => endpointRow(endpoint, sparks(endpoint.id)),
    emptyState: (filtered) => (filtered ? nothingFound() : noEndpoints(() => addEndpoint(list, signal))),
    signal,
  });
  const add = mayChange() && h('button', { type: 'button', class: 'primary', 'data-testid': 'endpoint-add', onclick: () => addEndpoint(list, signal) }, 'Add endpoint');
  replace(root, h('div', { class: 'page-head' }, h('h1', null, 'Endpoints'), add), filter.form, list.element);

  const refresh = live.gently(list.refresh, REFRESH_MS, signal);
  for (const type of ['overview', 'endpoint', 'reload']) live.on(type, refresh, signal);
  list.load();
}

function endpointRow(endpoint, spark) {
  const explained = explainEndpoint(endpoint);
  const cell = (label, ...children) => h('td', { 'data-label': label }, ...children);
  return h(
    'tr',
    { 'data-testid': 'endpoint-row', 'data-endpoint-id': endpoint.id },
    h('td', { class: 'main-cell' }, h('a', { href: to('endpoints', endpoint.id), class: 'strong break' }, endpoint.url), endpoint.description && h('span', { class: 'muted block' }, endpoint.description)),
    seesAllTenants() && cell('Tenant', endpoint.tenant),
    cell('State', badge(explained), explained.tone === 'ok' ? null : ticks(explained.why, { class: 'muted block why' })),
    cell('Pending', count(endpoint.health.pending)),
    cell('Last hour', spark),
    cell('Rate limit', endpoint.rate_limit),
  );
}

/** Sparklines of endpoints, loaded when a row is first visible and kept when the row is rendered again. */
function lazySparklines(signal) {
  const places = new Map();
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      get(path`endpoints/${target.getAttribute('data-of')}/stats`, { window: '1h' }, signal)
        .then(({ series }) => replace(target, sparkline(series)))
        .catch(() => replace(target, '–'));
    }
  });
  signal.addEventListener('abort', () => seen.disconnect());
  return (id) => {
    if (!places.has(id)) {
      const place = h('span', { class: 'spark-place', 'data-of': id });
      places.set(id, place);
      seen.observe(place);
    }
    return places.get(id);
  };
}

function addEndpoint(list, signal) {
  const fields = endpointFields(['url', 'description', ...(seesAllTenants() ? ['tenant'] : []), 'event_types', 'rate_limit', 'concurrency']);
  openDialog('Add endpoint', (close) => {
    const submit = { type: 'submit', class: 'primary', 'data-testid': 'endpoint-create' };
    const buttons = [
      h('button', { type: 'button', onclick: close }, 'Cancel'),
      h('button', submit, 'Add endpoint'),
    ];
    return form({ fields: fields.elements, buttons }, async () => {
      const created = await post('endpoints', fields.read());
      close();
      list.refresh();
      showSecretOnce(created, signal);
    });
  }, signal);
}

function showSecretOnce(endpoint, signal) {
  const { id, secret } = endpoint;
  const value = h('code', { class: 'break', 'data-testid': 'secret-value' }, secret);
  openDialog('Endpoint added', (close) => [
    h('p', null, 'Give this secret to the receiver, which uses it to verify webhook signatures.'),
    h('div', { class: 'command' }, value, copyButton(() => secret)),
    h(
      'footer',
      null,
      h('button', { type: 'button', onclick: close }, 'Done'),
      h('a', { class: 'button primary', href: to('endpoints', id) }, 'Open endpoint'),
    ),
  ], signal);
}

function noEndpoints(add) {
  const how = ' Add one here or on the command line:';
  return empty(
    'No endpoints yet',
    h('p', null, 'An endpoint is a URL that webhooks are sent to.', mayChange() && how),
    mayChange() && h('p', null, h('button', { type: 'button', class: 'primary', onclick: add }, 'Add endpoint')),
    commandLine('postrider endpoints add https://example.com/hook'),
  );
}

function nothingFound() {
  return empty('No matching endpoints', h('p', null, 'Change or clear the filters.'));
}
