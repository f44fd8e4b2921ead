// The state of the endpoint, its reason and remedy, and the actions on the endpoint.

import { h, replace } from '../dom.js';
import { path, post } from '../api.js';
import { count, duration, when } from '../format.js';
import { to } from '../router.js';
import { mayChange } from '../session.js';
import { badge, button, facts, ticks, toast } from '../ui.js';
import { explainEndpoint, isResumable } from '../words.js';
import { secondsUntil } from '../clock.js';

export default function stateSection(endpoint, { changed }) {
  const { id } = endpoint;
  const words = h('div', { class: 'state-words' });
  const numbers = h('div');

  const resume = async () => {
    changed(await post(path`endpoints/${id}/resume`));
    toast('Resumed');
  };
  const pause = async () => {
    changed(await post(path`endpoints/${id}/pause`));
    toast('Paused. Pending deliveries are kept.');
  };
  const test = async () => {
    const { delivery_id: delivery } = await post(path`endpoints/${id}/test`);
    toast(['Test sent. ', delivery && h('a', { href: to('deliveries', delivery) }, 'View result')]);
  };
  const buttons = {
    resume: button('Resume', resume, { class: 'primary', 'data-testid': 'endpoint-resume' }),
    pause: button('Pause', pause, { 'data-testid': 'endpoint-pause' }),
    test: button('Send test', test, { 'data-testid': 'endpoint-test' }),
  };

  const update = (now) => {
    const explained = explainEndpoint(now);
    const { health } = now;
    const todo = explained.todo && h('strong', { class: 'todo' }, explained.todo);
    const reason = h('p', null, ticks(explained.why, { class: 'why' }), ' ', todo);
    replace(words, badge(explained, { 'data-testid': 'endpoint-state' }), reason);
    const oldest = health.oldest_pending_at;
    replace(
      numbers,
      facts([
        ['Pending', count(health.pending)],
        ['In flight', count(health.sending)],
        ['On hold', count(health.held)],
        ['Oldest pending', oldest && ticks(() => duration(-secondsUntil(oldest)))],
        ['Drains in', health.estimated_drain_s && duration(health.estimated_drain_s)],
        ['Consecutive failures', count(health.consecutive_failures)],
        ['Created', when(now.created_at)],
      ], { class: 'facts inline' }),
    );
    buttons.resume.hidden = !isResumable(now);
    buttons.pause.hidden = now.status === 'paused';
  };

  const actions = mayChange() && h('div', { class: 'actions' }, Object.values(buttons));
  return { element: h('section', { class: 'card state' }, words, actions, numbers), update };
}
