// Deleting the endpoint, once its host's name has been typed.

import { h } from '../dom.js';
import { path, remove } from '../api.js';
import { field, form } from '../forms.js';
import { go, to } from '../router.js';
import { button, openDialog, toast } from '../ui.js';

export default function removeSection({ id }, { signal }) {
  let endpoint = null;

  const ask = () =>
    openDialog('Delete this endpoint', (close) => {
      const host = new URL(endpoint.url).host;
      const typed = h('input', { name: 'confirm', autocomplete: 'off', spellcheck: 'false', 'data-testid': 'delete-confirm' });
      const yes = h('button', { type: 'submit', class: 'danger', disabled: true, 'data-testid': 'delete-submit' }, 'Delete for good');
      const check = () => {
        yes.disabled = typed.value.trim() !== host;
      };
      return [
        h('p', null, 'What waits for it becomes failed and cannot be retried. Its history stays readable. This cannot be undone.'),
        form({ fields: [field(`Type ${host} to go on`, typed)], buttons: [h('button', { type: 'button', onclick: close }, 'Back'), yes], props: { oninput: check } }, async () => {
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
    h('p', { class: 'muted' }, 'To stop for a while, pause it instead.'),
    button('Delete…', ask, { class: 'danger', 'data-testid': 'endpoint-delete' }),
  );
  const update = (now) => {
    endpoint = now;
  };
  return { element, update };
}
