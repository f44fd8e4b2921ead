// Shared parts of all pages: badges, buttons, dialogs, toasts, empty and error states.

import { h, svg } from './dom.js';
import { ticking } from './clock.js';
import { Problem } from './api.js';
import { adviceFor } from './words.js';

const TOAST_MS = 6000;
const MAX_TOASTS = 3;

/** One shape per tone, so that tones are not distinguished only by colour. */
const SHAPES = {
  ok: 'M3 8.5 6.5 12 13 4.5',
  busy: 'M8 3.5V8l3 2M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0Z',
  warn: 'M8 2.5 14.5 13.5H1.5ZM8 7v3M8 11.8v.2',
  bad: 'M4 4l8 8M12 4l-8 8',
  idle: 'M6 4v8M10 4v8',
};

export function badge({ tone, label }, props = {}) {
  const icon = svg('svg', { viewBox: '0 0 16 16', class: 'icon', 'aria-hidden': 'true' }, svg('path', { d: SHAPES[tone] }));
  return h('span', { class: `badge ${tone}`, ...props }, icon, label);
}

/** Text that is updated with `text()` every second. */
export function ticks(text, props) {
  return ticking(h('span', props), text);
}

/** A button with an asynchronous action: disabled while it runs; a failure is shown as a toast. */
export function button(label, action, props = {}) {
  const element = h('button', { type: 'button', ...props, onclick: () => busy(element, action) }, label);
  return element;
}

/** Runs `action` with `element` disabled. */
export async function busy(element, action) {
  element.disabled = true;
  try {
    await action();
  } catch (error) {
    report(error);
  } finally {
    element.disabled = false;
  }
}

/** @param {string|Array} message text, or text and links */
export function toast(message, tone = 'ok') {
  const element = h('div', { class: `toast ${tone}`, 'data-testid': 'toast' }, message);
  const toasts = document.getElementById('toasts');
  toasts.append(element);
  if (toasts.children.length > MAX_TOASTS) toasts.firstElementChild.remove();
  setTimeout(() => element.remove(), TOAST_MS);
}

/** Shows an error as a toast. Requests aborted because the user left the page are ignored. */
export function report(error) {
  if (error.name === 'AbortError') return;
  if (!(error instanceof Problem)) {
    console.error(error);
    toast(`Error in the dashboard: ${error.message}`, 'bad');
    return;
  }
  const fields = error.errors.map(({ field, detail }) => `${field}: ${detail}`).join('; ');
  toast([error.title, fields || error.message, adviceFor(error)].filter(Boolean).map(sentence).join(' '), 'bad');
}

/** An error shown instead of the content that could not be loaded. */
export function failure(problem, again) {
  return h(
    'div',
    { class: 'notice bad', role: 'alert' },
    h('h2', null, problem.title ?? 'Something went wrong'),
    h('p', null, [problem.message, adviceFor(problem)].filter(Boolean).map(sentence).join(' ')),
    again && button('Try again', again),
  );
}

/** An empty state: what is missing, and what to do. */
export function empty(title, ...todo) {
  return h('div', { class: 'notice' }, h('h2', null, title), ...todo);
}

export function commandLine(text) {
  return h('div', { class: 'command' }, h('pre', null, text), copyButton(() => text));
}

export function copyButton(text, label = 'Copy', props = {}) {
  return button(
    label,
    async () => {
      await navigator.clipboard.writeText(text());
      toast('Copied');
    },
    { class: 'small', ...props },
  );
}

/**
 * A modal dialog, closed with Esc, with its close button or by calling `close`.
 * @param {(close: () => void) => Node|Node[]} content
 */
export function openDialog(title, content, signal) {
  const dialog = h('dialog', { 'aria-label': title, onclose: () => dialog.remove() });
  const close = () => dialog.close();
  const head = h('header', null, h('h2', null, title), h('button', { type: 'button', class: 'quiet', 'aria-label': 'Close', onclick: close }, '✕'));
  dialog.append(head, ...[content(close)].flat());
  document.body.append(dialog);
  signal?.addEventListener('abort', close);
  dialog.showModal();
}

/** A grey placeholder of about the size of the content being loaded. */
export function loading(kind = 'rows') {
  return h('div', { class: `skeleton ${kind}`, role: 'status' }, h('span', { class: 'visually-hidden' }, 'Loading…'));
}

/** Name and value pairs. Pairs whose value is null are omitted. */
export function facts(pairs, props = {}) {
  const given = pairs.filter(([, value]) => value !== null && value !== undefined);
  return h('dl', { class: 'facts', ...props }, given.map(([name, value]) => h('div', null, h('dt', null, name), h('dd', null, value))));
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?:]$/.test(begun) ? begun : `${begun}.`;
}
