// What the publishers and the worker agree on.
import { randomUUID } from 'node:crypto';
import { Queue } from 'bullmq';

export const NAME = 'webhooks';
export const connection = { host: '127.0.0.1', port: Number(process.env.REDIS_PORT) };

export function openQueue() {
  const defaultJobOptions = {
    attempts: 5,
    backoff: { type: 'exponential', delay: 10_000 },
    removeOnComplete: true, // No history: kind to BullMQ, whose Redis would keep it in memory.
  };
  return new Queue(NAME, { connection, defaultJobOptions });
}

/** The job that delivers `body`, an event, to the endpoint at `url`. */
export const job = (url, body) => ({ url, id: `msg_${randomUUID()}`, body });
