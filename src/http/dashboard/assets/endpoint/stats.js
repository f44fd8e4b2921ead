// Recent statistics of the endpoint: counts, success rate and durations, for a selectable window.

import { h, replace } from '../dom.js';
import { get, path } from '../api.js';
import { chart } from '../chart.js';
import { count, milliseconds, percent } from '../format.js';
import { filterSelect } from '../listing.js';
import * as live from '../live.js';
import { facts, failure, loading } from '../ui.js';
import { outcomeInWords } from '../words.js';

const WINDOWS = [['1h', 'last hour'], ['6h', 'last 6 hours'], ['24h', 'last 24 hours']];
const REFRESH_MS = 10_000;

export default function statsSection({ id }, { signal }) {
  const body = h('div', null, loading('chart'));
  const picker = filterSelect('window', WINDOWS, { 'aria-label': 'Window', onchange: () => load() });

  async function load() {
    const window = picker.value;
    try {
      const stats = await get(path`endpoints/${id}/stats`, { window }, signal);
      if (window === picker.value) replace(body, statsOf(stats));
    } catch (error) {
      if (error.name !== 'AbortError') replace(body, failure(error, load));
    }
  }

  load();
  const head = h('div', { class: 'page-head' }, h('h2', null, 'Attempts'), picker);
  return { element: h('section', { class: 'card' }, head, body), update: live.gently(load, REFRESH_MS, signal) };
}

function statsOf({ attempts, success_rate: rate, duration_ms: took, deliveries, outcomes, series }) {
  const failed = Object.entries(outcomes).filter(([name, number]) => name !== 'delivered' && number > 0);
  const states = ['delivered', 'failed', 'pending', 'sending'];
  const byState = states.map((state) => `${count(deliveries[state] ?? 0)} ${state}`).join(', ');
  const byOutcome = failed.map(([name, number]) => `${outcomeInWords(name)} (${count(number)})`).join(', ');
  return [
    facts([
      ['Attempts', count(attempts)],
      ['Success rate', percent(rate)],
      ['p50', milliseconds(took?.p50)],
      ['p95', milliseconds(took?.p95)],
      ['p99', milliseconds(took?.p99)],
    ], { class: 'facts inline' }),
    chart(series),
    h('p', { class: 'muted' }, `Deliveries: ${byState}.`),
    failed.length > 0 && h('p', { class: 'muted' }, `Failures: ${byOutcome}.`),
  ];
}
