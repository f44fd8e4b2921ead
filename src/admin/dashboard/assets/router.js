// The address: `#/deliveries/dlv_x?status=failed` is read into segments and a query, and links are built.

/** @returns {{segments: string[], query: URLSearchParams}} */
export function read() {
  const [where, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  return { segments: where.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

/** The address of a page: to('deliveries', id), to('deliveries', {status: 'failed'}). */
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

/** Puts filters into the address, without leaving the page. */
export function keepQuery(query) {
  history.replaceState(null, '', to(...read().segments, query));
}

/** Decoded; as it is, where it is wrongly encoded. */
export function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
