// The load: events, published over HTTP or straight into the queue.
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { micros } from './clock.mjs';
import { job } from './queue.mjs';

const CONNECTIONS = 64;
const ENDPOINTS = Number(process.env.ENDPOINTS);
const filler = 'x'.repeat(976); // With the rest, about 1 KiB.

const event = (i) => JSON.stringify({ type: `bench.e${i % ENDPOINTS}`, sent: micros(), data: filler });

/**
 * A keep-alive connection to the API, as a function that publishes one event at a time. By hand,
 * since the load shares the processors with what is measured and node's HTTP client takes more.
 */
async function publisher(port) {
  const socket = connect(port, '127.0.0.1').setNoDelay().setEncoding('latin1');
  await once(socket, 'connect');
  let answer = '';
  let waiting;
  socket.on('data', (chunk) => {
    answer += chunk;
    if (!answer.endsWith('\r\n\r\n')) return; // The API's answers have no body.
    const status = answer.slice(9, 12);
    answer = '';
    if (status === '202') waiting.resolve();
    else waiting.reject(new Error(`the API answered ${status}`));
  });
  socket.on('close', () => waiting?.reject(new Error('the API closed a connection')));
  return (body) =>
    new Promise((resolve, reject) => {
      waiting = { resolve, reject };
      socket.write(
        `POST /events HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\ncontent-type: application/json\r\n` +
          `content-length: ${body.length}\r\n\r\n${body}`,
      );
    });
}

export const connectAll = (port) => Promise.all(Array.from({ length: CONNECTIONS }, () => publisher(port)));

/** As fast as the API answers, one event a request. */
export async function flood(publishers, count) {
  let next = 0;
  await Promise.all(
    publishers.map(async (publish) => {
      while (next < count) await publish(event(next++));
    }),
  );
}

/** At a steady rate, whether or not the API keeps up. */
export async function paced(publishers, count, perSecond) {
  const started = performance.now();
  const publishing = [];
  for (let i = 0; i < count; i++) {
    await sleep(Math.max(0, started + (i * 1000) / perSecond - performance.now()));
    publishing.push(publishers[i % publishers.length](event(i)));
  }
  await Promise.all(publishing);
}

/** Straight into the queue, in batches of 100. */
export async function backlog(queue, receiver, count) {
  for (let i = 0; i < count; ) {
    const batch = [];
    for (; batch.length < 100 && i < count; i++) {
      batch.push({ name: 'deliver', data: job(`${receiver}/${i % ENDPOINTS}`, event(i)) });
    }
    await queue.addBulk(batch);
  }
}
