// The overview: how much goes through, and which endpoint is in trouble, why, and what to do.

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
      const why = [attempts.failed > 0 && `${attempts.failed} attempts failed lately`, held > 0 && `${held} deliveries wait for you`].filter(Boolean).join(', ');
      replace(trouble, h('p', { class: 'all-well' }, badge({ tone: 'warn', label: 'Look' }), `No endpoint is in trouble now; ${why}.`));
    } else if (list.length === 0) {
      replace(trouble, h('p', { class: 'all-well' }, badge({ tone: 'ok', label: 'All well' }), 'No endpoint is in trouble.'));
    } else {
      showKeyed(troubled, list, (endpoint) => endpoint.id, troubleRow);
      if (!troubled.isConnected) replace(trouble, h('h2', null, 'Needs a look'), troubled);
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
  return [
    tile('Success', percent(overview.success_rate), attempts.total ? `${count(attempts.failed)} of ${plural(attempts.total, 'attempt')} failed` : 'no attempts', { 'data-testid': 'overview-success' }),
    tile('Throughput', `${overview.throughput_per_s.toFixed(overview.throughput_per_s < 10 ? 2 : 0)} /s`, 'attempts'),
    tile('Waiting', count(waiting), h('span', null, 'oldest ', ticks(age)), { 'data-testid': 'overview-waiting' }),
    tile('In flight', count(overview.in_flight), 'now'),
    tile('On hold', count(overview.held), overview.held ? h('a', { href: to('deliveries', { status: 'pending' }) }, 'look at them') : 'nothing to release'),
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

/** The button or link that helps, then what shows more. */
function remedy(endpoint, action) {
  const { id } = endpoint;
  const resume = async () => {
    await post(path`endpoints/${id}/resume`);
    toast('Resumed');
  };
  return [
    isResumable(endpoint) && mayChange() && button('Resume', resume),
    endpoint.pause_reason === 'gone' && mayChange() && link('Fix the URL', to('endpoints', id, { edit: 'url' })),
    action === 'rate' && mayChange() && link('Raise the rate limit', to('endpoints', id, { edit: 'rate_limit' })),
    link(action === 'held' ? 'Show what is on hold' : 'Show what waits', to('deliveries', { endpoint_id: id, status: 'pending' })),
    link('Show what failed', to('deliveries', { endpoint_id: id, status: 'failed' })),
  ];
}

function link(label, href) {
  return h('a', { class: 'button', href }, label);
}

function noEndpoints() {
  return empty(
    'No endpoint yet',
    h('p', null, 'An endpoint is where webhooks are sent to. ', mayChange() && h('a', { href: to('endpoints') }, 'Add one here'), mayChange() && ', or on the command line:'),
    commandLine('postrider endpoints add https://example.com/hook'),
    h('p', { class: 'muted' }, 'The signatures follow ', outsideLink('https://www.standardwebhooks.com/'), '.'),
  );
}
