"""Holds one received webhook to the public Python library, `standardwebhooks` 1.1 or newer.

Reads {"secret", "headers": {"webhook-id", "webhook-timestamp", "webhook-signature"}, "body"} as JSON
from stdin. Prints "ok" and exits 0 if the library accepts the webhook and rejects every tampered
variant of it with its own error. Otherwise it says on stderr what went wrong and exits 1.
"""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

STALE_S = 10 * 60


def tampered(headers, body):
    """What a receiver must reject: a name, headers and a body for each."""
    changed = body[:-1] + bytes([body[-1] ^ 1]) if body else b"x"
    yield "a body changed by one byte", headers, changed
    timestamp = int(headers["webhook-timestamp"])
    for what, name, value in [
        ("another webhook-id", "webhook-id", headers["webhook-id"] + "0"),
        ("a webhook-timestamp one second later", "webhook-timestamp", str(timestamp + 1)),
        ("a webhook-timestamp one second earlier", "webhook-timestamp", str(timestamp - 1)),
        ("an old webhook-timestamp", "webhook-timestamp", str(timestamp - STALE_S)),
    ]:
        yield what, {**headers, name: value}, body


def problems(document):
    """Each thing that the library did and should not have done."""
    webhook = Webhook(document["secret"])
    headers, body = document["headers"], document["body"].encode()
    try:
        webhook.verify(body, headers, json_parse=False)
    except Exception as error:
        yield f"the webhook itself was not accepted: {error!r}"
    for what, headers, body in tampered(headers, body):
        try:
            webhook.verify(body, headers, json_parse=False)
            yield f"{what} was accepted"
        except WebhookVerificationError:
            pass
        except Exception as error:
            yield f"{what} was not judged: {error!r}"


def main():
    try:
        found = list(problems(json.load(sys.stdin.buffer)))
    except Exception as error:
        found = [f"nothing was verified: {error!r}"]
    if found:
        sys.exit("\n".join(found))
    print("ok")


main()
