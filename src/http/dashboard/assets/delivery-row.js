// A delivery as a table row: in the list of deliveries, and on the page of its endpoint.

import { h } from './dom.js';
import { shortWhen, when } from './format.js';
import { to } from './router.js';
import { seesAllTenants } from './session.js';
import { badge, ticks } from './ui.js';
import { explainDelivery } from './words.js';

/** The columns of the list of deliveries. */
export function deliveryColumns() {
  return ['Delivery', seesAllTenants() && 'Tenant', 'State', 'Attempts', 'Endpoint', 'Created'].filter(Boolean);
}

/** The columns for the deliveries of one endpoint. */
export const COLUMNS_OF_ONE = ['Delivery', 'State', 'Attempts', 'Created'];

export function deliveryRow(delivery, columns = deliveryColumns()) {
  const explained = explainDelivery(delivery);
  const cell = (label, ...children) => h('td', { 'data-label': label }, ...children);
  const done = delivery.status === 'delivered';
  return h(
    'tr',
    { 'data-testid': 'delivery-row', 'data-delivery-id': delivery.id },
    h('td', { class: 'main-cell' }, h('a', { href: to('deliveries', delivery.id), class: 'strong break' }, delivery.event_type), h('span', { class: 'muted block break mono' }, delivery.event_id)),
    columns.includes('Tenant') && cell('Tenant', delivery.tenant),
    cell('State', badge(explained), done ? null : ticks(explained.why, { class: 'muted block why' })),
    cell('Attempts', String(delivery.attempt_count)),
    columns.includes('Endpoint') && cell('Endpoint', h('a', { href: to('endpoints', delivery.endpoint_id), class: 'mono nowrap' }, shortId(delivery.endpoint_id))),
    cell('Created', h('time', { datetime: delivery.created_at, title: when(delivery.created_at), class: 'nowrap' }, shortWhen(delivery.created_at))),
  );
}

/** An abbreviated id, enough to distinguish a few. */
function shortId(id) {
  return id.length > 14 ? `${id.slice(0, 7)}…${id.slice(-5)}` : id;
}
