// Recovering: everything that failed in a span of time, or never came, is sent again.

import { h, replace } from '../dom.js';
import { get, path, post } from '../api.js';
import { now } from '../clock.js';
import { field, form } from '../forms.js';
import { count, fromLocalInput, plural, toLocalInput } from '../format.js';
import { filterSelect } from '../listing.js';
import { report, toast } from '../ui.js';

const INCLUDES = [['failed', 'what failed'], ['missing', 'what it never got'], ['all', 'both']];
const DAY_MS = 86_400_000;
const POLL_MS = 1000;

export default function recoverSection({ id }, { signal }) {
  const since = h('input', { type: 'datetime-local', name: 'since', step: 1, value: toLocalInput(now() - DAY_MS), 'data-testid': 'recover-since' });
  const until = h('input', { type: 'datetime-local', name: 'until', step: 1, 'data-testid': 'recover-until' });
  const include = filterSelect('include', INCLUDES, { 'data-testid': 'recover-include' });
  const preview = h('button', { type: 'submit', 'data-testid': 'recover-preview' }, 'Preview');
  const start = h('button', { type: 'submit', class: 'primary', hidden: true, 'data-testid': 'recover-start' }, 'Start');
  const result = h('div', { 'aria-live': 'polite' });

  const span = () => {
    const asked = { since: fromLocalInput(since.value), include: include.value };
    return until.value ? { ...asked, until: fromLocalInput(until.value) } : asked;
  };
  const showPreview = async () => {
    const { failed, missing, capped } = await post(path`endpoints/${id}/recover/preview`, span());
    const number = failed + missing;
    start.hidden = number === 0;
    replace(
      result,
      h('p', null, h('strong', { 'data-testid': 'recover-preview-count' }, `${count(number)}${capped ? '+' : ''}`), number === 1 ? ' delivery' : ' deliveries', ` would be sent again: ${count(failed)} failed, ${count(missing)} missing.`),
      number === 0 && h('p', { class: 'muted' }, 'Nothing to do in this span. Choose another.'),
    );
  };
  const begin = async () => {
    const recovery = await post(path`endpoints/${id}/recover`, span());
    start.hidden = true;
    follow(recovery).catch(report);
  };

  /** Shows how far a recovery is, each second, until it is done. */
  async function follow(recovery) {
    const bar = h('progress', { 'aria-label': 'Recovery' });
    const text = h('p');
    replace(result, h('div', { 'data-testid': 'recover-progress' }, bar, text));
    for (let state = recovery; ; state = await get(path`recoveries/${recovery.id}`, {}, signal)) {
      const done = state.status === 'done';
      bar.max = Math.max(1, state.matched);
      bar.value = done ? bar.max : state.requeued;
      text.textContent = `${done ? 'Done' : 'Running'}: ${plural(state.matched, 'delivery', 'deliveries')} found, ${count(state.requeued)} wait to be sent again.`;
      if (done) break;
      await new Promise((next) => setTimeout(next, POLL_MS));
    }
    toast('The recovery is done.');
  }

  // What was previewed is what is started: a change of the span asks for a new preview.
  const outdate = () => {
    start.hidden = true;
  };
  const fields = [
    field('Since', since, 'In your time zone.'),
    field('Until', until, 'Empty: now.'),
    field('What', include, 'What was cancelled, or delivered before, is left out.'),
  ];
  const element = form({ fields, buttons: [preview, start], props: { oninput: outdate, class: 'recover' } }, (button) => (button === start ? begin() : showPreview()));
  return { element: h('section', { class: 'card' }, h('h2', null, 'Recover'), h('p', { class: 'muted' }, 'Sends again what failed while the receiver was away.'), element, result) };
}
