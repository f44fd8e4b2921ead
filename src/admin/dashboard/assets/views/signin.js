// The sign-in page: a token is exchanged for a session.

import { h, replace } from '../dom.js';
import { Problem } from '../api.js';
import { field, form } from '../forms.js';
import { signIn } from '../session.js';

export default function signInView({ root, setTitle, onSignedIn }) {
  setTitle('Sign in');
  const input = h('input', { name: 'token', type: 'password', autocomplete: 'off', required: true, 'data-testid': 'token-input' });
  const send = async () => {
    const token = input.value.trim();
    if (!token) throw wrong('Paste a token.');
    await signIn(token).catch((problem) => {
      throw problem.status === 401 ? wrong('The server does not know this token.') : problem;
    });
    onSignedIn();
  };
  const hint = 'The server made one at its first start: it is in postrider.db.token, beside the database. Otherwise it is what POSTRIDER_API_TOKEN was set to.';
  const button = h('button', { type: 'submit', class: 'primary', 'data-testid': 'sign-in' }, 'Sign in');
  replace(
    root,
    h('section', { class: 'card sign-in' }, h('h1', null, 'Sign in'), form({ fields: [field('API token', input, hint)], buttons: [button] }, send)),
  );
  input.focus();
}

function wrong(detail) {
  return new Problem(422, { errors: [{ field: 'token', detail: detail.replace(/\.$/, '') }] });
}
