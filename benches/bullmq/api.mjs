// POST /events: a job for the endpoint of the event's type, and 202 once Redis has it.
import { createServer } from 'node:http';
import { job, openQueue } from './queue.mjs';

const queue = openQueue();
const endpoints = new Map(
  Array.from({ length: Number(process.env.ENDPOINTS) }, (_, i) => [`bench.e${i}`, `${process.env.RECEIVER}/${i}`]),
);

async function publish(body) {
  let url;
  try {
    url = endpoints.get(JSON.parse(body).type);
  } catch {}
  if (!url) return 400;
  await queue.add('deliver', job(url, body));
  return 202;
}

const server = createServer((request, response) => {
  const answer = (status) => response.writeHead(status, { 'content-length': 0 }).end();
  if (request.method !== 'POST' || request.url !== '/events') {
    answer(404);
    return;
  }
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (chunk) => (body += chunk));
  request.on('end', () =>
    publish(body).then(answer, (error) => {
      console.error(error);
      answer(503);
    }),
  );
});
server.keepAliveTimeout = 600_000;
await queue.waitUntilReady();
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.on('disconnect', () => process.exit());
