//! Steps from endpoint to endpoint through the index of what is due, or held: a long backlog costs
//! no more than a short one.

use crate::domain::lease::ENDPOINT_BITS;
use crate::domain::lifecycle::Status;

/// A time after every other one, in microseconds.
pub(super) const FAR: i64 = i64::MAX;

/// A partial index of deliveries that begins with the endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) enum DueIndex {
    /// Deliveries that are pending with a due time, or sending.
    Live,
    /// Deliveries that are pending without a due time.
    Held,
}

impl DueIndex {
    /// The column that is set exactly for its rows; the index is sorted by it.
    const fn column(self) -> &'static str {
        match self {
            Self::Live => "due_at",
            Self::Held => "hold_reason",
        }
    }
}

/// Returns a recursive CTE of the endpoints of these shards in an index. It ends each shard with
/// NULL.
pub(super) fn walk(name: &str, index: DueIndex, shards: &[i32]) -> String {
    let column = index.column();
    // Ordered by both columns, because no other index can serve that: the one by endpoint would
    // read every delivery ever stored.
    let first_after = |after: &str, last: &str| {
        format!(
            "(SELECT d.endpoint FROM webhook_deliveries AS d WHERE d.{column} IS NOT NULL \
             AND d.endpoint > {after} AND d.endpoint <= {last} ORDER BY d.endpoint, d.{column} LIMIT 1)"
        )
    };
    let numbers = 1 << ENDPOINT_BITS;
    let last = format!("shard * {numbers} + {}", numbers - 1);
    // Numbers need no quoting.
    let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
    format!(
        "{name} (endpoint, last) AS ( \
             SELECT {first}, {last} FROM webhook_shards WHERE shard IN ({shards}) \
             UNION ALL \
             SELECT {next}, {name}.last FROM {name} WHERE endpoint IS NOT NULL \
         )",
        first = first_after(
            &format!("webhook_shards.shard * {numbers}"),
            &format!("webhook_shards.{last}")
        ),
        next = first_after(&format!("{name}.endpoint"), &format!("{name}.last")),
        shards = if shards.is_empty() {
            "NULL".to_owned()
        } else {
            shards.join(", ")
        },
    )
}

/// Returns a CTE of the endpoints of a [`walk`]: `next` is the time at which the first pending
/// delivery of each is due (NULL without one), and `next_created` and `next_seq` are the rest of its
/// place in the index, or 0 if nothing is before it.
pub(super) fn with_next(name: &str, walk: &str) -> String {
    format!(
        "{name}_first AS MATERIALIZED (SELECT endpoint, {first} AS first \
             FROM {walk} WHERE endpoint IS NOT NULL), \
         {name} AS MATERIALIZED (SELECT endpoint, {next} FROM {name}_first)",
        first = first_status(&format!("{walk}.endpoint")),
        next = next_columns(&format!("{name}_first.endpoint"), "first"),
    )
}

/// Returns the status of the first delivery of an endpoint in the index of what is due.
pub(super) fn first_status(endpoint: &str) -> String {
    format!(
        "(SELECT d.status FROM webhook_deliveries AS d WHERE d.endpoint = {endpoint} \
         AND d.due_at IS NOT NULL ORDER BY d.due_at, d.created_at, d.event_seq LIMIT 1)"
    )
}

/// Returns the columns of [`with_next`] for an endpoint; `first` is its [`first_status`]. Usually it
/// is pending, and the index alone answers. The `sending` deliveries before the first pending one
/// are skipped one by one; their number is at most the endpoint's concurrency.
pub(super) fn next_columns(endpoint: &str, first: &str) -> String {
    let pending = Status::Pending;
    let of_first_pending = |column: &str| {
        format!(
            "(SELECT d.{column} FROM webhook_deliveries AS d WHERE d.endpoint = {endpoint} \
             AND d.due_at IS NOT NULL AND d.status = '{pending}' \
             ORDER BY d.due_at, d.created_at, d.event_seq LIMIT 1)"
        )
    };
    let either = |usual: &str, column: &str| {
        let other = of_first_pending(column);
        format!("CASE WHEN {first} = '{pending}' THEN {usual} ELSE {other} END")
    };
    let earliest = format!(
        "(SELECT d.due_at FROM webhook_deliveries AS d WHERE d.endpoint = {endpoint} \
         AND d.due_at IS NOT NULL ORDER BY d.due_at, d.created_at, d.event_seq LIMIT 1)"
    );
    format!(
        "{} AS next, {} AS next_created, {} AS next_seq",
        either(&earliest, "due_at"),
        either("0", "created_at"),
        either("0", "event_seq")
    )
}

/// Selects the deliveries `d` that are `sending` at an endpoint of [`with_next`]. The earliest
/// deliveries are claimed first, so all before the first pending one are.
pub(super) fn is_sending(d: &str, of: &str, endpoint: &str) -> String {
    format!(
        "{d}.endpoint = {of}.{endpoint} AND {d}.due_at IS NOT NULL AND {d}.status = '{}' \
         AND ({d}.due_at, {d}.created_at, {d}.event_seq) < (coalesce({of}.next, {FAR}), \
             coalesce({of}.next_created, {FAR}), coalesce({of}.next_seq, {FAR}))",
        Status::Sending
    )
}

/// Returns the number of deliveries that are `sending` at an endpoint of [`with_next`].
pub(super) fn count_sending(of: &str, endpoint: &str) -> String {
    format!(
        "(SELECT count(*) FROM webhook_deliveries AS d WHERE {})",
        is_sending("d", of, endpoint)
    )
}
