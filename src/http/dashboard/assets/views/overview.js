// The overview: throughput, and the endpoints that need attention, each with the reason and the remedy.

import { h, outsideLink, replace } from '../dom.js';
import { get, path, post } from '../api.js';
import { chart } from '../chart.js';
import { secondsUntil } from '../clock.js';
import { count, duration, percent, plural } from '../format.js';
import { showKeyed } from '../keyed.js';
import * as live from '../live.js';
import { to } from '../router.js';
import { mayChange, seesAllTenants } from '../session.js';
import { badge, button, commandLine, empty, failure, loading, ticks, toast } from '../ui.js';
import { explainEndpoint, isResumable } from '../words.js';

export default function overviewView({ root, signal, setTitle }) {
  setTitle('Overview');
  const tiles = h('dl', { class: 'tiles' });
  const series = h('section', { class: 'card' });
  const troubled = h('ul', { class: 'troubled' });
  const trouble = h('section', { class: 'trouble' });
  const page = h('div', null, h('h1', null, 'Overview'), tiles, trouble, series);
  replace(root, h('h1', null, 'Overview'), loading('page'));

  const show = (overview) => {
    if (!page.isConnected) replace(root, page);
    showTrouble(overview);
    replace(tiles, tilesOf(overview));
    replace(series, h('h2', null, `Attempts, last ${duration(overview.window_s)}`), chart(overview.series));
  };

  const showTrouble = ({ troubled: list, endpoints, attempts, held }) => {
    if (endpoints.total === 0) {
      replace(trouble, noEndpoints());
    } else if (list.length === 0 && (attempts.failed > 0 || held > 0)) {
      const noted = [
        attempts.failed > 0 && `${plural(attempts.failed, 'attempt')} failed recently`,
        held > 0 && `${plural(held, 'delivery is', 'deliveries are')} on hold`,
      ].filter(Boolean).join(' and ');
      const text = `No endpoints need attention, but ${noted}.`;
      replace(trouble, h('p', { class: 'all-well' }, badge({ tone: 'warn', label: 'Check' }), text));
    } else if (list.length === 0) {
      const healthy = badge({ tone: 'ok', label: 'Healthy' });
      replace(trouble, h('p', { class: 'all-well' }, healthy, 'No endpoints need attention.'));
    } else {
      showKeyed(troubled, list, (endpoint) => endpoint.id, troubleRow);
      if (!troubled.isConnected) replace(trouble, h('h2', null, 'Needs attention'), troubled);
    }
  };

  const load = async () => {
    try {
      show(await get('overview', {}, signal));
    } catch (error) {
      if (error.name !== 'AbortError') replace(root, h('h1', null, 'Overview'), failure(error, load));
    }
  };

  live.on('overview', show, signal);
  live.on('reload', load, signal);
  live.on('endpoint', live.gently(load, 2000, signal), signal);
  load();
}

function tilesOf(overview) {
  const { attempts, endpoints, waiting, oldest_waiting_at: oldest } = overview;
  const { total, active, paused, failing } = endpoints;
  const age = () => (oldest ? duration(-secondsUntil(oldest)) : '–');
  const ofTotal = `of ${plural(attempts.total, 'attempt')} failed`;
  const failed = attempts.total ? `${count(attempts.failed)} ${ofTotal}` : 'no attempts';
  const success = percent(overview.success_rate);
  const perSecond = overview.throughput_per_s.toFixed(overview.throughput_per_s < 10 ? 2 : 0);
  const oldestAge = h('span', null, 'oldest ', ticks(age));
  const viewHeld = () => h('a', { href: to('deliveries', { status: 'pending' }) }, 'view');
  return [
    tile('Success rate', success, failed, { 'data-testid': 'overview-success' }),
    tile('Throughput', `${perSecond} /s`, 'attempts'),
    tile('Pending', count(waiting), oldestAge, { 'data-testid': 'overview-waiting' }),
    tile('In flight', count(overview.in_flight), 'now'),
    tile('On hold', count(overview.held), overview.held ? viewHeld() : 'nothing to release'),
    tile('Endpoints', count(total), `${count(active)} active, ${count(paused)} paused, ${count(failing)} failing`),
  ];
}

function tile(label, value, note, props = {}) {
  return h('div', { class: 'tile' }, h('dt', null, label), h('dd', null, h('strong', props, value), h('span', { class: 'muted' }, note)));
}

function troubleRow(endpoint) {
  const explained = explainEndpoint(endpoint);
  const address = to('endpoints', endpoint.id);
  const about = [endpoint.description, seesAllTenants() && endpoint.tenant].filter(Boolean).join(' · ');
  return h(
    'li',
    { class: `trouble-row ${explained.tone}`, 'data-testid': 'trouble-row', 'data-endpoint-id': endpoint.id },
    h('div', { class: 'trouble-head' }, badge(explained), h('a', { href: address, class: 'strong break' }, endpoint.url), about && h('span', { class: 'muted break' }, about)),
    h('p', null, ticks(explained.why, { class: 'why' }), ' ', explained.todo && h('strong', { class: 'todo' }, explained.todo)),
    h('div', { class: 'actions' }, remedy(endpoint, explained.action)),
  );
}

/** The buttons and links for the remedy, then links to the deliveries. */
function remedy(endpoint, action) {
  const { id } = endpoint;
  const resume = async () => {
    await post(path`endpoints/${id}/resume`);
    toast('Resumed');
  };
  const deliveriesOf = (status) => to('deliveries', { endpoint_id: id, status });
  return [
    isResumable(endpoint) && mayChange() && button('Resume', resume),
    endpoint.pause_reason === 'gone' && mayChange() && link('Fix the URL', to('endpoints', id, { edit: 'url' })),
    action === 'rate' && mayChange() && link('Raise the rate limit', to('endpoints', id, { edit: 'rate_limit' })),
    link(`Show ${action === 'held' ? 'held' : 'pending'} deliveries`, deliveriesOf('pending')),
    link('Show failed deliveries', deliveriesOf('failed')),
  ];
}

function link(label, href) {
  return h('a', { class: 'button', href }, label);
}

function noEndpoints() {
  const standard = outsideLink('https://www.standardwebhooks.com/');
  const addLink = [h('a', { href: to('endpoints') }, 'Add one here'), ' or on the command line:'];
  return empty(
    'No endpoints yet',
    h('p', null, 'An endpoint is a URL that webhooks are sent to. ', mayChange() && addLink),
    commandLine('postrider endpoints add https://example.com/hook'),
    h('p', { class: 'muted' }, 'Signatures follow Standard Webhooks: ', standard),
  );
}
