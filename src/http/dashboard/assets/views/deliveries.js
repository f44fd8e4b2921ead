// The list of deliveries: a live table whose filters are kept in the URL.

import { h, replace } from '../dom.js';
import { deliveryColumns, deliveryRow } from '../delivery-row.js';
import { fromLocalInput, toLocalInput } from '../format.js';
import { filterField, filterSelect, filters, listing } from '../listing.js';
import * as live from '../live.js';
import { seesAllTenants } from '../session.js';
import { commandLine, empty } from '../ui.js';

const STATES = [
  ['', 'any'],
  ['pending', 'pending or on hold'],
  ['sending', 'sending'],
  ['delivered', 'delivered'],
  ['failed', 'failed'],
];
const REFRESH_MS = 2000;

export default function deliveriesView({ root, query, signal, setTitle }) {
  setTitle('Deliveries');
  const text = (name, placeholder, props = {}) => h('input', { name, placeholder, autocomplete: 'off', spellcheck: 'false', ...props });
  const time = (name) => h('input', { name, type: 'datetime-local', step: 1 });
  const filter = filters(
    [
      filterField('Status', filterSelect('status', STATES)),
      filterField('Event id', text('event_id', 'exact match', { 'data-testid': 'search' })),
      filterField('Endpoint id', text('endpoint_id', 'ep_…')),
      seesAllTenants() && filterField('Tenant', text('tenant', 'all')),
      filterField('Since', time('since')),
      filterField('Until', time('until')),
    ],
    () => list.load(),
  );
  for (const name of ['since', 'until']) filter.form.elements[name].value = toLocalInput(query.get(name));

  const list = listing({
    path: 'deliveries',
    label: 'Deliveries',
    query: () => {
      const { since, until, ...rest } = filter.values();
      return { ...rest, ...(since && { since: fromLocalInput(since) }), ...(until && { until: fromLocalInput(until) }) };
    },
    columns: deliveryColumns(),
    row: (delivery) => deliveryRow(delivery),
    emptyState: (filtered) => (filtered ? nothingFound() : noDeliveries()),
    signal,
  });
  replace(root, h('h1', null, 'Deliveries'), filter.form, list.element);

  const refresh = live.gently(list.refresh, REFRESH_MS, signal);
  for (const type of ['delivery', 'overview', 'reload']) live.on(type, refresh, signal);
  list.load();
}

function noDeliveries() {
  return empty(
    'No deliveries yet',
    h('p', null, 'Publish an event that an endpoint subscribes to:'),
    commandLine(`postrider send invoice.paid '{"amount": 1200}'`),
  );
}

function nothingFound() {
  const hint = 'Change or clear the filters. Deliveries older than the retention period have been removed.';
  return empty('No matching deliveries', h('p', null, hint));
}
