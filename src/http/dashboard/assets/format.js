// Formats numbers, times and payloads for display.

const whole = new Intl.NumberFormat('en');
const dateTime = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });
const exactTime = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
const dayTime = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
const clockTime = new Intl.DateTimeFormat('en-GB', { timeStyle: 'short' });

/** A non-breaking space, between a number and its unit. */
const NO_BREAK = '\u00a0';

const UNITS = [
  ['d', 86_400],
  ['h', 3_600],
  ['min', 60],
  ['s', 1],
];

export function count(number) {
  return whole.format(number);
}

/** "1 delivery", "412 deliveries". */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function percent(share) {
  if (share === null || share === undefined) return '–';
  // Rounded down, so that 99.97 % is not shown as "100 %".
  return `${Math.floor(share * 1000) / 10} %`;
}

/** "41 min", "2 h 5 min": the two largest units. */
export function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const first = UNITS.findIndex(([, size]) => total >= size);
  if (first < 0) return '0 s';
  const [unit, size] = UNITS[first];
  const next = UNITS[first + 1];
  const rest = next ? Math.floor((total % size) / next[1]) : 0;
  return `${Math.floor(total / size)} ${unit}${rest ? ` ${rest} ${next[0]}` : ''}`.replaceAll(' ', NO_BREAK);
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 100 ? Math.round(ms) : Math.round(ms * 10) / 10} ms`;
}

/** Date and time, in the browser's time zone. */
export function when(time) {
  return time ? dateTime.format(new Date(time)) : '–';
}

/** Only the time if it is today, otherwise day and time. */
export function shortWhen(time) {
  const date = new Date(time);
  return date.toDateString() === new Date().toDateString() ? exactTime.format(date) : dayTime.format(date);
}

/** Hours and minutes, in the browser's time zone. */
export function hourOf(time) {
  return clockTime.format(new Date(time));
}

/** The value of an `<input type="datetime-local">` as RFC 3339; null if empty. */
export function fromLocalInput(value) {
  return value ? new Date(value).toISOString() : null;
}

/** RFC 3339 or milliseconds as the value of an `<input type="datetime-local">`. */
export function toLocalInput(time) {
  const date = new Date(time ?? NaN);
  if (Number.isNaN(date.getTime())) return '';
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** Indents JSON; other text is unchanged, and so is JSON with numbers that JavaScript cannot represent. */
export function pretty(text) {
  try {
    const value = JSON.parse(text);
    const indented = JSON.stringify(value, null, 2);
    const digits = (json) => json.replace(/[^0-9]/g, '');
    return digits(text) === digits(indented) ? indented : text;
  } catch {
    return text;
  }
}
