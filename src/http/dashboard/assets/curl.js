// A delivery as a curl command that is safe to paste into a shell, whatever its body and headers contain.

/** Headers of the transport, which curl sets itself. */
const OWN_HEADERS = ['host', 'content-length', 'connection', 'transfer-encoding', 'accept-encoding'];

const HEADER_NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;

/**
 * @param {string} url
 * @param {object} headers values by name
 * @param {{body: string|null, body_base64: string|null}} event
 */
export function curlCommand(url, headers, event) {
  const lines = ['curl --globoff --request POST', `--url ${quote(url)}`];
  for (const [name, value] of Object.entries(headers)) {
    if (OWN_HEADERS.includes(name.toLowerCase()) || !HEADER_NAME.test(name) || /[\r\n\0]/.test(value)) continue;
    lines.push(`--header ${quote(value === '' ? `${name};` : `${name}: ${value}`)}`);
  }
  if (typeof event.body === 'string' && !event.body.includes('\0')) {
    return [...lines, `--data-raw ${quote(event.body)}`].join(' \\\n  ');
  }
  const encoded = event.body_base64 ?? btoa(String.fromCharCode(...new TextEncoder().encode(event.body ?? '')));
  return `printf %s ${quote(encoded)} | base64 -d | ${[...lines, '--data-binary @-'].join(' \\\n  ')}`;
}

/** Inside single quotes, the quote itself is the only special character in a shell. */
function quote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
