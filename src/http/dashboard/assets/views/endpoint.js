// The page of one endpoint. Each section is a module in ../endpoint/; this module loads the endpoint and
// updates the sections when it changes.

import { h, replace } from '../dom.js';
import { get, path } from '../api.js';
import { COLUMNS_OF_ONE, deliveryRow } from '../delivery-row.js';
import recoverSection from '../endpoint/recover.js';
import removeSection from '../endpoint/remove.js';
import secretSection from '../endpoint/secret.js';
import settingsSection from '../endpoint/settings.js';
import stateSection from '../endpoint/state.js';
import statsSection from '../endpoint/stats.js';
import { listing } from '../listing.js';
import * as live from '../live.js';
import { to } from '../router.js';
import { mayChange } from '../session.js';
import { empty, failure, loading } from '../ui.js';

const REFRESH_MS = 2000;

export default function endpointView({ root, id, query, signal, setTitle }) {
  setTitle('Endpoint');
  replace(root, loading('page'));
  /** @type {((endpoint) => void)[]} */
  let sections = null;

  const show = (endpoint) => {
    setTitle(endpoint.description || endpoint.url);
    if (!sections) {
      const context = { signal, changed: show, edit: query.get('edit') };
      sections = build(root, endpoint, context);
    }
    for (const update of sections) update(endpoint);
  };

  const load = async () => {
    try {
      show(await get(path`endpoints/${id}`, {}, signal));
    } catch (error) {
      if (error.name !== 'AbortError' && (!sections || error.status === 404)) replace(root, backLink(), failure(error, load));
    }
  };

  const refresh = live.gently(load, REFRESH_MS, signal);
  live.on('overview', refresh, signal);
  live.on('reload', refresh, signal);
  live.on('endpoint', (event) => event.id === id && refresh(), signal);
  load();
}

/** Builds every section once, as `{element, update}`; those with actions only if the session may use them. */
function build(root, endpoint, context) {
  const heading = h('h1', { class: 'break' });
  const about = h('p', { class: 'muted break' });
  const state = stateSection(endpoint, context);
  const stats = statsSection(endpoint, context);
  const settings = settingsSection(endpoint, context);
  const acting = (section) => (mayChange() ? [section(endpoint, context)] : []);
  const recover = acting(recoverSection);
  const keep = [settings, ...acting(secretSection), ...acting(removeSection)];
  const recent = recentDeliveries(endpoint, context);
  replace(
    root,
    backLink(),
    heading,
    about,
    state.element,
    h('div', { class: 'columns' }, elementsOf([stats, recent, ...recover]), elementsOf(keep)),
  );
  const head = ({ url, description, tenant, id }) => {
    heading.textContent = url;
    about.textContent = [description, `tenant ${tenant}`, id].filter(Boolean).join(' · ');
  };
  return [head, ...[state, stats, recent, ...recover, ...keep].map(({ update }) => update ?? (() => {}))];
}

function elementsOf(sections) {
  return h('div', null, sections.map(({ element }) => element));
}

function recentDeliveries({ id }, { signal }) {
  const list = listing({
    path: 'deliveries',
    label: 'Deliveries of this endpoint',
    query: () => ({ endpoint_id: id }),
    columns: COLUMNS_OF_ONE,
    row: (delivery) => deliveryRow(delivery, COLUMNS_OF_ONE),
    limit: 10,
    emptyState: () => {
      const hint = 'Send a test, or publish an event that this endpoint subscribes to.';
      return empty('No deliveries yet', h('p', null, hint));
    },
    signal,
  });
  const refresh = live.gently(list.refresh, REFRESH_MS, signal);
  live.on('delivery', (event) => event.endpoint_id === id && refresh(), signal);
  list.load();
  const all = h('a', { href: to('deliveries', { endpoint_id: id }) }, 'View all');
  return {
    element: h('section', { class: 'card' }, h('div', { class: 'page-head' }, h('h2', null, 'Deliveries'), all), list.element),
    update: refresh,
  };
}

function backLink() {
  return h('p', { class: 'back' }, h('a', { href: to('endpoints') }, '← Endpoints'));
}
