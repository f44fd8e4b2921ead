//! The judgement: what was accepted, what was received, and what happened to the nodes.
//!
//! Pure functions of the ledgers.

use std::collections::HashMap;
use std::time::Duration;

use crate::ledger::{Accepted, Request, Struck};

/// Time after a fault in which its repeated requests may arrive: other nodes find out first.
const AFTERMATH: Duration = Duration::from_secs(20);

/// Time by which a request may be early at the receiver: requests travel for different times.
const TRAVEL: Duration = Duration::from_millis(100);

/// The rules of the endpoints of a campaign.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Endpoints that get their events in order.
    pub(crate) ordered: Vec<usize>,
    /// Endpoints with a rate limit: number of starts in a minute.
    pub(crate) limited: Vec<(usize, usize)>,
    /// Time at which these limits were lifted.
    pub(crate) limited_until: Duration,
}

/// The verdict. All counts but `duplicates` are violations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CampaignVerdict {
    pub(crate) accepted: usize,
    pub(crate) requests: usize,
    pub(crate) lost: usize,
    pub(crate) corrupted: usize,
    pub(crate) not_signed: usize,
    /// Requests beyond the first of an event.
    pub(crate) duplicates: usize,
    /// Those of them that no crash explains.
    pub(crate) unexplained: usize,
    pub(crate) out_of_order: usize,
    pub(crate) above_limit: usize,
    /// Times from the response to the publisher to the first request, in order.
    pub(crate) waits: Vec<Duration>,
    /// The longest of them of each endpoint, in order.
    pub(crate) longest_waits: Vec<Duration>,
}

impl CampaignVerdict {
    /// Returns the number of violations.
    pub(crate) fn violations(&self) -> usize {
        self.lost
            + self.corrupted
            + self.not_signed
            + self.unexplained
            + self.out_of_order
            + self.above_limit
    }
}

/// Compares the ledgers.
pub(crate) fn judge(
    accepted: &[Accepted],
    received: &[Request],
    faults: &[Struck],
    rules: &Rules,
) -> CampaignVerdict {
    let events: HashMap<&str, &Accepted> =
        accepted.iter().map(|one| (one.id.as_str(), one)).collect();
    let mut verdict = CampaignVerdict {
        accepted: accepted.len(),
        ..CampaignVerdict::default()
    };
    let mut first: HashMap<&str, Duration> = HashMap::new();
    let mut longest: HashMap<usize, Duration> = HashMap::new();
    let mut last_place: HashMap<usize, u64> = HashMap::new();
    let mut starts: HashMap<usize, Vec<Duration>> = HashMap::new();
    for request in received {
        verdict.requests += 1;
        verdict.not_signed += usize::from(!request.is_signed);
        if request.at <= rules.limited_until {
            starts.entry(request.endpoint).or_default().push(request.at);
        }
        let Some(event) = events.get(request.id.as_str()) else {
            continue;
        };
        verdict.corrupted += usize::from(event.hash != request.hash);
        if first.contains_key(event.id.as_str()) {
            verdict.duplicates += 1;
            verdict.unexplained += usize::from(!is_explained(request.at, faults));
        } else {
            first.insert(&event.id, request.at);
            // A limit makes its events wait on purpose.
            if rules.limited.iter().all(|(one, _)| *one != event.endpoint) {
                let wait = request.at.saturating_sub(event.answered);
                verdict.waits.push(wait);
                let longest = longest.entry(event.endpoint).or_default();
                *longest = wait.max(*longest);
            }
        }
        if rules.ordered.contains(&event.endpoint) {
            let last = last_place.entry(event.endpoint).or_default();
            verdict.out_of_order += usize::from(event.place < *last);
            *last = event.place.max(*last);
        }
    }
    verdict.lost = accepted.len() - first.len();
    for (endpoint, limit) in &rules.limited {
        let starts = starts.get(endpoint).map_or(&[][..], Vec::as_slice);
        let least = Duration::from_secs(60).saturating_sub(TRAVEL);
        let windows = starts.windows(limit + 1);
        verdict.above_limit += windows
            .filter(|window| window[*limit].saturating_sub(window[0]) < least)
            .count();
    }
    verdict.waits.sort_unstable();
    verdict.longest_waits = longest.into_values().collect();
    verdict.longest_waits.sort_unstable();
    verdict
}

/// Returns true if a crash may have caused a repeated request at `at`. A clean stop repeats none.
fn is_explained(at: Duration, faults: &[Struck]) -> bool {
    faults
        .iter()
        .filter(|fault| !fault.is_clean)
        .any(|fault| fault.from <= at && at <= fault.until + AFTERMATH)
}

/// Returns the value below which `share` of the sorted values are.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a list"
    )]
    let index = (sorted.len() as f64 * share) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(endpoint: usize, place: u64) -> Accepted {
        Accepted {
            asked: Duration::from_secs(place),
            answered: Duration::from_secs(place),
            endpoint,
            place,
            id: format!("{endpoint}-{place}"),
            hash: "h".into(),
        }
    }

    fn request(endpoint: usize, place: u64, second: u64) -> Request {
        Request {
            at: Duration::from_secs(second),
            endpoint,
            id: format!("{endpoint}-{place}"),
            hash: "h".into(),
            is_signed: true,
            status: 200,
        }
    }

    fn rules() -> Rules {
        Rules {
            ordered: vec![0],
            limited: vec![(1, 2)],
            limited_until: Duration::from_secs(100),
        }
    }

    #[test]
    fn each_violation_is_counted_as_what_it_is() {
        let accepted: Vec<Accepted> = (1..=4).map(|place| event(0, place)).collect();
        let mut received: Vec<Request> = [1, 3, 2, 3]
            .into_iter()
            .map(|place| request(0, place, 10 + place))
            .collect();
        received[0].hash = "other".into();
        received[1].is_signed = false;
        let verdict = judge(&accepted, &received, &[], &rules());
        assert_eq!(verdict.lost, 1, "the fourth");
        assert_eq!(verdict.corrupted, 1, "the first");
        assert_eq!(verdict.not_signed, 1, "the third");
        assert_eq!(verdict.out_of_order, 1, "the second");
        assert_eq!((verdict.duplicates, verdict.unexplained), (1, 1));
        assert_eq!(verdict.violations(), 5);
    }

    #[test]
    fn a_repeated_request_is_explained_by_a_crash_and_by_nothing_else() {
        let fault = |is_clean| Struck {
            from: Duration::from_secs(10),
            until: Duration::from_secs(12),
            what: "a fault".into(),
            is_clean,
        };
        let received = [request(0, 1, 9), request(0, 1, 11)];
        let unexplained = |fault| judge(&[event(0, 1)], &received, &[fault], &rules()).unexplained;
        assert_eq!(unexplained(fault(false)), 0);
        assert_eq!(unexplained(fault(true)), 1);
    }

    #[test]
    fn three_requests_within_a_minute_are_above_a_limit_of_two() {
        let accepted: Vec<Accepted> = (1..=4).map(|place| event(1, place)).collect();
        let at = |seconds: [u64; 3]| {
            let places = (1..).zip(seconds);
            let received: Vec<Request> = places
                .map(|(place, second)| request(1, place, second))
                .collect();
            judge(&accepted, &received, &[], &rules()).above_limit
        };
        assert_eq!(at([0, 1, 59]), 1);
        assert_eq!(at([0, 1, 60]), 0);
    }
}
