// Forms: labelled fields, and validation errors of the server shown at their fields.

import { h, replace } from './dom.js';
import { Problem } from './api.js';
import { busy, report } from './ui.js';

let fieldNumber = 0;

/** A label, an input, a hint, and a place for its error. `input` needs a name. */
export function field(label, input, hint = '') {
  const id = `field-${++fieldNumber}`;
  input.id = id;
  input.setAttribute('aria-describedby', `${id}-hint ${id}-error`);
  return h(
    'div',
    { class: 'field', 'data-field': input.name },
    h('label', { for: id }, label),
    input,
    h('p', { class: 'hint', id: `${id}-hint` }, hint),
    h('p', { class: 'field-error', id: `${id}-error`, role: 'alert' }),
  );
}

/**
 * A form submitted with `send`, which is called with the button that was used. Errors of a problem are shown
 * at their fields; errors without a field in the form are shown above the buttons.
 */
export function form({ fields, buttons, props = {} }, send) {
  const other = h('p', { class: 'form-error', role: 'alert' });
  const element = h('form', { novalidate: true, ...props }, fields, other, h('div', { class: 'form-buttons' }, buttons));
  element.addEventListener('submit', (event) => {
    event.preventDefault();
    clearErrors(element, other);
    const submit = event.submitter ?? element.querySelector('[type="submit"]');
    busy(submit, () => send(submit).catch((error) => showErrors(element, other, error)));
  });
  return element;
}

function clearErrors(element, other) {
  replace(other);
  for (const place of element.querySelectorAll('.field-error')) replace(place);
  for (const input of element.querySelectorAll('[aria-invalid]')) input.removeAttribute('aria-invalid');
}

function showErrors(element, other, error) {
  if (!(error instanceof Problem) || error.errors.length === 0) {
    if (error instanceof Problem && error.status < 500 && error.status > 0) replace(other, error.message);
    else report(error);
    return;
  }
  const rest = error.errors.filter((wrong) => !showAtField(element, wrong));
  replace(other, rest.map(({ field: name, detail }) => `${name}: ${detail}`).join('; '));
  element.querySelector('[aria-invalid]')?.focus();
}

/** An error of `retry_delays_s[2]` or `headers.x-team` is shown at the field before the bracket or dot. */
function showAtField(element, { field: name, detail }) {
  const place = element.querySelector(`[data-field="${CSS.escape(name.split(/[.[]/)[0])}"]`);
  if (!place) return false;
  place.querySelector('input, select, textarea').setAttribute('aria-invalid', 'true');
  place.querySelector('.field-error').append(`${name === place.getAttribute('data-field') ? '' : `${name} `}${detail}. `);
  return true;
}
