// A list with cursor pagination: filters in the URL, unchanged rows are kept, empty and error states.

import { h, replace } from './dom.js';
import { get } from './api.js';
import { shortWhen } from './format.js';
import { keepQuery, read } from './router.js';
import { showKeyed } from './keyed.js';
import { failure, loading, report } from './ui.js';

const PAGE = 50;

/**
 * @param {object} options
 * @param {string} options.path of the API
 * @param {() => object} options.query the current filters
 * @param {(item) => Element} options.row
 * @param {string[]} options.columns the column headings
 * @param {(filtered: boolean) => Node} options.emptyState
 * @param {AbortSignal} options.signal
 * @returns {{element: Element, load: () => Promise, refresh: () => Promise}} `load` starts at the first page
 *   and shows errors; `refresh` reloads the current page and ignores errors
 */
export function listing({ path, label, query, row, columns, emptyState, signal, limit = PAGE }) {
  const body = h('tbody');
  const head = h('thead', null, h('tr', null, columns.map((name) => h('th', { scope: 'col' }, name))));
  const table = h('table', { class: 'cards', 'aria-label': label }, head, body);
  const newer = h('button', { type: 'button', onclick: () => turn(-1) }, '← Newer');
  const older = h('button', { type: 'button', onclick: () => turn(1) }, 'Older →');
  const pager = h('nav', { class: 'pager', 'aria-label': 'Pages' }, newer, older);
  const progress = h('p', { class: 'muted', role: 'status', hidden: true });
  const element = h('div', { class: 'listing' }, loading());

  /** The cursors up to the current page; null for the first page. */
  let cursors = [null];
  let next = null;
  let requests = 0;
  let searching = false;

  async function show() {
    const request = ++requests;
    const filters = query();
    const found = [];
    let cursor = cursors.at(-1);
    searching = true;
    try {
      // The server ends a page before it is full if it has looked at many rows: the search continues.
      for (let more = true; more; ) {
        const page = await get(path, { ...filters, limit: limit - found.length, cursor }, signal);
        if (request !== requests) return; // superseded by a later request
        found.push(...page.data);
        cursor = page.next_cursor;
        more = cursor !== null && page.searched_back_to !== undefined && found.length < limit;
        progress.hidden = !more;
        if (more) {
          progress.textContent = `Searched back to ${shortWhen(page.searched_back_to)}…`;
          showRows(found, true);
        }
      }
    } finally {
      if (request === requests) {
        searching = false;
        progress.hidden = true;
      }
    }
    next = cursor;
    if (found.length === 0 && cursors.length === 1) {
      showEmpty(Object.keys(filters).length > 0);
      return;
    }
    showRows(found, false);
  }

  function showRows(found, unfinished) {
    showKeyed(body, found, (item) => item.id, row);
    newer.disabled = cursors.length === 1;
    older.disabled = unfinished || next === null;
    pager.hidden = newer.disabled && older.disabled;
    if (!table.isConnected) replace(element, table, progress, pager);
  }

  function showEmpty(filtered) {
    const shown = element.firstElementChild?.getAttribute('data-empty');
    if (shown === String(filtered)) return; // already shown; keep the focus
    const notice = emptyState(filtered);
    notice.setAttribute('data-empty', filtered);
    replace(element, notice);
  }

  async function load() {
    cursors = [null];
    await show().catch((error) => {
      if (error.name !== 'AbortError') replace(element, failure(error, load));
    });
  }

  async function turn(step) {
    if (step < 0) cursors.pop();
    else cursors.push(next);
    await show().catch(report);
    element.scrollIntoView({ block: 'start' });
  }

  // The live indicator shows failures of background refreshes.
  return { element, load, refresh: () => (searching ? Promise.resolve() : show().catch(() => {})) };
}

/**
 * The filters of a list: a form that reports each change and keeps its values in the URL.
 * @param {Element[]} fields labelled inputs and selects, each with a name
 * @returns {{form: Element, values: () => object}}
 */
export function filters(fields, onChange) {
  const form = h('form', { class: 'filters', role: 'search', onsubmit: (event) => event.preventDefault() }, fields);
  const values = () => Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
  for (const [name, value] of read().query) {
    const input = form.elements.namedItem(name);
    if (input) input.value = value;
  }
  let timer = null;
  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      keepQuery(values());
      onChange();
    }, 250);
  };
  form.addEventListener('input', changed);
  return { form, values };
}

export function filterField(label, input) {
  return h('label', null, h('span', null, label), input);
}

export function filterSelect(name, options, props = {}) {
  return h('select', { name, ...props }, options.map(([value, text]) => h('option', { value }, text)));
}
