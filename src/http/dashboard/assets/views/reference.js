// The API reference, rendered from the server's own OpenAPI document.

import { h, replace } from '../dom.js';
import { get } from '../api.js';
import { exampleOf, resolver, typeLines } from '../openapi.js';
import { filterField, filters } from '../listing.js';
import { empty, failure, loading } from '../ui.js';

const PROBLEM = 'application/problem+json';
const METHODS = ['get', 'post', 'put', 'patch', 'delete'];

export default function referenceView({ root, signal, setTitle }) {
  setTitle('API');
  const body = h('div', null, loading());
  const placeholder = 'path, name or description';
  const input = h('input', { name: 'search', type: 'search', placeholder, 'data-testid': 'search' });
  const filter = filters([filterField('Search', input)], () => search());
  let operations = [];

  const search = () => {
    const words = (filter.values().search ?? '').toLowerCase().split(/\s+/).filter(Boolean);
    const found = operations.filter(({ text }) => words.every((word) => text.includes(word)));
    const none = () => empty('No matching operations', h('p', null, 'Try fewer words.'));
    replace(body, found.length ? byTag(found) : none());
  };
  const load = async () => {
    try {
      operations = operationsOf(await get('openapi.json', {}, signal));
      search();
    } catch (error) {
      if (error.name !== 'AbortError') replace(body, failure(error, load));
    }
  };
  replace(
    root,
    h('h1', null, 'API reference'),
    h(
      'p',
      { class: 'muted' },
      'Every request needs ',
      h('code', null, 'Authorization: Bearer TOKEN'),
      '. Times are RFC 3339; errors are ',
      h('code', null, 'application/problem+json'),
      '.',
    ),
    filter.form,
    body,
  );
  load();
}

/** Every operation with its tag, its element and the text that is searched. */
function operationsOf(document) {
  const resolve = resolver(document);
  return Object.entries(document.paths ?? {}).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolve);
      const text = [method, path, operation.operationId, operation.summary, operation.description, ...parameters.map(({ name }) => name)].join(' ').toLowerCase();
      return { tag: operation.tags?.[0] ?? 'Other', text, element: operationElement(method, path, operation, parameters, resolve) };
    }),
  );
}

function byTag(operations) {
  const tags = new Map();
  for (const { tag, element } of operations) tags.set(tag, [...(tags.get(tag) ?? []), element]);
  return [...tags].map(([tag, elements]) => h('section', { class: 'card' }, h('h2', null, tag), elements));
}

function operationElement(method, path, operation, parameters, resolve) {
  const more = h('div', { class: 'operation-more' });
  const details = h(
    'details',
    { class: 'operation', ontoggle: () => details.open && !more.hasChildNodes() && replace(more, contentsOf(operation, parameters, resolve)) },
    h('summary', null, h('span', { class: `method ${method}` }, method.toUpperCase()), h('code', { class: 'break' }, path), h('span', { class: 'muted' }, operation.summary)),
    more,
  );
  return details;
}

function contentsOf(operation, parameters, resolve) {
  const request = resolve(operation.requestBody);
  const answers = Object.entries(operation.responses ?? {}).map(([status, answer]) => ({ status, ...resolve(answer) }));
  const errors = answers.filter(({ content }) => content?.[PROBLEM]);
  return [
    operation.description && h('p', { class: 'prose' }, operation.description),
    parameters.length > 0 && [h('h3', null, 'Parameters'), h('ul', { class: 'schema' }, parameters.map((parameter) => parameterLine(parameter, resolve)))],
    request && [h('h3', null, 'Request'), request.description && h('p', null, request.description), mediaTypes(request.content, resolve)],
    answers
      .filter((answer) => !errors.includes(answer))
      .map(({ status, description, content }) => [h('h3', null, `${status} `, h('span', { class: 'muted' }, description)), mediaTypes(content, resolve)]),
    errors.length > 0 && [h('h3', null, 'Errors'), h('ul', { class: 'schema' }, errors.map(errorLine))],
  ];
}

/** All errors have the same schema: one line each for the status, the description and the type. */
function errorLine({ status, description, content }) {
  const type = content[PROBLEM].example?.type;
  return h('li', null, h('code', null, status), ` ${description} `, type && h('span', { class: 'muted break' }, type));
}

function parameterLine({ name, in: place, required, description, schema }, resolve) {
  const [{ type }] = typeLines(schema, resolve);
  const kind = ` ${place}, ${type}${required ? ', required' : ''} `;
  return h('li', null, h('code', null, name), h('span', { class: 'muted' }, kind), description);
}

function mediaTypes(content = {}, resolve) {
  return Object.entries(content).map(([type, media]) => {
    const example = exampleOf(media, resolve);
    const [whole, ...fields] = media.schema ? typeLines(media.schema, resolve) : [];
    return [
      h('p', { class: 'muted' }, whole ? `${type}: ${whole.type}` : type),
      fields.length > 0 && h('ul', { class: 'schema' }, fields.map(schemaLine)),
      example !== undefined && h('pre', { class: 'payload', tabindex: 0 }, typeof example === 'string' ? example : JSON.stringify(example, null, 2)),
    ];
  });
}

function schemaLine({ name, type, required, description }) {
  const kind = ` ${type}${required ? ', required' : ''} `;
  return h('li', null, h('code', { class: 'break' }, name), h('span', { class: 'muted' }, kind), description);
}
