// Recovery: queues the failed deliveries of a time range again, and creates missing ones.

import { h, replace } from '../dom.js';
import { get, path, post } from '../api.js';
import { now } from '../clock.js';
import { field, form } from '../forms.js';
import { count, fromLocalInput, plural, toLocalInput } from '../format.js';
import { filterSelect } from '../listing.js';
import { report, toast } from '../ui.js';

const INCLUDES = [['failed', 'failed deliveries'], ['missing', 'events it never received'], ['all', 'both']];
const DAY_MS = 86_400_000;
const POLL_MS = 1000;

export default function recoverSection({ id }, { signal }) {
  const since = h('input', { type: 'datetime-local', name: 'since', step: 1, value: toLocalInput(now() - DAY_MS), 'data-testid': 'recover-since' });
  const until = h('input', { type: 'datetime-local', name: 'until', step: 1, 'data-testid': 'recover-until' });
  const include = filterSelect('include', INCLUDES, { 'data-testid': 'recover-include' });
  const preview = h('button', { type: 'submit', 'data-testid': 'recover-preview' }, 'Preview');
  const start = h('button', { type: 'submit', class: 'primary', hidden: true, 'data-testid': 'recover-start' }, 'Start');
  const result = h('div', { 'aria-live': 'polite' });

  const range = () => {
    const body = { since: fromLocalInput(since.value), include: include.value };
    return until.value ? { ...body, until: fromLocalInput(until.value) } : body;
  };
  const showPreview = async () => {
    const { failed, missing, capped } = await post(path`endpoints/${id}/recover/preview`, range());
    const number = failed + missing;
    const total = `${count(number)}${capped ? '+' : ''}`;
    start.hidden = number === 0;
    replace(
      result,
      h(
        'p',
        null,
        h('strong', { 'data-testid': 'recover-preview-count' }, total),
        number === 1 ? ' delivery' : ' deliveries',
        ` would be queued: ${count(failed)} failed, ${count(missing)} missing.`,
      ),
      number === 0 && h('p', { class: 'muted' }, 'Nothing to recover in this time range. Choose another.'),
    );
  };
  const begin = async () => {
    const recovery = await post(path`endpoints/${id}/recover`, range());
    start.hidden = true;
    follow(recovery).catch(report);
  };

  /** Shows the progress of a recovery every second until it is done. */
  async function follow(recovery) {
    const bar = h('progress', { 'aria-label': 'Recovery' });
    const text = h('p');
    replace(result, h('div', { 'data-testid': 'recover-progress' }, bar, text));
    for (let state = recovery; ; state = await get(path`recoveries/${recovery.id}`, {}, signal)) {
      const done = state.status === 'done';
      bar.max = Math.max(1, state.matched);
      bar.value = done ? bar.max : state.requeued;
      const found = plural(state.matched, 'delivery', 'deliveries');
      text.textContent = `${done ? 'Done' : 'Running'}: ${found} found, ${count(state.requeued)} queued.`;
      if (done) break;
      await new Promise((next) => setTimeout(next, POLL_MS));
    }
    toast('Recovery done. The deliveries are queued.');
  }

  // Only a previewed time range can be started: changing it requires a new preview.
  const invalidatePreview = () => {
    start.hidden = true;
  };
  const fields = [
    field('Since', since, 'In your time zone.'),
    field('Until', until, 'If empty: now.'),
    field('Include', include, 'Cancelled and already delivered deliveries are skipped.'),
  ];
  const props = { oninput: invalidatePreview, class: 'recover' };
  const submit = (button) => (button === start ? begin() : showPreview());
  const element = form({ fields, buttons: [preview, start], props }, submit);
  const hint = h('p', { class: 'muted' }, 'Resends deliveries that failed while the receiver was down.');
  return { element: h('section', { class: 'card' }, h('h2', null, 'Recover'), hint, element, result) };
}
