// Starts the receiver, the worker and the API as processes of their own, measures, and prints.
import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { backlog, connectAll, flood, paced } from './publish.mjs';
import { openQueue } from './queue.mjs';

const EVENTS = Number(process.env.EVENTS);
const PACED = { events: 500, perSecond: 100 };

const children = [];

/** A process that ends with this one, and the first line that it prints. */
async function start(file, env = {}) {
  const child = fork(file, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
  children.push(child);
  child.on('exit', (code) => {
    console.error(`${file} ended with ${code}`);
    process.exit(1);
  });
  const [line] = await once(child.stdout, 'data');
  return { pid: child.pid, line: String(line).trim() };
}

const queue = openQueue();
const redis = await queue.client;
const info = await redis.info('server');
const receiver = await start('receiver.mjs');
const RECEIVER = `http://127.0.0.1:${receiver.line}`;
const worker = await start('worker.mjs');
const api = await start('api.mjs', { RECEIVER });
const publishers = await connectAll(Number(api.line));

const pids = {
  api: api.pid,
  worker: worker.pid,
  redis: /process_id:(\d+)/.exec(info)[1],
  load: process.pid,
  receiver: receiver.pid,
};
const TICKS = Number(execFileSync('getconf', ['CLK_TCK']));

/** CPU seconds so far of each process, with those of its ended children (Redis rewrites its log in one). */
function cpu() {
  return Object.entries(pids).map(([name, pid]) => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(') ') + 2).split(' ').map(Number);
    return [name, (fields[11] + fields[12] + fields[13] + fields[14]) / TICKS];
  });
}

const ask = async (path) => (await fetch(RECEIVER + path)).json();

let delivered = 0;
/** Waits until `count` more were delivered than at the last call. */
async function deliveries(count) {
  delivered += count;
  for (let last = -1, since = Date.now(); ; await sleep(10)) {
    const now = await ask('/count');
    if (now > delivered) throw new Error(`${now} deliveries of ${delivered} events`);
    if (now === delivered) return;
    if (now !== last) [last, since] = [now, Date.now()];
    if (Date.now() - since > 60_000) throw new Error(`no delivery for a minute, after ${now} of ${delivered}`);
  }
}

/** Deliveries a second, and CPU seconds for 10,000 of them, from the start of `publish` on. */
async function rate(publish) {
  const before = Object.fromEntries(cpu());
  const started = performance.now();
  await publish();
  await deliveries(EVENTS);
  const seconds = (performance.now() - started) / 1000;
  const spent = cpu().map(([name, after]) => [name, ((after - before[name]) / EVENTS) * 10_000]);
  return { per_second: EVENTS / seconds, cpu_seconds_per_10000: Object.fromEntries(spent) };
}

// Once unmeasured, so that V8 has compiled what it will.
await flood(publishers, 2_000);
await deliveries(2_000);

const http = await rate(() => flood(publishers, EVENTS));

await queue.pause();
await backlog(queue, RECEIVER, EVENTS);
await deliveries(0); // None while paused.
const drain = await rate(() => queue.resume());

await ask('/latencies'); // Forgets those so far.
await paced(publishers, PACED.events, PACED.perSecond);
await deliveries(PACED.events);
const latencies = (await ask('/latencies')).sort((a, b) => a - b);
const percentile = (p) => latencies[Math.ceil((p / 100) * latencies.length) - 1] / 1000;
const latency = { p50_ms: percentile(50), p99_ms: percentile(99) };

const setup = {
  bullmq: createRequire(import.meta.url)('bullmq/package.json').version,
  node: process.versions.node,
  redis: /redis_version:(\S+)/.exec(info)[1],
  appendfsync: (await redis.config('GET', 'appendfsync'))[1],
  file_system: String(execFileSync('stat', ['-f', '-c', '%T', '.'])).trim(),
  events: EVENTS,
  endpoints: Number(process.env.ENDPOINTS),
  concurrency: Number(process.env.CONCURRENCY),
};

if (process.env.JSON) {
  console.log(JSON.stringify({ setup, drain, http, latency }, null, 2));
} else {
  const row = (name, { per_second, cpu_seconds_per_10000: cpu }) => {
    const sender = cpu.api + cpu.worker + cpu.redis;
    const cells = [cpu.api, cpu.worker, cpu.redis, sender, cpu.load + cpu.receiver];
    return `| ${name} | ${per_second.toFixed(0)} | ${cells.map((cell) => cell.toFixed(2)).join(' | ')} |`;
  };
  console.log(`${Object.entries(setup).map(([name, value]) => `${name} ${value}`).join(', ')}

| | deliveries/s | CPU-s per 10,000: api | worker | redis | these three | load and receiver |
|---|---|---|---|---|---|---|
${row('draining a backlog', drain)}
${row('one event a request, published and delivered', http)}

latency at ${PACED.perSecond} events/s: p50 ${latency.p50_ms.toFixed(1)} ms, p99 ${latency.p99_ms.toFixed(1)} ms`);
}

for (const child of children) child.removeAllListeners('exit').disconnect();
await Promise.all(children.map((child) => once(child, 'exit')));
process.exit();
