// The webhook sender: signs each job's body as Standard Webhooks asks, and POSTs it.
import { createHmac } from 'node:crypto';
import { Agent, request } from 'node:http';
import { Worker } from 'bullmq';
import { NAME, connection } from './queue.mjs';

const secret = Buffer.from('c2VjcmV0LW9mLXRoZS1iZW5jaG1hcms=', 'base64');
const agent = new Agent({ keepAlive: true });

function post(url, headers, body) {
  return new Promise((resolve, reject) => {
    const sending = request(url, { method: 'POST', agent, headers, timeout: 15_000 }, (response) => {
      response.resume().on('error', reject).on('end', () => resolve(response.statusCode));
    });
    sending.on('timeout', () => sending.destroy(new Error('timeout'))).on('error', reject).end(body);
  });
}

async function deliver({ data: { url, id, body } }) {
  const timestamp = Math.floor(Date.now() / 1000);
  const signature = createHmac('sha256', secret).update(`${id}.${timestamp}.${body}`).digest('base64');
  const status = await post(
    url,
    {
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': `v1,${signature}`,
    },
    body,
  );
  if (status < 200 || status > 299) throw new Error(`${url} answered ${status}`);
}

const worker = new Worker(NAME, deliver, { connection, concurrency: Number(process.env.CONCURRENCY) });
worker.on('error', console.error);
worker.on('failed', (_, error) => console.error('a delivery failed:', error.message));
await worker.waitUntilReady();
console.log('ready');
process.on('disconnect', () => process.exit());
