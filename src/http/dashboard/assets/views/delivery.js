// The page of one delivery: its state, attempts and body, and the available actions.

import { h, replace } from '../dom.js';
import { get, path, post } from '../api.js';
import { attempts } from '../attempts.js';
import { curlCommand } from '../curl.js';
import { pretty, when } from '../format.js';
import * as live from '../live.js';
import { to } from '../router.js';
import { mayChange, seesAllTenants } from '../session.js';
import { badge, button, copyButton, facts, failure, loading, ticks, toast } from '../ui.js';
import { explainDelivery } from '../words.js';

const REFRESH_MS = 1000;

export default function deliveryView({ root, id, signal, setTitle }) {
  setTitle('Delivery');
  const summary = h('section', { class: 'card state' });
  const timeline = attempts();
  const payload = h('section', { class: 'card' }, h('h2', null, 'Body'), loading('chart'));
  const heading = h('h1', { class: 'break' });
  const page = h('div', null, backLink(), heading, summary, timeline.element, payload);
  replace(root, loading('page'));

  let delivery = null;
  /** The event and the endpoint: loaded once, null if not available. */
  let [event, endpoint] = [null, null];

  const show = () => {
    if (!page.isConnected) replace(root, page);
    setTitle(`${delivery.event_type} · delivery`);
    heading.textContent = delivery.event_type;
    replace(summary, summaryOf(delivery, actions()));
    timeline.update(delivery.attempts);
  };

  const load = async () => {
    try {
      const before = JSON.stringify(delivery);
      const first = delivery === null;
      delivery = await get(path`deliveries/${id}`, {}, signal);
      if (JSON.stringify(delivery) !== before) show();
      if (first) await loadContext();
    } catch (error) {
      if (error.name !== 'AbortError' && !page.isConnected) replace(root, backLink(), failure(error, load));
    }
  };

  async function loadContext() {
    const unavailable = (error) => {
      if (error.name === 'AbortError') throw error;
      return null;
    };
    [event, endpoint] = await Promise.all([
      get(path`events/${delivery.event_id}`, { tenant: delivery.tenant }, signal).catch(unavailable),
      get(path`endpoints/${delivery.endpoint_id}`, {}, signal).catch(unavailable),
    ]);
    replace(payload, bodyOf(event));
    show();
  }

  function actions() {
    const act = (label, verb, done) =>
      button(
        label,
        async () => {
          await post(path`deliveries/${id}/${verb}`);
          toast(done);
          await load();
        },
        { 'data-testid': `delivery-${verb}` },
      );
    const can = mayChange();
    const retry = delivery.status === 'delivered' ? 'Resend' : 'Retry';
    const curl = () => curlCommand(endpoint.url, lastHeaders(delivery, event), event);
    return h(
      'div',
      { class: 'actions' },
      can && isRetryable(delivery) && act(retry, 'retry', 'Queued for retry.'),
      can && delivery.status === 'pending' && act('Cancel', 'cancel', 'Cancelled'),
      can && isReleasable(delivery, event, endpoint) && act('Release', 'release', 'Released'),
      endpoint && event && copyButton(curl, 'Copy as curl', { class: '', 'data-testid': 'delivery-curl' }),
    );
  }

  const refresh = live.gently(load, REFRESH_MS, signal);
  live.on('delivery', (changed) => changed.id === id && refresh(), signal);
  live.on('endpoint', (changed) => changed.id === delivery?.endpoint_id && refresh(), signal);
  live.on('overview', () => ['pending', 'sending'].includes(delivery?.status) && refresh(), signal);
  live.on('reload', refresh, signal);
  load();
}

function summaryOf(delivery, actions) {
  const explained = explainDelivery(delivery);
  const link = (address, text) => h('a', { href: address, class: 'mono break' }, text);
  return [
    h('div', { class: 'state-words' }, badge(explained, { 'data-testid': 'delivery-state' }), h('p', null, ticks(explained.why, { class: 'why' }))),
    actions,
    facts([
      ['Event', link(to('deliveries', { event_id: delivery.event_id }), delivery.event_id)],
      ['Endpoint', link(to('endpoints', delivery.endpoint_id), delivery.endpoint_id)],
      ['Tenant', seesAllTenants() ? delivery.tenant : null],
      ['Delivery', h('span', { class: 'mono break' }, delivery.id)],
      ['Created', when(delivery.created_at)],
      ['Next attempt', delivery.next_attempt_at && when(delivery.next_attempt_at)],
      ['Delivered', delivery.delivered_at && when(delivery.delivered_at)],
    ]),
  ];
}

/** Failed, delivered and held deliveries can be retried, unless the endpoint was deleted. */
function isRetryable({ status, hold_reason: held, failure_reason: reason }) {
  return (status === 'failed' && reason !== 'endpoint_deleted') || status === 'delivered' || held !== null;
}

/** A held delivery, or a failed one that blocks later deliveries with the same ordering key. */
function isReleasable(delivery, event, endpoint) {
  if (delivery.hold_reason !== null) return true;
  const blocks = endpoint?.ordering === 'key' && endpoint.on_failed === 'block' && event?.ordering_key;
  return Boolean(blocks) && delivery.status === 'failed' && delivery.failure_reason !== 'cancelled';
}

function lastHeaders(delivery, event) {
  const sent = delivery.attempts.findLast((attempt) => attempt.request_headers);
  return sent?.request_headers ?? { 'content-type': event.content_type };
}

function bodyOf(event) {
  if (!event) {
    const reason = 'The event is not available: it may have been removed after its retention period.';
    return [h('h2', null, 'Body'), h('p', { class: 'muted' }, reason)];
  }
  const text = event.body ?? event.body_base64;
  const isBinary = event.body === null || event.body === undefined;
  const kind = isBinary ? `${event.content_type}, base64-encoded` : event.content_type;
  return [
    h('div', { class: 'page-head' }, h('h2', null, 'Body'), copyButton(() => text)),
    h('p', { class: 'muted' }, [kind, event.ordering_key && `ordering key ${event.ordering_key}`].filter(Boolean).join(' · ')),
    h('pre', { class: 'payload', tabindex: 0 }, pretty(text)),
  ];
}

function backLink() {
  return h('p', { class: 'back' }, h('a', { href: to('deliveries') }, '← Deliveries'));
}
