// Parses URL fragments such as `#/deliveries/dlv_x?status=failed` into segments and query, and builds links.

/** @returns {{segments: string[], query: URLSearchParams}} */
export function read() {
  const [where, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  return { segments: where.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

/** The URL of a page: to('deliveries', id), to('deliveries', {status: 'failed'}). */
export function to(...parts) {
  const last = parts.at(-1);
  const query = typeof last === 'object' ? parts.pop() : {};
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const tail = given.length ? `?${new URLSearchParams(given)}` : '';
  return `#/${parts.map(encodeURIComponent).join('/')}${tail}`;
}

export function go(address) {
  location.hash = address;
}

/** Puts filters into the URL without leaving the page. */
export function keepQuery(query) {
  history.replaceState(null, '', to(...read().segments, query));
}

/** Decodes a segment; an invalid encoding is returned unchanged. */
export function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
