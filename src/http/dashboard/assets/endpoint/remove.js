// Deletes the endpoint, after its host name was typed as confirmation.

import { h } from '../dom.js';
import { path, remove } from '../api.js';
import { field, form } from '../forms.js';
import { go, to } from '../router.js';
import { button, openDialog, toast } from '../ui.js';

export default function removeSection({ id }, { signal }) {
  let endpoint = null;

  const ask = () =>
    openDialog('Delete endpoint', (close) => {
      const host = new URL(endpoint.url).host;
      const text = { autocomplete: 'off', spellcheck: 'false' };
      const typed = h('input', { name: 'confirm', ...text, 'data-testid': 'delete-confirm' });
      const submit = { type: 'submit', class: 'danger', disabled: true, 'data-testid': 'delete-submit' };
      const confirm = h('button', submit, 'Delete permanently');
      const buttons = [h('button', { type: 'button', onclick: close }, 'Cancel'), confirm];
      const check = () => {
        confirm.disabled = typed.value.trim() !== host;
      };
      const warning =
        'Pending deliveries will be marked failed and cannot be retried. The delivery history is kept. ' +
        'This cannot be undone.';
      const fields = [field(`Type ${host} to confirm`, typed)];
      return [
        h('p', null, warning),
        form({ fields, buttons, props: { oninput: check } }, async () => {
          await remove(path`endpoints/${id}`);
          close();
          toast('Deleted');
          go(to('endpoints'));
        }),
      ];
    }, signal);

  const element = h(
    'section',
    { class: 'card' },
    h('h2', null, 'Delete'),
    h('p', { class: 'muted' }, 'To stop deliveries temporarily, pause the endpoint instead.'),
    button('Delete…', ask, { class: 'danger', 'data-testid': 'endpoint-delete' }),
  );
  const update = (now) => {
    endpoint = now;
  };
  return { element, update };
}
