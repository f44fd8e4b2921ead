//! The tables, with types that both databases share. Maintained by hand (see `diesel.toml`).

diesel::table! {
    webhook_counters (name) {
        name -> Text,
        value -> BigInt,
    }
}

diesel::table! {
    webhook_shards (shard) {
        shard -> Integer,
        epoch -> BigInt,
        holder -> Nullable<Text>,
        expires_at -> Nullable<BigInt>,
        tail_instance -> Nullable<Text>,
        tail_epoch -> Nullable<BigInt>,
        tail_until -> Nullable<BigInt>,
        tail_attempts -> Nullable<Text>,
    }
}

diesel::table! {
    webhook_nodes (instance) {
        instance -> Text,
        name -> Text,
        lock -> Nullable<Text>,
        started_at -> BigInt,
        expires_at -> BigInt,
        leaving -> Bool,
    }
}

diesel::table! {
    webhook_tenants (number) {
        number -> Integer,
        tenant -> Text,
    }
}

diesel::table! {
    webhook_endpoints (id) {
        number -> Integer,
        id -> Text,
        tenant -> Integer,
        url -> Text,
        description -> Text,
        event_types -> Text,
        headers -> Text,
        settings -> Text,
        pause_reason -> Nullable<Text>,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        version -> BigInt,
        change_no -> BigInt,
    }
}

diesel::table! {
    webhook_endpoint_secrets (endpoint_id, created_at) {
        endpoint_id -> Text,
        secret -> Text,
        private_key -> Text,
        created_at -> BigInt,
        expires_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    webhook_endpoint_health (endpoint_id) {
        endpoint_id -> Text,
        consecutive_failures -> Integer,
        breaker -> Text,
        probe_at -> Nullable<BigInt>,
        probes -> Integer,
        allowed -> Nullable<Integer>,
        half_open_since -> Nullable<BigInt>,
        hold_until -> Nullable<BigInt>,
        rests -> Integer,
        failing_since -> Nullable<BigInt>,
        waits_until -> Nullable<BigInt>,
        epoch -> BigInt,
    }
}

diesel::table! {
    webhook_events (seq) {
        seq -> BigInt,
        tenant -> Integer,
        id -> Binary,
        event_type -> Text,
        ordering_key -> Nullable<Text>,
        content_type -> Text,
        content_hash -> Binary,
        created_at -> BigInt,
        traceparent -> Nullable<Text>,
        body -> Binary,
    }
}

diesel::table! {
    webhook_deliveries (event_seq, endpoint) {
        event_seq -> BigInt,
        endpoint -> Integer,
        status -> Text,
        due_at -> Nullable<BigInt>,
        failed_at -> Nullable<BigInt>,
        hold_reason -> Nullable<Text>,
        failure_reason -> Nullable<Text>,
        retries_used -> Integer,
        attempt_count -> Integer,
        interruptions -> Integer,
        owner_epoch -> BigInt,
        claim_no -> BigInt,
        claimed_at -> Nullable<BigInt>,
        delivered_at -> Nullable<BigInt>,
        created_at -> BigInt,
        updated_at -> BigInt,
        retried_at -> Nullable<BigInt>,
        ordering_key -> Nullable<Text>,
        in_order -> Bool,
    }
}

diesel::table! {
    webhook_attempts (event_seq, endpoint, claim_no) {
        event_seq -> BigInt,
        endpoint -> Integer,
        claim_no -> BigInt,
        number -> Nullable<Integer>,
        started_at -> BigInt,
        ended_at -> BigInt,
        outcome -> Text,
        status_code -> Nullable<Integer>,
        error -> Nullable<Text>,
        response_body -> Nullable<Text>,
        response_headers -> Nullable<Text>,
        request_parts -> Nullable<Binary>,
        remote_address -> Nullable<Binary>,
        timings -> Nullable<Binary>,
    }
}

diesel::table! {
    webhook_tokens (id) {
        id -> Text,
        name -> Text,
        scope -> Text,
        tenant -> Nullable<Text>,
        hash -> Binary,
        created_at -> BigInt,
    }
}

diesel::table! {
    webhook_keys (name) {
        name -> Text,
        key -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    webhook_schema_migrations (version) {
        version -> Text,
        run_at -> BigInt,
        compatible -> Bool,
    }
}

diesel::table! {
    webhook_recoveries (id) {
        id -> Text,
        shard -> Integer,
        endpoint_id -> Text,
        tenant -> Text,
        include -> Text,
        since -> BigInt,
        until -> BigInt,
        progress -> Text,
        matched -> BigInt,
        requeued -> BigInt,
        failed_at -> Nullable<BigInt>,
        failed_seq -> Nullable<BigInt>,
        event_seq -> Nullable<BigInt>,
        created_at -> BigInt,
    }
}

diesel::joinable!(webhook_endpoints -> webhook_tenants (tenant));
diesel::joinable!(webhook_events -> webhook_tenants (tenant));
diesel::joinable!(webhook_deliveries -> webhook_events (event_seq));
diesel::joinable!(webhook_endpoint_secrets -> webhook_endpoints (endpoint_id));
diesel::joinable!(webhook_endpoint_health -> webhook_endpoints (endpoint_id));

diesel::allow_tables_to_appear_in_same_query!(
    webhook_tenants,
    webhook_endpoints,
    webhook_endpoint_secrets,
    webhook_endpoint_health,
    webhook_events,
    webhook_deliveries,
    webhook_attempts,
);
