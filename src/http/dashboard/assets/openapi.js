// Reads OpenAPI 3.1 schemas (JSON Schema): references, type names, the fields of an object, examples.

const MAX_DEPTH = 4;

/** Returns a function that resolves `$ref`s in `document`. */
export function resolver(document) {
  return function resolve(node) {
    let found = node;
    for (let hops = 0; typeof found?.$ref === 'string' && hops < 10; hops += 1) {
      const steps = found.$ref.replace(/^#\//, '').split('/').map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'));
      found = steps.reduce((at, step) => (at && Object.hasOwn(at, step) ? at[step] : undefined), document);
    }
    return found;
  };
}

/**
 * A schema as lines: first the schema itself, without a name, then its fields with their paths.
 * @returns {{name: string, type: string, required: boolean, description: string|undefined}[]}
 */
export function typeLines(schema, resolve, name = '', required = false, above = []) {
  const own = resolve(schema) ?? {};
  const line = { name, type: typeName(schema, resolve), required, description: own.description };
  if (above.length >= MAX_DEPTH || above.includes(own)) return [line];
  const inside = [...above, own];
  const { properties, needed } = fieldsOf(own, resolve);
  const below = Object.entries(properties).flatMap(([field, inner]) => typeLines(inner, resolve, name ? `${name}.${field}` : field, needed.includes(field), inside));
  const items = own.items ? typeLines(own.items, resolve, `${name}[]`, false, inside).slice(1) : [];
  return [line, ...below, ...items];
}

/** The example of the media type, or of its schema; undefined if there is none. */
export function exampleOf(media, resolve) {
  if (media.example !== undefined) return media.example;
  const [first] = Object.values(media.examples ?? {});
  if (first) return resolve(first)?.value;
  const schema = resolve(media.schema) ?? {};
  return schema.example ?? schema.examples?.[0];
}

function fieldsOf(schema, resolve) {
  // Optional values are written as `oneOf: [null, Thing]`.
  const choices = (schema.oneOf ?? schema.anyOf ?? []).filter((choice) => resolve(choice)?.type !== 'null');
  const inner = [...(schema.allOf ?? []), ...(choices.length === 1 ? choices : [])];
  const parts = inner.map((part) => fieldsOf(resolve(part) ?? {}, resolve));
  return {
    properties: Object.assign({}, ...parts.map(({ properties }) => properties), schema.properties),
    needed: [...parts.flatMap(({ needed }) => needed), ...(schema.required ?? [])],
  };
}

function typeName(schema, resolve, depth = 0) {
  const own = resolve(schema);
  if (!own || depth >= MAX_DEPTH) return 'any';
  if (own.const !== undefined) return JSON.stringify(own.const);
  if (own.enum) return own.enum.map((value) => JSON.stringify(value)).join(' | ');
  const choices = own.oneOf ?? own.anyOf;
  if (choices) return [...new Set(choices.map((choice) => typeName(choice, resolve, depth + 1)))].join(' | ');
  const types = [own.type ?? (own.properties || own.allOf ? 'object' : 'any')].flat();
  return types
    .map((type) => (type === 'array' ? `array of ${typeName(own.items, resolve, depth + 1)}` : type + (own.format && type !== 'null' ? ` (${own.format})` : '')))
    .join(' | ');
}
