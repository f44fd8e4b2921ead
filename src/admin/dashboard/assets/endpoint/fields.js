// The settings of an endpoint as fields: how each is shown, read and explained. Used to add and to edit one.

import { h } from '../dom.js';
import { field } from '../forms.js';

const text = {
  input: (name, value) => h('input', { name, value: value ?? '', autocomplete: 'off', spellcheck: 'false' }),
  read: (input) => input.value.trim(),
};

/** Emptied, it goes back to the default (null). */
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

const signing = choice(['v1', 'v1: HMAC, a shared secret'], ['v1a', 'v1a: Ed25519, a public key'], ['v1,v1a', 'both']);

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
  url: ['URL', text, 'Where its webhooks are sent to.'],
  description: ['Description', text, 'For people.'],
  tenant: ['Tenant', orDefault, 'Empty: default. It cannot be changed later.'],
  event_types: ['Event types', names, 'Names such as invoice.paid, or a prefix such as invoice.*, with commas between. Empty: all.'],
  rate_limit: ['Rate limit', orDefault, 'Attempt starts in any window: 10/min, 100/s, 5000/h or unlimited. Empty: the default.'],
  concurrency: ['Concurrency', number, 'Attempts in flight at once, 1 to 1,000. Empty: the default.'],
  timeout_ms: ['Time-out (ms)', number, 'For a whole request, 1,000 to 30,000.'],
  retry_delays_s: ['Retry delays (s)', numbers, 'Up to 30, with commas between. Empty: one attempt only.'],
  max_age_s: ['Maximum age (s)', number, 'What waits longer expires.'],
  breaker_after: ['Breaker after', number, 'Failures in a row. 0: never.'],
  ordering: ['Ordering', choice(['none', 'none'], ['key', 'by ordering key, one at a time']), 'Whether events of one ordering key arrive in order.'],
  on_failed: ['When one in order fails', choice(['block', 'block: those behind it wait'], ['skip', 'skip: go on']), 'Only with an ordering key.'],
  signing: ['Signatures', { input: (name, value) => signing.input(name, (value ?? ['v1']).join(',')), read: (input) => input.value.split(',') }, 'Standard Webhooks.'],
  headers: ['Headers', headers, 'One a line. *** keeps the value that is set, which is never shown.'],
};

export const ALL = Object.keys(FIELDS).filter((name) => name !== 'tenant');

/** @returns {{elements: Element[], read: () => object}} the fields called `wanted`, filled from `endpoint` */
export function endpointFields(wanted, endpoint = {}) {
  const made = wanted.map((name) => {
    const [label, kind, hint] = FIELDS[name];
    const input = kind.input(name, endpoint[name]);
    return { name, input, kind, element: field(label, input, hint) };
  });
  return {
    elements: made.map(({ element }) => element),
    read: () => Object.fromEntries(made.map(({ name, input, kind }) => [name, kind.read(input)])),
  };
}
