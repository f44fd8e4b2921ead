// The signing secret: shown only on request, and rotated.

import { h, replace } from '../dom.js';
import { get, path, post } from '../api.js';
import { field, form } from '../forms.js';
import { filterSelect } from '../listing.js';
import { button, copyButton, openDialog, toast } from '../ui.js';

const GRACES = [
  ['86400', '1 day'],
  ['3600', '1 hour'],
  ['604800', '7 days'],
  ['0', 'none: the old secret stops working now'],
];

export default function secretSection({ id }, { signal }) {
  const place = h('div');
  const revealing = button('Reveal', reveal, { 'data-testid': 'secret-reveal' });
  const hiding = button('Hide', hide, { hidden: true });

  function show(secret) {
    replace(place, h('div', { class: 'command' }, h('code', { class: 'break', 'data-testid': 'secret-value' }, secret), copyButton(() => secret)));
    revealing.hidden = true;
    hiding.hidden = false;
  }
  function hide() {
    replace(place);
    revealing.hidden = false;
    hiding.hidden = true;
  }
  async function reveal() {
    const { secret } = await get(path`endpoints/${id}/secret`, {}, signal);
    show(secret);
  }

  const rotate = () =>
    openDialog('Rotate secret', (close) => {
      const grace = filterSelect('grace_s', GRACES);
      const submit = { type: 'submit', class: 'primary', 'data-testid': 'secret-rotate-confirm' };
      const cancel = h('button', { type: 'button', onclick: close }, 'Cancel');
      const buttons = [cancel, h('button', submit, 'Rotate')];
      const hint = 'Both secrets sign until the receiver has switched to the new one.';
      const fields = [field('Grace period', grace, hint)];
      return form({ fields, buttons }, async () => {
        const { secret } = await post(path`endpoints/${id}/secret/rotate`, { grace_s: Number(grace.value) });
        close();
        show(secret);
        toast('Secret rotated. Give the new secret to the receiver.');
      });
    }, signal);

  const element = h(
    'section',
    { class: 'card' },
    h('h2', null, 'Secret'),
    h('p', { class: 'muted' }, 'The receiver uses this secret to verify signatures.'),
    place,
    h('div', { class: 'actions' }, revealing, hiding, button('Rotate…', rotate, { 'data-testid': 'secret-rotate' })),
  );
  return { element };
}
