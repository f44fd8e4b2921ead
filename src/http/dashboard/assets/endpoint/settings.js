// The settings form: sends only changed fields, and is not refreshed while it has unsaved changes.

import { h, replace } from '../dom.js';
import { patch, path } from '../api.js';
import { form } from '../forms.js';
import { mayChange } from '../session.js';
import { copyButton, toast } from '../ui.js';
import { ALL, endpointFields } from './fields.js';

export default function settingsSection(endpoint, { changed, edit }) {
  const place = h('div');
  const key = h('div');
  let shownAs = null;
  let focus = edit;

  const saved = (now) => {
    shownAs = null; // show the settings as the server stored them
    toast('Saved. The settings apply immediately.');
    changed(now);
  };
  const update = (now) => {
    const settings = JSON.stringify(ALL.map((name) => now[name]));
    const typing = place.firstElementChild?.hasAttribute('data-changed');
    if (settings === shownAs || typing) return;
    shownAs = settings;
    replace(place, settingsForm(now, saved));
    replace(key, now.public_key && publicKey(now.public_key));
    if (focus) {
      place.querySelector(`[name="${CSS.escape(focus)}"]`)?.focus();
      focus = null; // only once, when the page is opened
    }
  };
  return { element: h('section', { class: 'card' }, h('h2', null, 'Settings'), place, key), update };
}

function settingsForm(endpoint, whenSaved) {
  const fields = endpointFields(ALL, { ...endpoint, breaker_after: endpoint.breaker_after ?? 0 });
  const before = fields.read();
  const save = h('button', { type: 'submit', class: 'primary', disabled: true, 'data-testid': 'endpoint-save' }, 'Save');
  const changes = () => {
    const now = fields.read();
    return Object.fromEntries(Object.entries(now).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])));
  };
  const noteChanges = () => {
    const any = Object.keys(changes()).length > 0;
    save.disabled = !any;
    element.toggleAttribute('data-changed', any);
  };
  const element = form({ fields: fields.elements, buttons: mayChange() ? [save] : [], props: { class: 'settings', oninput: noteChanges } }, async () => {
    const now = await patch(path`endpoints/${endpoint.id}`, changes());
    element.removeAttribute('data-changed');
    whenSaved(now);
  });
  if (!mayChange()) for (const input of element.elements) input.disabled = true;
  return element;
}

function publicKey(key) {
  return [h('h3', null, 'Public key'), h('div', { class: 'command' }, h('code', { class: 'break' }, key), copyButton(() => key))];
}
