// What a state means, in words: why an endpoint or a delivery is as it is, and what to do about it.
//
// `why` goes on where the label stops; it is a function, because it may count seconds.

import { count, duration, plural } from './format.js';
import { secondsUntil } from './clock.js';

/** More waiting than this long is worth an operator's look. */
const LONG_DRAIN_S = 60;

const inTime = (time) => (time && secondsUntil(time) >= 1 ? `in ${duration(secondsUntil(time))}` : 'now');

const PAUSES = {
  operator: ['By an operator.', 'Resume it when the receiver is ready.'],
  gone: ['The receiver answered 410 Gone.', 'Fix the URL, then resume.'],
  failing: [
    'It has not accepted anything for days.',
    'Have the receiver mended, send a test, then resume and recover what failed.',
  ],
};

/**
 * @typedef {object} Explained
 * @property {'ok'|'busy'|'warn'|'bad'|'idle'} tone
 * @property {string} label one or two words, for the badge
 * @property {() => string} why
 * @property {string} todo what to do; empty where nothing is
 * @property {'rate'|'held'|null} action what helps, besides to resume it
 */

/** @returns {Explained} */
export function explainEndpoint(endpoint) {
  const { health } = endpoint;
  const waiting = plural(health.pending, 'delivery', 'deliveries');
  const wait = health.pending === 1 ? 'waits' : 'wait';
  const explained = (tone, label, why, todo, action) => ({ tone, label, why, todo, action });

  if (endpoint.status === 'paused') {
    const [why, todo] = PAUSES[endpoint.pause_reason] ?? ['For a reason that is new to this page.', 'Resume it.'];
    const tone = endpoint.pause_reason === 'operator' ? 'idle' : 'bad';
    return explained(tone, 'Paused', () => `${why} ${waiting} ${wait}.`, todo, null);
  }
  if (health.breaker === 'open') {
    const failures = plural(health.consecutive_failures, 'failure');
    const why = () => `After ${failures} in a row: next probe ${inTime(health.next_probe_at)}. ${waiting} ${wait}.`;
    return explained('bad', 'Breaker open', why, 'See why it fails and mend the receiver. A probe that succeeds closes the breaker; so does Resume, at once.', null);
  }
  if (health.breaker === 'half_open') {
    const why = () => `After ${plural(health.consecutive_failures, 'failure')} it is being tried again, little by little. ${waiting} ${wait}.`;
    return explained('warn', 'Probing', why, 'Nothing to do, if the receiver answers again.', null);
  }
  if (health.hold_until && secondsUntil(health.hold_until) > 0) {
    const why = () => `The receiver asked to be left alone (Retry-After); goes on ${inTime(health.hold_until)}. ${waiting} ${wait}.`;
    return explained('warn', 'Resting', why, 'Nothing to do: it goes on by itself. Resume ends the rest at once.', null);
  }
  if (health.held > 0) {
    const why = () => `${plural(health.held, 'delivery', 'deliveries')} held back until a person releases them.`;
    return explained('warn', 'On hold', why, 'Look at each, then release, retry or cancel it.', 'held');
  }
  if (isThrottled(endpoint)) {
    const why = () => {
      const slot = health.next_slot_at ? `, next slot ${inTime(health.next_slot_at)}` : '';
      const drain = health.estimated_drain_s ? `, drains in ${duration(health.estimated_drain_s)}` : '';
      return `${count(health.pending)} waiting at ${endpoint.rate_limit}${slot}${drain}.`;
    };
    return explained('warn', 'Throttled', why, 'Raise the rate limit, if the receiver can take more.', 'rate');
  }
  if (health.consecutive_failures > 0) {
    const why = () => `${plural(health.consecutive_failures, 'failure')} in a row. ${waiting} ${wait}.`;
    return explained('warn', 'Failing', why, 'See why the last attempts failed.', null);
  }
  const why = () => (health.pending + health.sending > 0 ? `${waiting} ${wait}, ${health.sending} in flight.` : 'Nothing waits.');
  return explained('ok', 'Active', why, '', null);
}

/** Whether to resume it changes anything: that also ends a rest and closes a breaker. */
export function isResumable({ status, health }) {
  const rests = health.hold_until && secondsUntil(health.hold_until) > 0;
  return status === 'paused' || health.breaker !== 'closed' || Boolean(rests);
}

function isThrottled({ rate_limit, health }) {
  if (rate_limit === 'unlimited' || health.pending === 0) return false;
  const noSlot = health.next_slot_at && secondsUntil(health.next_slot_at) > 0;
  return Boolean(noSlot) || (health.estimated_drain_s ?? 0) > LONG_DRAIN_S;
}

const TONES = { pending: 'busy', sending: 'busy', delivered: 'ok', failed: 'bad' };

const FAILURES = {
  retries_exhausted: 'Every retry was used.',
  cancelled: 'By a person.',
  endpoint_deleted: 'Its endpoint was deleted.',
  expired: 'It waited longer than its endpoint lets it (max_age_s).',
};

const HOLDS = {
  interrupted: 'Its attempts were cut short again and again.',
  refused_by_database: 'The database refuses to store how its attempt ended.',
};

const WAITS = {
  due_time: (delivery) => `For its next attempt, ${inTime(delivery.next_attempt_at)}.`,
  rate_limit: () => 'For a slot in the rate limit of its endpoint.',
  concurrency: () => 'For another attempt of its endpoint to end.',
  breaker: () => 'For the breaker of its endpoint to close.',
  retry_after: () => 'Until the time the receiver asked for (Retry-After).',
  paused: () => 'For its endpoint to be resumed.',
  order: () => 'For an earlier delivery of its ordering key.',
  held: (delivery) => `${HOLDS[delivery.hold_reason] ?? 'For a reason that is new to this page.'} Release, retry or cancel it.`,
  unsaid: () => 'Due. Its page says what for.',
};

/** A list does not say what a delivery waits for: all that is known is whether its time has come. */
function reasonByTime({ next_attempt_at: next }) {
  return next && secondsUntil(next) >= 1 ? 'due_time' : 'unsaid';
}

/** @returns {{tone: string, label: string, why: () => string}} */
export function explainDelivery(delivery) {
  const { status } = delivery;
  if (status === 'pending') {
    const held = delivery.hold_reason !== null;
    const label = held ? 'On hold' : 'Waiting';
    const why = () => {
      const reason = delivery.waiting_for ?? (held ? 'held' : reasonByTime(delivery));
      return WAITS[reason]?.(delivery) ?? 'For something that is new to this page.';
    };
    return { tone: held ? 'warn' : TONES[status], label, why };
  }
  if (status === 'failed') {
    const why = FAILURES[delivery.failure_reason] ?? 'For a reason that is new to this page.';
    const cancelled = delivery.failure_reason === 'cancelled';
    return { tone: cancelled ? 'idle' : 'bad', label: cancelled ? 'Cancelled' : 'Failed', why: () => why };
  }
  const attempts = plural(delivery.attempt_count, 'attempt');
  return status === 'delivered'
    ? { tone: 'ok', label: 'Delivered', why: () => `With ${attempts}.` }
    : { tone: 'busy', label: 'Sending', why: () => 'An attempt is under way.' };
}

const OUTCOMES = {
  delivered: 'Delivered',
  rejected: 'Rejected',
  timeout: 'Timed out',
  dns_error: 'Name not resolved',
  connect_error: 'No connection',
  tls_error: 'TLS failed',
  protocol_error: 'No valid HTTP',
  blocked_address: 'Address not allowed',
  interrupted: 'Interrupted',
  connection_lost: 'Connection lost',
};

export function outcomeInWords(outcome) {
  return OUTCOMES[outcome] ?? outcome;
}

const ADVICE = {
  unreachable: 'Is the server running, and reachable from here? Try again.',
  unavailable: 'The database does not take writes at the moment. Try again shortly.',
  'too-many-requests': 'Wait a moment, then try again.',
  'not-found': 'It may have been deleted, or the retention has removed it.',
  forbidden: 'Sign in with a token that may do this.',
  csrf: 'Reload the page, then try again.',
  'state-conflict': 'It has changed in the meantime: load it again.',
  internal: 'The log of the server says why.',
};

/** What to do about a problem; empty where its detail says all. */
export function adviceFor(problem) {
  return ADVICE[problem.kind] ?? '';
}
