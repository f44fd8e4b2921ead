// The secret: shown on demand only, and rotated.

import { h, replace } from '../dom.js';
import { get, path, post } from '../api.js';
import { field, form } from '../forms.js';
import { filterSelect } from '../listing.js';
import { button, copyButton, openDialog, toast } from '../ui.js';

const GRACES = [['86400', '1 day'], ['3600', '1 hour'], ['604800', '7 days'], ['0', 'none: the old one ends at once']];

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
    openDialog('Rotate the secret', (close) => {
      const grace = filterSelect('grace_s', GRACES);
      const buttons = [h('button', { type: 'button', onclick: close }, 'Back'), h('button', { type: 'submit', class: 'primary', 'data-testid': 'secret-rotate-confirm' }, 'Rotate')];
      const fields = [field('Both secrets sign for', grace, 'As long as the receiver needs to take the new one.')];
      return form({ fields, buttons }, async () => {
        const { secret } = await post(path`endpoints/${id}/secret/rotate`, { grace_s: Number(grace.value) });
        close();
        show(secret);
        toast('Rotated. Give the new secret to the receiver.');
      });
    }, signal);

  const element = h(
    'section',
    { class: 'card' },
    h('h2', null, 'Secret'),
    h('p', { class: 'muted' }, 'With it the receiver checks that a webhook is from here.'),
    place,
    h('div', { class: 'actions' }, revealing, hiding, button('Rotate…', rotate, { 'data-testid': 'secret-rotate' })),
  );
  return { element };
}
