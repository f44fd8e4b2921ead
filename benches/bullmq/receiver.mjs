// Answers 200 to every POST, counts them, and notes how long each took from its `sent` to here.
import { createServer } from 'node:http';
import { micros } from './clock.mjs';

let count = 0;
let latencies = [];

const server = createServer((request, response) => {
  const arrived = micros();
  if (request.method === 'GET') {
    response.end(JSON.stringify(request.url === '/count' ? count : latencies.splice(0)));
    return;
  }
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (chunk) => (body += chunk));
  request.on('end', () => {
    count += 1;
    latencies.push(arrived - Number(/"sent":(\d+)/.exec(body)[1]));
    response.writeHead(200, { 'content-length': 0 }).end();
  });
});
// A connection closed while idle could fail a delivery, and its retry would wait ten seconds.
server.keepAliveTimeout = 600_000;
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.on('disconnect', () => process.exit());
