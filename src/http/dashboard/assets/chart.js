// SVG bar charts of delivered and failed attempts over time: the chart and the sparkline.

import { h, svg } from './dom.js';
import { count, hourOf, plural } from './format.js';

const BAR = 10;
const GAP = 2;

/** The chart of a `series`, with its peak value, time range and legend. */
export function chart(series) {
  const total = sumOf(series);
  if (total.delivered + total.failed === 0) {
    const none = h('p', { class: 'chart-empty muted' }, 'No attempts in this time range.');
    return h('div', { class: 'chart' }, none);
  }
  const bars = drawing(series, 120, { class: 'bars', role: 'img', 'aria-label': summary(total) }, true);
  return h(
    'figure',
    { class: 'chart' },
    h(
      'figcaption',
      null,
      legend('delivered', total.delivered),
      legend('failed', total.failed),
      h('span', { class: 'muted' }, `peak ${count(highest(series))}`),
    ),
    bars,
    h('div', { class: 'axis muted', 'aria-hidden': 'true' }, h('span', null, hourOf(series[0].at)), h('span', null, hourOf(series.at(-1).at))),
  );
}

export function sparkline(series) {
  const total = sumOf(series);
  const text = total.delivered + total.failed === 0 ? 'no attempts' : summary(total);
  return h('span', { class: 'spark', title: text }, drawing(series, 24, { role: 'img', 'aria-label': text }, false));
}

function drawing(series, height, props, titles) {
  const top = Math.max(1, highest(series));
  const scale = (number) => (number / top) * height;
  const bars = series.map(({ at, delivered, failed }, index) => {
    const x = index * (BAR + GAP);
    const [good, bad] = [scale(delivered), scale(failed)];
    const bar = (cls, y, size) => size > 0 && svg('rect', { class: cls, x, y, width: BAR, height: size });
    return svg(
      'g',
      null,
      titles && svg('title', null, `${hourOf(at)}: ${delivered} delivered, ${failed} failed`),
      titles && svg('rect', { class: 'hit', x, y: 0, width: BAR + GAP, height }),
      bar('delivered', height - good, good),
      bar('failed', height - good - bad, bad),
    );
  });
  const width = series.length * (BAR + GAP) - GAP;
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', ...props }, bars);
}

function legend(kind, number) {
  return h('span', { class: `legend ${kind}` }, `${count(number)} ${kind}`);
}

function summary({ delivered, failed }) {
  return `${plural(delivered, 'attempt')} delivered, ${count(failed)} failed`;
}

function highest(series) {
  return Math.max(...series.map(({ delivered, failed }) => delivered + failed));
}

function sumOf(series) {
  const add = (sum, { delivered, failed }) => ({ delivered: sum.delivered + delivered, failed: sum.failed + failed });
  return series.reduce(add, { delivered: 0, failed: 0 });
}
