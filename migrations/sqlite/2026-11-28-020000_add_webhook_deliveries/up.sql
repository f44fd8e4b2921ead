-- Times are microseconds since the Unix epoch; ids, states and JSON are text; bodies are bytes.
-- Words are compared one by one: for `IN`, SQLite fills a table of them for each row that is written.

-- Counters of the database itself: `endpoints` is raised by each change of an endpoint, `tokens` by
-- each change of a token, `probe` by readiness.
CREATE TABLE webhook_counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO webhook_counters (name, value) VALUES ('endpoints', 0), ('tokens', 0), ('probe', 0);
-- The last `seq` of an event, and the last endpoint number of each shard.
INSERT INTO webhook_counters (name, value) VALUES ('events', 0);
INSERT INTO webhook_counters (name, value)
    WITH RECURSIVE numbers (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM numbers WHERE shard < 63)
    SELECT 'endpoint_number_' || shard, shard * 33554432 FROM numbers;

-- Who sends to which part of the endpoints, and until when: a lease. Taking one over raises its epoch, and
-- what was claimed under an earlier one is stale.
CREATE TABLE webhook_shards (
    shard      INTEGER NOT NULL PRIMARY KEY,
    epoch      BIGINT  NOT NULL,
    holder     TEXT,
    expires_at BIGINT,
    -- Its tail: what the process that gave it up still has on the wire under that epoch (a JSON list), and until when.
    tail_instance TEXT,
    tail_epoch    BIGINT,
    tail_until    BIGINT,
    tail_attempts TEXT,
    CHECK ((holder IS NULL) = (expires_at IS NULL)),
    CHECK ((tail_instance IS NULL) = (tail_epoch IS NULL)),
    CHECK ((tail_instance IS NULL) = (tail_until IS NULL)),
    CHECK ((tail_instance IS NULL) = (tail_attempts IS NULL))
);
INSERT INTO webhook_shards (shard, epoch)
    WITH RECURSIVE numbers (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM numbers WHERE shard < 63)
    SELECT shard, 0 FROM numbers;

-- The processes that share this database, each until it is heard of no more.
CREATE TABLE webhook_nodes (
    instance   TEXT NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    -- What its process holds for as long as it lives: whoever holds that has proved it gone.
    lock       TEXT,
    started_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- True while it hands its shards over: others share them without it.
    leaving    BOOLEAN NOT NULL
);

-- A tenant's number is used in place of its name, and never given to another one.
CREATE TABLE webhook_tenants (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL UNIQUE
);

-- `number` is shard * 2^25 + a counter within the shard, so that a shard is one range of every index that
-- begins with `endpoint`. `settings` is JSON: a limit that is not in it follows the engine's defaults.
CREATE TABLE webhook_endpoints (
    number         INTEGER NOT NULL PRIMARY KEY,
    id             TEXT    NOT NULL UNIQUE,
    tenant         INTEGER NOT NULL REFERENCES webhook_tenants (number),
    url            TEXT    NOT NULL,
    description    TEXT    NOT NULL,
    event_types    TEXT    NOT NULL,
    headers        TEXT    NOT NULL,
    settings       TEXT    NOT NULL,
    pause_reason   TEXT    CHECK (pause_reason = 'operator' OR pause_reason = 'gone'
                     OR pause_reason = 'failing'),
    created_at     BIGINT  NOT NULL,
    updated_at     BIGINT  NOT NULL,
    deleted_at     BIGINT,
    version        BIGINT  NOT NULL,
    -- The value of the counter `endpoints` at its last change: what changed since is found by it.
    change_no      BIGINT  NOT NULL DEFAULT 0
);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant, id) WHERE deleted_at IS NULL;
CREATE INDEX webhook_endpoints_by_change ON webhook_endpoints (change_no);

CREATE TABLE webhook_endpoint_secrets (
    endpoint_id TEXT   NOT NULL REFERENCES webhook_endpoints (id),
    secret      TEXT   NOT NULL,
    private_key TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    PRIMARY KEY (endpoint_id, created_at)
);

-- What every attempt may change, apart from the settings that hardly ever do.
CREATE TABLE webhook_endpoint_health (
    endpoint_id          TEXT    NOT NULL PRIMARY KEY REFERENCES webhook_endpoints (id),
    consecutive_failures INTEGER NOT NULL CHECK (consecutive_failures >= 0),
    breaker              TEXT    NOT NULL CHECK (breaker = 'closed' OR breaker = 'open'
                     OR breaker = 'half_open'),
    probe_at             BIGINT,
    probes               INTEGER NOT NULL CHECK (probes >= 0),
    allowed              INTEGER,
    half_open_since      BIGINT,
    hold_until           BIGINT,
    rests                INTEGER NOT NULL CHECK (rests >= 0),
    failing_since        BIGINT,
    waits_until          BIGINT,
    -- Raised by whoever changes it beside its supervisor, which then takes it over.
    epoch                BIGINT  NOT NULL,
    CHECK ((breaker = 'open') = (probe_at IS NOT NULL)),
    CHECK ((breaker = 'half_open') = (allowed IS NOT NULL)),
    CHECK ((breaker = 'half_open') = (half_open_since IS NOT NULL))
);

-- `seq` is the order of publishing: a counter * 256 + the number of the cell, which is 0.
CREATE TABLE webhook_events (
    seq          INTEGER NOT NULL PRIMARY KEY,
    tenant       INTEGER NOT NULL,
    -- 16 bytes if it is a UUID in lower case, otherwise its text.
    id           BLOB    NOT NULL,
    event_type   TEXT    NOT NULL,
    ordering_key TEXT,
    content_type TEXT    NOT NULL,
    content_hash BLOB    NOT NULL,
    created_at   BIGINT  NOT NULL,
    -- The publisher's trace (W3C Trace Context).
    traceparent  TEXT,
    -- The last column: those before it are read without it.
    body         BLOB    NOT NULL
);
CREATE UNIQUE INDEX webhook_events_by_id ON webhook_events (id, tenant);
CREATE INDEX webhook_events_by_tenant ON webhook_events (tenant, seq);

-- A delivery is an event on its way to an endpoint. No index names `status` or `updated_at`.
CREATE TABLE webhook_deliveries (
    event_seq       BIGINT  NOT NULL REFERENCES webhook_events (seq),
    endpoint        INTEGER NOT NULL REFERENCES webhook_endpoints (number),
    status          TEXT    NOT NULL CHECK (status = 'pending' OR status = 'sending' OR status = 'delivered'
                     OR status = 'failed'),
    -- When a pending one may be claimed; a claim does not change it.
    due_at          BIGINT,
    failed_at       BIGINT,
    hold_reason     TEXT    CHECK (hold_reason = 'interrupted' OR hold_reason = 'order'
                     OR hold_reason = 'refused_by_database'),
    failure_reason  TEXT    CHECK (failure_reason = 'retries_exhausted' OR failure_reason = 'cancelled'
                     OR failure_reason = 'endpoint_deleted' OR failure_reason = 'expired'),
    retries_used    INTEGER NOT NULL CHECK (retries_used >= 0),
    attempt_count   INTEGER NOT NULL CHECK (attempt_count >= 0),
    interruptions   INTEGER NOT NULL CHECK (interruptions >= 0),
    owner_epoch     BIGINT  NOT NULL,
    claim_no        BIGINT  NOT NULL,
    claimed_at      BIGINT,
    delivered_at    BIGINT,
    created_at      BIGINT  NOT NULL,
    updated_at      BIGINT  NOT NULL,
    -- When a person last asked for it to be sent (again): its age counts from there.
    retried_at      BIGINT,
    -- Its event's, and whether those after it in that wait for it.
    ordering_key    TEXT,
    in_order        BOOLEAN NOT NULL,
    PRIMARY KEY (event_seq, endpoint),
    -- A pending delivery waits for a time, for a person or for its turn, and for nothing else.
    CHECK (hold_reason IS NULL OR status = 'pending'),
    CHECK ((due_at IS NOT NULL) = (status = 'sending' OR (status = 'pending' AND hold_reason IS NULL))),
    CHECK ((status = 'sending') = (claimed_at IS NOT NULL)),
    CHECK ((status = 'failed') = (failed_at IS NOT NULL)),
    CHECK ((status = 'failed') = (failure_reason IS NOT NULL)),
    CHECK (status <> 'delivered' OR (delivered_at IS NOT NULL AND NOT in_order)),
    CHECK (NOT in_order OR ordering_key IS NOT NULL),
    CHECK (hold_reason <> 'order' OR in_order)
) WITHOUT ROWID;
-- What is pending with a time, or sending: claims, and by its last columns the counts and the expiry.
CREATE INDEX webhook_deliveries_live
    ON webhook_deliveries (endpoint, due_at, created_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_held
    ON webhook_deliveries (endpoint, hold_reason, created_at) WHERE hold_reason IS NOT NULL;
-- What a recovery brings back.
CREATE INDEX webhook_deliveries_failed
    ON webhook_deliveries (endpoint, failed_at) WHERE failed_at IS NOT NULL;
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint, event_seq);
-- Whose turn it is in an ordering key.
CREATE INDEX webhook_deliveries_in_order
    ON webhook_deliveries (endpoint, ordering_key, event_seq) WHERE in_order;
-- What failed and keeps others of its ordering key waiting.
CREATE INDEX webhook_deliveries_blocking
    ON webhook_deliveries (endpoint, failed_at) WHERE in_order AND failed_at IS NOT NULL;

-- One row for each claim that was started. Appended, never changed.
CREATE TABLE webhook_attempts (
    event_seq        BIGINT  NOT NULL,
    endpoint         INTEGER NOT NULL,
    claim_no         BIGINT  NOT NULL,
    number           INTEGER,
    started_at       BIGINT  NOT NULL,
    ended_at         BIGINT  NOT NULL,
    outcome          TEXT    NOT NULL CHECK (outcome = 'delivered' OR outcome = 'rejected'
                     OR outcome = 'timeout' OR outcome = 'dns_error' OR outcome = 'connect_error'
                     OR outcome = 'tls_error' OR outcome = 'protocol_error' OR outcome = 'connection_lost'
                     OR outcome = 'blocked_address' OR outcome = 'interrupted'),
    status_code      INTEGER,
    error            TEXT,
    response_body    TEXT,
    response_headers TEXT,
    -- What the event and the endpoint do not determine of the request's headers.
    request_parts    BLOB,
    remote_address   BLOB,
    timings          BLOB,
    PRIMARY KEY (event_seq, endpoint, claim_no),
    FOREIGN KEY (event_seq, endpoint) REFERENCES webhook_deliveries (event_seq, endpoint),
    CHECK ((outcome = 'interrupted' OR outcome = 'connection_lost') = (number IS NULL))
) WITHOUT ROWID;
-- What a rate limit remembers, and the endpoint's statistics.
CREATE INDEX webhook_attempts_by_endpoint ON webhook_attempts (endpoint, ended_at);

-- What callers of the API identify themselves by. Of a token only its SHA-256 is kept.
CREATE TABLE webhook_tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    scope      TEXT   NOT NULL CHECK (scope = 'admin' OR scope = 'publish' OR scope = 'read'
                     OR scope = 'portal'),
    tenant     TEXT,
    hash       BLOB   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- Keys of the database itself, shared by its processes: what sessions of browsers are signed with, and what
-- idempotency keys are made into event ids with.
CREATE TABLE webhook_keys (
    name       TEXT NOT NULL PRIMARY KEY,
    key        TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- What endpoints have not got in a span of time, and is brought back: how far each is.
CREATE TABLE webhook_recoveries (
    id          TEXT NOT NULL PRIMARY KEY,
    shard       INTEGER NOT NULL,
    endpoint_id TEXT NOT NULL REFERENCES webhook_endpoints (id),
    tenant      TEXT    NOT NULL,
    include     TEXT    NOT NULL CHECK (include = 'failed' OR include = 'missing' OR include = 'all'),
    since       BIGINT  NOT NULL,
    until       BIGINT  NOT NULL,
    progress    TEXT    NOT NULL CHECK (progress = 'running' OR progress = 'done'),
    matched     BIGINT  NOT NULL,
    requeued    BIGINT  NOT NULL,
    -- Where it goes on: after this delivery of those that failed, and after this event.
    failed_at   BIGINT,
    failed_seq  BIGINT,
    event_seq   BIGINT,
    created_at  BIGINT  NOT NULL,
    CHECK (since < until),
    CHECK ((failed_at IS NULL) = (failed_seq IS NULL))
);
CREATE INDEX webhook_recoveries_running ON webhook_recoveries (shard) WHERE progress = 'running';
