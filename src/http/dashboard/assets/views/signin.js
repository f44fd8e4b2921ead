// The sign-in page: exchanges a token for a session.

import { h, replace } from '../dom.js';
import { Problem } from '../api.js';
import { field, form } from '../forms.js';
import { signIn } from '../session.js';

export default function signInView({ root, setTitle, onSignedIn }) {
  setTitle('Sign in');
  const props = { name: 'token', type: 'password', autocomplete: 'off', required: true };
  const input = h('input', { ...props, 'data-testid': 'token-input' });
  const send = async () => {
    const token = input.value.trim();
    if (!token) throw wrong('Enter a token');
    await signIn(token).catch((problem) => {
      throw problem.status === 401 ? wrong('Invalid token') : problem;
    });
    onSignedIn();
  };
  const hint = "The server's token is in POSTRIDER_API_TOKEN, or in postrider.db.token next to the database.";
  const button = h('button', { type: 'submit', class: 'primary', 'data-testid': 'sign-in' }, 'Sign in');
  replace(
    root,
    h('section', { class: 'card sign-in' }, h('h1', null, 'Sign in'), form({ fields: [field('API token', input, hint)], buttons: [button] }, send)),
  );
  input.focus();
}

function wrong(detail) {
  return new Problem(422, { errors: [{ field: 'token', detail }] });
}
