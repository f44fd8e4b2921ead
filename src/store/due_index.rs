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

/// Ranges of endpoint numbers: after the first, up to the second.
pub(super) type Ranges = Vec<(i32, i32)>;

/// Returns the ranges of shards.
pub(super) fn ranges_of(shards: &[i32]) -> Ranges {
    let numbers = 1 << ENDPOINT_BITS;
    let range = |shard: &i32| (shard * numbers, shard * numbers + (numbers - 1));
    shards.iter().map(range).collect()
}

/// Returns the ranges without these numbers, which are in order.
pub(super) fn without(ranges: Ranges, numbers: &[i32]) -> Ranges {
    let mut left = Vec::with_capacity(ranges.len() + numbers.len());
    for (first, last) in ranges {
        let mut after = first;
        for number in numbers.iter().filter(|one| first < **one && **one <= last) {
            left.push((after, number - 1));
            after = *number;
        }
        left.push((after, last));
    }
    left.retain(|(after, last)| after < last);
    left
}

/// Returns a recursive CTE of the endpoints of these ranges in an index. It ends each range with
/// NULL.
pub(super) fn walk(name: &str, index: DueIndex, ranges: &Ranges) -> String {
    let column = index.column();
    // Ordered by both columns, because no other index can serve that: the one by endpoint would
    // read every delivery ever stored.
    let first_after = |after: &str, last: &str| {
        format!(
            "(SELECT d.endpoint FROM webhook_deliveries AS d WHERE d.{column} IS NOT NULL \
             AND d.endpoint > {after} AND d.endpoint <= {last} ORDER BY d.endpoint, d.{column} LIMIT 1)"
        )
    };
    // Numbers need no quoting. Without ranges, one that is empty.
    let mut rows: Vec<String> = ranges
        .iter()
        .map(|(after, last)| format!("({after}, {last})"))
        .collect();
    if rows.is_empty() {
        rows.push("(0, 0)".to_owned());
    }
    format!(
        "{name}_ranges (after, last) AS (VALUES {rows}), \
         {name} (endpoint, last) AS ( \
             SELECT {first}, last FROM {name}_ranges \
             UNION ALL \
             SELECT {next}, {name}.last FROM {name} WHERE endpoint IS NOT NULL \
         )",
        rows = rows.join(", "),
        first = first_after(
            &format!("{name}_ranges.after"),
            &format!("{name}_ranges.last")
        ),
        next = first_after(&format!("{name}.endpoint"), &format!("{name}.last")),
    )
}

/// Returns a CTE of the endpoints of a walk, and of those that are `known` with the time before which
/// none of their deliveries is due.
pub(super) fn with_known(name: &str, walk: &str, known: &[(i32, i64)]) -> String {
    let known: Vec<String> = known
        .iter()
        .map(|(endpoint, since)| format!("({endpoint}, {since})"))
        .collect();
    let known = match known[..] {
        [] => String::new(),
        _ => format!(" UNION ALL VALUES {}", known.join(", ")),
    };
    format!(
        "{name} (endpoint, since) AS ( \
             SELECT endpoint, 0 FROM {walk} WHERE endpoint IS NOT NULL{known})"
    )
}

/// Returns a CTE of the endpoints of a [`walk`] or of [`with_known`]: `next` is the time at which the
/// first pending delivery of each is due (NULL without one), and `next_created` and `next_seq` are the
/// rest of its place in the index, or 0 if nothing is before it. `since` is a column of `of`, or 0.
pub(super) fn with_next(name: &str, of: &str, since: &str) -> String {
    format!(
        "{name}_first AS MATERIALIZED (SELECT endpoint, {since} AS since, {first} AS first \
             FROM {of} WHERE endpoint IS NOT NULL), \
         {name} AS MATERIALIZED (SELECT endpoint, since, {next} FROM {name}_first)",
        first = first_status(&format!("{of}.endpoint"), since),
        next = next_columns(
            &format!("{name}_first.endpoint"),
            "first",
            &format!("{name}_first.since")
        ),
    )
}

/// Returns the status of the first delivery of an endpoint in the index of what is due, from the time
/// `since` on.
pub(super) fn first_status(endpoint: &str, since: &str) -> String {
    format!(
        "(SELECT d.status FROM webhook_deliveries AS d WHERE d.endpoint = {endpoint} \
         AND d.due_at >= {since} ORDER BY d.due_at, d.created_at, d.event_seq LIMIT 1)"
    )
}

/// Returns the columns of [`with_next`] for an endpoint; `first` is its [`first_status`]. Usually it
/// is pending, and the index alone answers. The `sending` deliveries before the first pending one
/// are skipped one by one; their number is at most the endpoint's concurrency.
pub(super) fn next_columns(endpoint: &str, first: &str, since: &str) -> String {
    let pending = Status::Pending;
    let of_first_pending = |column: &str| {
        format!(
            "(SELECT d.{column} FROM webhook_deliveries AS d WHERE d.endpoint = {endpoint} \
             AND d.due_at >= {since} AND d.status = '{pending}' \
             ORDER BY d.due_at, d.created_at, d.event_seq LIMIT 1)"
        )
    };
    let either = |usual: &str, column: &str| {
        let other = of_first_pending(column);
        format!("CASE WHEN {first} = '{pending}' THEN {usual} ELSE {other} END")
    };
    let earliest = format!(
        "(SELECT d.due_at FROM webhook_deliveries AS d WHERE d.endpoint = {endpoint} \
         AND d.due_at >= {since} ORDER BY d.due_at, d.created_at, d.event_seq LIMIT 1)"
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
pub(super) fn is_sending(d: &str, of: &str, endpoint: &str, since: &str) -> String {
    format!(
        "{d}.endpoint = {of}.{endpoint} AND {d}.due_at >= {since} AND {d}.status = '{}' \
         AND ({d}.due_at, {d}.created_at, {d}.event_seq) < (coalesce({of}.next, {FAR}), \
             coalesce({of}.next_created, {FAR}), coalesce({of}.next_seq, {FAR}))",
        Status::Sending
    )
}

/// Returns the number of deliveries that are `sending` at an endpoint of [`with_next`].
pub(super) fn count_sending(of: &str, endpoint: &str) -> String {
    format!(
        "(SELECT count(*) FROM webhook_deliveries AS d WHERE {})",
        is_sending("d", of, endpoint, "0")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_endpoints_are_cut_out_of_the_ranges() {
        let ranges = vec![(0, 9), (20, 29)];
        assert_eq!(
            without(ranges.clone(), &[3, 4, 9, 15, 29]),
            [(0, 2), (4, 8), (20, 28)]
        );
        assert_eq!(without(ranges.clone(), &[]), ranges);
        assert_eq!(without(vec![(0, 1)], &[1]), []);
    }
}
