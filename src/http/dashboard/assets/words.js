// Explains states in words: the reason for the state of an endpoint or a delivery, and what to do about it.
//
// `why` is a function because it may contain a countdown.

import { count, duration, plural } from './format.js';
import { secondsUntil } from './clock.js';

/** A backlog that needs longer than this to drain is shown as a warning. */
const LONG_DRAIN_S = 60;

const inTime = (time) => (time && secondsUntil(time) >= 1 ? `in ${duration(secondsUntil(time))}` : 'now');

const UNKNOWN_REASON = 'Unknown reason.';

const PAUSES = {
  operator: ['Paused by an operator.', 'Resume it when the receiver is ready.'],
  gone: ['The receiver answered 410 Gone.', 'Fix the URL, then resume.'],
  failing: [
    'No successful delivery for five days.',
    'Have the receiver fixed, send a test, then resume and recover failed deliveries.',
  ],
};

/**
 * @typedef {object} Explained
 * @property {'ok'|'busy'|'warn'|'bad'|'idle'} tone
 * @property {string} label one or two words, for the badge
 * @property {() => string} why
 * @property {string} todo what to do; empty if there is nothing to do
 * @property {'rate'|'held'|null} action the remedy, apart from resuming
 */

/** @returns {Explained} */
export function explainEndpoint(endpoint) {
  const { health } = endpoint;
  const pending = `${deliveries(health.pending)} pending`;
  const failures = plural(health.consecutive_failures, 'consecutive failure');
  const explained = (tone, label, why, todo, action) => ({ tone, label, why, todo, action });

  if (endpoint.status === 'paused') {
    const [why, todo] = PAUSES[endpoint.pause_reason] ?? [UNKNOWN_REASON, 'Resume it.'];
    const tone = endpoint.pause_reason === 'operator' ? 'idle' : 'bad';
    return explained(tone, 'Paused', () => `${why} ${pending}.`, todo, null);
  }
  if (health.breaker === 'open') {
    const why = () => `Opened after ${failures}; next probe ${inTime(health.next_probe_at)}. ${pending}.`;
    const todo =
      'Find out why it fails and fix the receiver. The breaker closes after a successful probe, ' +
      'or immediately if you click Resume.';
    return explained('bad', 'Breaker open', why, todo, null);
  }
  if (health.breaker === 'half_open') {
    const why = () => `Sending resumes gradually after ${failures}. ${pending}.`;
    return explained('warn', 'Breaker half-open', why, 'Nothing to do if the receiver has recovered.', null);
  }
  if (health.hold_until && secondsUntil(health.hold_until) > 0) {
    const until = () => inTime(health.hold_until);
    const why = () => `The receiver asked us to back off (Retry-After); continues ${until()}. ${pending}.`;
    const todo = 'Nothing to do: delivery continues automatically, or immediately if you click Resume.';
    return explained('warn', 'Backing off', why, todo, null);
  }
  if (health.held > 0) {
    const why = () => `${deliveries(health.held)} on hold until released manually.`;
    return explained('warn', 'On hold', why, 'Check each one, then release, retry or cancel it.', 'held');
  }
  if (isThrottled(endpoint)) {
    const why = () => {
      const slot = health.next_slot_at ? `, next slot ${inTime(health.next_slot_at)}` : '';
      const drain = health.estimated_drain_s ? `, drains in ${duration(health.estimated_drain_s)}` : '';
      return `${pending} at ${endpoint.rate_limit}${slot}${drain}.`;
    };
    const todo = 'Raise the rate limit if the receiver can take more.';
    return explained('warn', 'Rate limited', why, todo, 'rate');
  }
  if (health.consecutive_failures > 0) {
    const why = () => `${failures}. ${pending}.`;
    return explained('warn', 'Failing', why, 'Find out why the last attempts failed.', null);
  }
  const busy = health.pending + health.sending > 0;
  const why = () => (busy ? `${pending}, ${count(health.sending)} in flight.` : 'No pending deliveries.');
  return explained('ok', 'Active', why, '', null);
}

function deliveries(number) {
  return plural(number, 'delivery', 'deliveries');
}

/** Whether Resume has an effect: it also ends a Retry-After hold and closes the breaker. */
export function isResumable({ status, health }) {
  const backsOff = health.hold_until && secondsUntil(health.hold_until) > 0;
  return status === 'paused' || health.breaker !== 'closed' || Boolean(backsOff);
}

function isThrottled({ rate_limit, health }) {
  if (rate_limit === 'unlimited' || health.pending === 0) return false;
  const noSlot = health.next_slot_at && secondsUntil(health.next_slot_at) > 0;
  return Boolean(noSlot) || (health.estimated_drain_s ?? 0) > LONG_DRAIN_S;
}

const TONES = { pending: 'busy', sending: 'busy', delivered: 'ok', failed: 'bad' };

const FAILURES = {
  retries_exhausted: 'All retries failed.',
  cancelled: 'Cancelled manually.',
  endpoint_deleted: 'The endpoint was deleted.',
  expired: "It waited longer than the endpoint's max_age_s.",
};

const HOLDS = {
  interrupted: 'The server stopped repeatedly while sending it.',
  refused_by_database: 'The database rejected the result of its attempt.',
};

const WAITS = {
  due_time: (delivery) => `Next attempt ${inTime(delivery.next_attempt_at)}.`,
  rate_limit: () => "Waiting for a slot in the endpoint's rate limit.",
  concurrency: () => 'Waiting for another attempt of the endpoint to finish.',
  breaker: () => "Waiting for the endpoint's breaker to close.",
  retry_after: () => 'The receiver asked us to back off (Retry-After).',
  paused: () => 'The endpoint is paused.',
  order: () => 'Waiting for an earlier delivery with the same ordering key.',
  held: (delivery) => `${HOLDS[delivery.hold_reason] ?? UNKNOWN_REASON} Release, retry or cancel it.`,
  unsaid: () => 'Due now.',
};

/** Lists do not include `waiting_for`; they only show whether the delivery is due. */
function reasonByTime({ next_attempt_at: next }) {
  return next && secondsUntil(next) >= 1 ? 'due_time' : 'unsaid';
}

/** @returns {{tone: string, label: string, why: () => string}} */
export function explainDelivery(delivery) {
  const { status } = delivery;
  if (status === 'pending') {
    const held = delivery.hold_reason !== null;
    const label = held ? 'On hold' : 'Pending';
    const why = () => {
      const reason = delivery.waiting_for ?? (held ? 'held' : reasonByTime(delivery));
      return WAITS[reason]?.(delivery) ?? UNKNOWN_REASON;
    };
    return { tone: held ? 'warn' : TONES[status], label, why };
  }
  if (status === 'failed') {
    const why = FAILURES[delivery.failure_reason] ?? UNKNOWN_REASON;
    const cancelled = delivery.failure_reason === 'cancelled';
    return { tone: cancelled ? 'idle' : 'bad', label: cancelled ? 'Cancelled' : 'Failed', why: () => why };
  }
  const attempts = plural(delivery.attempt_count, 'attempt');
  return status === 'delivered'
    ? { tone: 'ok', label: 'Delivered', why: () => `After ${attempts}.` }
    : { tone: 'busy', label: 'Sending', why: () => 'An attempt is in progress.' };
}

const OUTCOMES = {
  delivered: 'Delivered',
  rejected: 'Rejected',
  timeout: 'Timed out',
  dns_error: 'DNS lookup failed',
  connect_error: 'Connection failed',
  tls_error: 'TLS handshake failed',
  protocol_error: 'Invalid HTTP response',
  blocked_address: 'Address not allowed',
  interrupted: 'Interrupted',
  connection_lost: 'Connection lost',
};

export function outcomeInWords(outcome) {
  return OUTCOMES[outcome] ?? outcome;
}

const ADVICE = {
  unreachable: 'Check that the server is running and reachable, then try again.',
  unavailable: 'The database does not accept writes at the moment. Try again shortly.',
  'too-many-requests': 'Wait a moment, then try again.',
  'not-found': 'It may have been deleted, or removed after its retention period.',
  forbidden: 'Sign in with a token that allows this.',
  csrf: 'Reload the page, then try again.',
  'state-conflict': 'It has changed in the meantime. Reload the page.',
  internal: 'See the server log for the cause.',
};

/** What to do about a problem; empty if its detail is sufficient. */
export function adviceFor(problem) {
  return ADVICE[problem.kind] ?? '';
}
