// The settings of an endpoint as form fields, for adding and for editing endpoints.

import { h } from '../dom.js';
import { field } from '../forms.js';

const text = {
  input: (name, value) => h('input', { name, value: value ?? '', autocomplete: 'off', spellcheck: 'false' }),
  read: (input) => input.value.trim(),
};

/** If empty, the setting is reset to its default (null). */
const orDefault = { ...text, read: (input) => input.value.trim() || null };

const number = {
  input: (name, value) => h('input', { name, type: 'number', min: 0, value: value ?? '' }),
  read: (input) => (input.value === '' ? null : Number(input.value)),
};

const names = {
  input: (name, value) => h('input', { name, value: (value ?? []).join(', '), autocomplete: 'off', spellcheck: 'false' }),
  read: (input) => input.value.split(/[\s,]+/).filter(Boolean),
};

const numbers = { ...names, read: (input) => names.read(input).map((part) => (Number.isFinite(Number(part)) ? Number(part) : part)) };

const choice = (...options) => ({
  input: (name, value) => h('select', { name }, options.map(([option, label]) => h('option', { value: option, selected: option === String(value ?? options[0][0]) }, label))),
  read: (input) => input.value,
});

const signing = choice(
  ['v1', 'v1: HMAC with a shared secret'],
  ['v1a', 'v1a: Ed25519 with a key pair'],
  ['v1,v1a', 'both'],
);

const signatures = {
  input: (name, value) => signing.input(name, (value ?? ['v1']).join(',')),
  read: (input) => input.value.split(','),
};

const headers = {
  input: (name, value) => h('textarea', { name, rows: 3, spellcheck: 'false', placeholder: 'x-team: billing' }, Object.entries(value ?? {}).map(([key, shown]) => `${key}: ${shown}`).join('\n')),
  read: (input) =>
    Object.fromEntries(
      input.value.split('\n').filter((line) => line.trim()).map((line) => {
        const [name, ...rest] = line.split(':');
        return [name.trim(), rest.join(':').trim()];
      }),
    ),
};

/** name: [label, kind, hint] */
const FIELDS = {
  url: ['URL', text, 'Webhooks are sent to this URL.'],
  description: ['Description', text, 'Shown in lists.'],
  tenant: ['Tenant', orDefault, 'If empty: the tenant “default”. It cannot be changed later.'],
  event_types: [
    'Event types',
    names,
    'Exact names (invoice.paid) or prefixes (invoice.*), comma-separated. If empty: all.',
  ],
  rate_limit: [
    'Rate limit',
    orDefault,
    'Maximum attempt starts: 10/min, 100/s, 5000/h or unlimited. If empty: the default.',
  ],
  concurrency: ['Concurrency', number, 'Maximum attempts in flight, 1 to 1,000. If empty: the default.'],
  timeout_ms: ['Timeout (ms)', number, 'For the whole request, 1,000 to 30,000.'],
  retry_delays_s: ['Retry delays (s)', numbers, 'Up to 30, comma-separated. If empty: no retries.'],
  max_age_s: ['Maximum age (s)', number, 'Deliveries waiting longer than this expire.'],
  breaker_after: ['Open breaker after', number, 'Number of consecutive failures. 0 disables the breaker.'],
  ordering: [
    'Ordering',
    choice(['none', 'none'], ['key', 'by ordering key, one at a time']),
    'Delivers events with the same ordering key in order.',
  ],
  on_failed: [
    'When an ordered delivery fails',
    choice(['block', 'block: later deliveries wait'], ['skip', 'skip: continue with the next']),
    'Applies only to ordering by key.',
  ],
  signing: ['Signatures', signatures, 'Signature schemes of Standard Webhooks.'],
  headers: ['Headers', headers, 'One per line. *** keeps the current value, which is never shown.'],
};

export const ALL = Object.keys(FIELDS).filter((name) => name !== 'tenant');

/** @returns {{elements: Element[], read: () => object}} the fields in `selected`, filled from `endpoint` */
export function endpointFields(selected, endpoint = {}) {
  const fields = selected.map((name) => {
    const [label, kind, hint] = FIELDS[name];
    const input = kind.input(name, endpoint[name]);
    return { name, input, kind, element: field(label, input, hint) };
  });
  return {
    elements: fields.map(({ element }) => element),
    read: () => Object.fromEntries(fields.map(({ name, input, kind }) => [name, kind.read(input)])),
  };
}
