// The timeline of a delivery's attempts. Each can be expanded to show its request and response.

import { h, replace } from './dom.js';
import { milliseconds, plural, pretty, when } from './format.js';
import { showKeyed } from './keyed.js';
import { badge, facts } from './ui.js';
import { outcomeInWords } from './words.js';

/** @returns {{element: Element, update: (attempts: object[]) => void}} oldest first; open ones stay open */
export function attempts() {
  const list = h('ol', { class: 'attempts' });
  const none = h('p', { class: 'muted' }, 'No attempts yet.');
  const title = h('h2', null, 'Attempts');
  const update = (all) => {
    title.textContent = all.length ? plural(all.length, 'attempt') : 'Attempts';
    none.hidden = all.length > 0;
    showKeyed(list, all, ({ id }) => id, attemptRow);
  };
  return { element: h('section', { class: 'card' }, title, none, list), update };
}

function attemptRow(attempt) {
  const { outcome, status_code: status } = attempt;
  const tone = { delivered: 'ok', interrupted: 'idle', connection_lost: 'idle' }[outcome] ?? 'bad';
  const more = h('div', { class: 'attempt-more' });
  const details = h(
    'details',
    { ontoggle: () => details.open && !more.hasChildNodes() && replace(more, contentsOf(attempt)) },
    h(
      'summary',
      null,
      h('span', { class: 'attempt-number' }, attempt.number === null ? '–' : `#${attempt.number}`),
      badge({ tone, label: outcomeInWords(outcome) }),
      status !== null && h('span', { class: 'strong' }, `HTTP ${status}`),
      h('span', null, milliseconds(attempt.duration_ms)),
      h('time', { class: 'muted', datetime: attempt.started_at }, when(attempt.started_at)),
      attempt.error && h('span', { class: 'attempt-error break' }, attempt.error),
    ),
    more,
  );
  return h('li', { 'data-testid': 'attempt-row' }, details);
}

function contentsOf(attempt) {
  const { dns, connect, first_byte: firstByte } = attempt.timings_ms ?? {};
  return [
    facts([
      ['Resolved after', milliseconds(dns)],
      ['Connected after', milliseconds(connect)],
      ['First byte after', milliseconds(firstByte)],
      ['Total', milliseconds(attempt.duration_ms)],
      ['Sent to', attempt.remote_address],
    ], { class: 'facts inline' }),
    part('Request headers', headerLines(attempt.request_headers)),
    part('Response headers', headerLines(attempt.response_headers)),
    part('Response body', attempt.response_body && pretty(attempt.response_body)),
  ];
}

function part(title, text) {
  return text && [h('h3', null, title), h('pre', { class: 'payload', tabindex: 0 }, text)];
}

function headerLines(headers) {
  return headers && Object.entries(headers).map(([name, value]) => `${name}: ${value}`).join('\n');
}
