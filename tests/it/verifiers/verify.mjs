// Holds one received webhook to the public JavaScript library, `standardwebhooks`, which was
// installed by npm in the folder that POSTRIDER_NPM names.
//
// Reads {"secret", "headers": {"webhook-id", "webhook-timestamp", "webhook-signature"}, "body"} as
// JSON from stdin. Prints "ok" and exits 0 if the library accepts the webhook and rejects every
// tampered variant of it with its own error. Otherwise it says on stderr what went wrong and exits 1.

import { createRequire } from "node:module";

const STALE_S = 10 * 60;

/** What a receiver must reject: a name, headers and a body for each. */
function* tampered(headers, body) {
  const changed = body.length ? Buffer.from(body) : Buffer.from("x");
  if (body.length) changed[changed.length - 1] ^= 1;
  yield ["a body changed by one byte", headers, changed];
  const timestamp = Number(headers["webhook-timestamp"]);
  for (const [what, name, value] of [
    ["another webhook-id", "webhook-id", `${headers["webhook-id"]}0`],
    ["a webhook-timestamp one second later", "webhook-timestamp", String(timestamp + 1)],
    ["a webhook-timestamp one second earlier", "webhook-timestamp", String(timestamp - 1)],
    ["an old webhook-timestamp", "webhook-timestamp", String(timestamp - STALE_S)],
  ]) {
    yield [what, { ...headers, [name]: value }, body];
  }
}

/** Each thing that the library did and should not have done. */
function* problems({ Webhook, WebhookVerificationError }, document) {
  const webhook = new Webhook(document.secret);
  const verify = (headers, body) => webhook.verify(body, headers, { jsonParse: false });
  const body = Buffer.from(document.body);
  try {
    verify(document.headers, body);
  } catch (error) {
    yield `the webhook itself was not accepted: ${error}`;
  }
  for (const [what, headers, changed] of tampered(document.headers, body)) {
    try {
      verify(headers, changed);
      yield `${what} was accepted`;
    } catch (error) {
      if (!(error instanceof WebhookVerificationError)) yield `${what} was not judged: ${error}`;
    }
  }
}

async function main() {
  if (!process.env.POSTRIDER_NPM) throw new Error("POSTRIDER_NPM names no folder");
  const library = createRequire(`${process.env.POSTRIDER_NPM}/`)("standardwebhooks");
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return [...problems(library, JSON.parse(Buffer.concat(chunks).toString()))];
}

const found = await main().catch((error) => [`nothing was verified: ${error}`]);
if (found.length) {
  console.error(found.join("\n"));
  process.exitCode = 1;
} else {
  console.log("ok");
}
