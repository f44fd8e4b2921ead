-- Times are microseconds since the Unix epoch; ids, states and JSON are text; bodies are bytes.
-- Words are compared one by one: for `IN`, SQLite fills a table of them for each row that is written.

-- Counters of the database itself: `endpoints` is raised by each change of an endpoint, `tokens` by
-- each change of a token, `probe` by readiness.
CREATE TABLE webhook_counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO webhook_counters (name, value) VALUES ('endpoints', 0), ('tokens', 0), ('probe', 0);

-- Who sends to which part of the endpoints, and until when: a lease. Taking one over raises its epoch, and
-- what was claimed under an earlier one is stale.
CREATE TABLE webhook_shards (
    shard      INTEGER NOT NULL PRIMARY KEY,
    epoch      BIGINT  NOT NULL,
    holder     TEXT,
    expires_at BIGINT,
    CHECK ((holder IS NULL) = (expires_at IS NULL))
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
    expires_at BIGINT NOT NULL
);

-- `settings` is JSON: a limit that is not in it follows the engine's defaults.
CREATE TABLE webhook_endpoints (
    id             TEXT    NOT NULL PRIMARY KEY,
    tenant         TEXT    NOT NULL,
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

-- `seq` is the order of publishing.
CREATE TABLE webhook_events (
    seq          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant       TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    event_type   TEXT    NOT NULL,
    ordering_key TEXT,
    content_type TEXT    NOT NULL,
    content_hash BLOB    NOT NULL,
    body         BLOB    NOT NULL,
    created_at   BIGINT  NOT NULL,
    -- The publisher's trace (W3C Trace Context).
    traceparent  TEXT
);
CREATE UNIQUE INDEX webhook_events_by_id ON webhook_events (tenant, id);

CREATE TABLE webhook_deliveries (
    id              TEXT    NOT NULL PRIMARY KEY,
    event_seq       BIGINT  NOT NULL REFERENCES webhook_events (seq),
    -- The endpoint's, which follows from its id.
    shard           INTEGER NOT NULL,
    endpoint_id     TEXT    NOT NULL REFERENCES webhook_endpoints (id),
    tenant          TEXT    NOT NULL,
    status          TEXT    NOT NULL CHECK (status = 'pending' OR status = 'sending' OR status = 'delivered'
                     OR status = 'failed'),
    next_attempt_at BIGINT,
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
    in_line         BOOLEAN NOT NULL,
    -- A pending delivery waits for a time, for a person or for its turn, and for nothing else.
    CHECK ((status = 'pending') = ((next_attempt_at IS NULL) <> (hold_reason IS NULL))),
    CHECK (status = 'pending' OR (next_attempt_at IS NULL AND hold_reason IS NULL)),
    CHECK ((status = 'sending') = (claimed_at IS NOT NULL)),
    CHECK ((status = 'failed') = (failure_reason IS NOT NULL)),
    CHECK (status <> 'delivered' OR (delivered_at IS NOT NULL AND NOT in_line)),
    CHECK (NOT in_line OR ordering_key IS NOT NULL),
    CHECK (hold_reason <> 'order' OR in_line)
) WITHOUT ROWID;
-- Claims, and by its last columns the counts and the expiry of what waits.
CREATE INDEX webhook_deliveries_pending
    ON webhook_deliveries (shard, endpoint_id, next_attempt_at, created_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_sending ON webhook_deliveries (shard, endpoint_id) WHERE status = 'sending';
-- Whose turn it is in an ordering key, and what failed and keeps others waiting.
CREATE INDEX webhook_deliveries_in_line
    ON webhook_deliveries (shard, endpoint_id, ordering_key, event_seq) WHERE in_line;
CREATE INDEX webhook_deliveries_blocking
    ON webhook_deliveries (shard, endpoint_id, updated_at) WHERE status = 'failed' AND in_line;
-- What a recovery brings back.
CREATE INDEX webhook_deliveries_failed ON webhook_deliveries (endpoint_id, updated_at, id) WHERE status = 'failed';
CREATE INDEX webhook_deliveries_by_event ON webhook_deliveries (event_seq);
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint_id, id);

-- One row for each claim that was started. Appended, never changed.
CREATE TABLE webhook_attempts (
    delivery_id      TEXT    NOT NULL REFERENCES webhook_deliveries (id),
    claim_no         BIGINT  NOT NULL,
    endpoint_id      TEXT    NOT NULL,
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
    request_headers  TEXT,
    remote_address   TEXT,
    timings          TEXT    NOT NULL,
    PRIMARY KEY (delivery_id, claim_no),
    CHECK ((outcome = 'interrupted' OR outcome = 'connection_lost') = (number IS NULL))
) WITHOUT ROWID;
-- What a rate limit remembers, and the endpoint's statistics.
CREATE INDEX webhook_attempts_by_endpoint ON webhook_attempts (endpoint_id, ended_at);

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
    failed_id   TEXT,
    event_seq   BIGINT,
    created_at  BIGINT  NOT NULL,
    CHECK (since < until),
    CHECK ((failed_at IS NULL) = (failed_id IS NULL))
);
CREATE INDEX webhook_recoveries_running ON webhook_recoveries (shard) WHERE progress = 'running';
