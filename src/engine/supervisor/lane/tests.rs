//! The rules of a lane, by example and by random inputs.

use proptest::prelude::*;

use super::*;
use crate::config::EngineConfig;
use crate::domain::breaker::Verdict;
use crate::domain::delivery::{AttemptRecord, Claimed, FinishedAttempt, Outcome, Seen};
use crate::domain::endpoint::{EndpointLimits, PauseReason};
use crate::domain::event::{Content, EventType, NewEvent};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{Life, State, Wait};
use crate::domain::rate_limit::RateLimit;
use crate::domain::retry::{Jitter, RetrySchedule};
use crate::domain::settings::{EndpointChange, Settings};
use crate::engine::messages::{AttemptEnd, AttemptEnded, Quiet, StopReply};
use crate::engine::supervisor::actions::Start;
use crate::engine::supervisor::messages::{Changed, Polled, RecordedOutcome};
use crate::engine::supervisor::read_ahead::Share;
use crate::store::{ClaimResult, DuePage, RateLimitHistory, Recorded, StoreError};

const ORIGIN: i64 = 1_800_000_000_000_000;

fn moment(seconds: u64) -> Moment {
    let at = Timestamp::from_micros(ORIGIN) + Duration::from_secs(seconds);
    let endpoint = EndpointId::from_text("ep_1");
    Moment {
        wall: at,
        schedule: at,
        monotonic: Duration::from_secs(100_000 + seconds),
        horizon: at,
        lease: Some(Lease {
            shard: Shard::of(&endpoint),
            epoch: 1,
        }),
        share: Share::among(1),
    }
}

/// An endpoint of three attempts at once, four in any minute, with one retry.
fn endpoint() -> Endpoint {
    let url = "https://a.example".parse().unwrap();
    let settings = Settings::create(EndpointChange::to(url)).unwrap();
    let limits = EndpointLimits {
        rate_limit: "4/min".parse().unwrap(),
        concurrency: 3,
        retry_schedule: RetrySchedule::new(vec![10]).unwrap(),
        ..EngineConfig::default().endpoint_defaults
    };
    let id = EndpointId::from_text("ep_1");
    let at = Timestamp::from_micros(ORIGIN);
    Endpoint::resolve(id, Tenant::default(), settings, &limits, at)
}

fn queued(number: usize, due: Timestamp) -> Queued {
    let data = serde_json::value::RawValue::from_string("1".into()).unwrap();
    let event = NewEvent::new(EventType::parse("a.b").unwrap(), Content::Data(data));
    Queued {
        key: DeliveryKey {
            event_seq: i64::try_from(number).unwrap(),
            endpoint: 1,
        },
        due,
        event: Arc::new(event.freeze(due).unwrap()),
        seen: Seen {
            claim_no: 0,
            life: Life::published(due, false),
        },
    }
}

/// A database and a network with work under way, to be answered in any order.
#[derive(Default)]
struct World {
    history: Vec<()>,
    reads: Vec<DueScan>,
    claims: Vec<Claim>,
    attempts: Vec<Start>,
    records: Vec<(Box<FinishedAttempt>, RecordedOutcome)>,
    interruptions: Vec<DeliveryKey>,
    permits_asked: usize,
    /// Deliveries in the database with a due time.
    pending: BTreeMap<DeliveryKey, Queued>,
    starts: Vec<Duration>,
    released: usize,
    /// Releases under way.
    releases: usize,
    quiet: Option<Quiet>,
    claimed: usize,
    started: usize,
    wakeup: Option<Wakeup>,
    stopped: bool,
    stop_requested: bool,
}

impl World {
    fn carry_out(&mut self, actions: Vec<Action>, moment: &Moment) {
        for action in actions {
            match action {
                Action::Claim(claim) => self.claims.push(claim),
                Action::Start(start) => {
                    self.started += 1;
                    self.starts.push(moment.monotonic);
                    self.attempts.push(start);
                }
                Action::SetTimer(wakeup) => self.wakeup = Some(wakeup),
                Action::RequestStop => self.stop_requested = true,
                Action::ReportQuiet(quiet) => self.quiet = Some(quiet),
                Action::Stop => self.stopped = true,
                Action::Report(_) => {}
                Action::Run(Work::LoadHistory) => self.history.push(()),
                Action::Run(Work::ReadDue(scan)) => self.reads.push(scan),
                Action::Run(Work::AwaitPermit) => self.permits_asked += 1,
                Action::Run(Work::Release(claims, at)) => {
                    self.released += claims.len();
                    self.releases += 1;
                    for claim in claims {
                        let life = Life {
                            state: State::Pending(Wait::Until(at)),
                            ..claim.life
                        };
                        self.put_back(claim.key, claim.claim_no, life, at);
                    }
                }
                Action::Run(Work::Record(finished, recorded)) => {
                    self.records.push((finished, recorded));
                }
                Action::Run(Work::Interrupt(claimed, _)) => self.interruptions.push(claimed.key),
                Action::Run(Work::LoadHealth | Work::Reclaim(_)) => {}
            }
        }
    }

    fn put_back(&mut self, key: DeliveryKey, claim_no: i64, life: Life, due: Timestamp) {
        let mut queued = queued(0, due);
        queued.key = key;
        queued.seen = Seen { claim_no, life };
        self.pending.insert(key, queued);
    }

    /// True if an answer is under way that will advance the lane.
    fn is_busy(&self) -> bool {
        !self.history.is_empty()
            || !self.reads.is_empty()
            || !self.claims.is_empty()
            || !self.attempts.is_empty()
            || !self.records.is_empty()
            || !self.interruptions.is_empty()
            || self.permits_asked > 0
            || self.stop_requested
    }
}

/// A lane in its world.
struct Bench {
    lane: Lane,
    world: World,
    now: u64,
    permits: usize,
    lease: bool,
}

impl Bench {
    fn new(endpoint: Endpoint) -> Self {
        let lane = Lane::new(Arc::new(endpoint), Duration::from_secs(60));
        let mut bench = Self {
            lane,
            world: World::default(),
            now: 0,
            permits: 9,
            lease: true,
        };
        bench.advance(Vec::new());
        bench
    }

    /// A bench whose history has been read and is empty.
    fn running(endpoint: Endpoint) -> Self {
        let mut bench = Self::new(endpoint);
        bench.answer_history();
        bench.answer_read();
        bench
    }

    fn moment(&self) -> Moment {
        let moment = moment(self.now);
        Moment {
            lease: moment.lease.filter(|_| self.lease),
            ..moment
        }
    }

    fn advance(&mut self, actions: Vec<Action>) {
        let moment = self.moment();
        self.world.wakeup = None;
        self.world.carry_out(actions, &moment);
        let wanted = self.lane.permits_wanted(&moment);
        let permits = wanted.min(self.permits);
        let actions = self.lane.advance(&moment, permits);
        self.permits -= actions
            .iter()
            .map(|action| match action {
                Action::Claim(claim) => claim.wanted.len(),
                _ => 0,
            })
            .sum::<usize>();
        self.world.carry_out(actions, &moment);
    }

    fn answer_history(&mut self) {
        if self.world.history.pop().is_some() {
            let limit = self.lane.endpoint().limits.rate_limit;
            let history = RateLimitHistory::empty(limit);
            let moment = self.moment();
            let actions = self.lane.on_history_loaded(Ok(history), &moment);
            self.advance(actions);
        }
    }

    fn answer_read(&mut self) {
        if let Some(scan) = self.world.reads.pop() {
            let due = self
                .world
                .pending
                .values()
                .filter(|queued| queued.due <= scan.now);
            let due = due.filter(|queued| !scan.at_hand.contains(&queued.key));
            let all: Vec<Queued> = due.cloned().collect();
            let room = scan.limit.saturating_sub(scan.at_hand.len());
            let next = self
                .world
                .pending
                .values()
                .filter(|queued| !scan.at_hand.contains(&queued.key))
                .filter(|queued| !all.iter().take(room).any(|read| read.key == queued.key))
                .map(|queued| queued.due)
                .min();
            let page = DuePage {
                queued: all.into_iter().take(room).collect(),
                next,
            };
            let moment = self.moment();
            let actions = self.lane.on_due_loaded(Ok(page), &moment);
            self.advance(actions);
        }
    }

    fn answer_claim(&mut self, granted: bool) {
        let Some(claim) = self.world.claims.pop() else {
            return;
        };
        let keys: Vec<DeliveryKey> = claim.keys().collect();
        let mut claimed = Vec::new();
        for (key, seen) in claim.wanted {
            if granted && self.world.pending.remove(&key).is_some() {
                claimed.push(Claimed {
                    key,
                    claim_no: seen.claim_no + 1,
                    epoch: claim.lease.epoch,
                    claimed_at: claim.at,
                    life: Life {
                        state: State::Sending,
                        ..seen.life
                    },
                });
            }
        }
        let granted = claimed.len();
        self.world.claimed += granted;
        let before = self.world.started;
        let moment = self.moment();
        let result = ClaimResult {
            claimed,
            deferred: Vec::new(),
        };
        let actions = self.lane.on_claimed(&keys, Ok(result), &moment);
        self.permits += keys.len();
        let starts = actions
            .iter()
            .filter(|action| matches!(action, Action::Start(_)))
            .count();
        self.permits -= starts;
        self.advance(actions);
        let started = self.world.started - before;
        assert!(started <= granted, "nothing starts without a claim");
    }

    fn answer_release(&mut self) {
        if self.world.releases > 0 {
            self.world.releases -= 1;
            self.lane.on_released();
            self.advance(Vec::new());
        }
    }

    fn end_attempt(&mut self, accepted: bool) {
        if self.world.attempts.is_empty() {
            return;
        }
        let start = self.world.attempts.remove(0);
        self.permits += 1;
        let moment = self.moment();
        let (outcome, verdict) = match accepted {
            true => (Outcome::Delivered, Verdict::Accepted),
            false => (Outcome::Rejected, Verdict::Failed),
        };
        let record = AttemptRecord::without_answer(outcome, "by the test");
        let ended = AttemptEnded {
            event: start.event,
            claimed: start.claimed,
            started_at: moment.wall,
            ended_at: moment.wall,
            scheduled: (moment.schedule, moment.schedule),
            end: AttemptEnd::Finished(record, verdict),
        };
        let actions = self.lane.on_attempt_ended(ended, Jitter::NONE, &moment);
        self.advance(actions);
    }

    fn answer_record(&mut self) {
        if self.world.records.is_empty() {
            return;
        }
        let (finished, recorded) = self.world.records.remove(0);
        let used = finished.claimed.life.retries_used;
        let moment = self.moment();
        let life = if finished.verdict() == Verdict::Accepted {
            Life {
                state: State::Delivered,
                ..finished.claimed.life
            }
        } else if used == 0 {
            let due = moment.schedule + Duration::from_secs(10);
            let state = State::Pending(Wait::Until(due));
            let life = Life {
                state,
                retries_used: 1,
                ..finished.claimed.life
            };
            self.world
                .put_back(recorded.key, finished.claimed.claim_no, life, due);
            life
        } else {
            let reason = crate::domain::lifecycle::FailureReason::RetriesExhausted;
            Life {
                state: State::Failed(reason),
                ..finished.claimed.life
            }
        };
        let written = Recorded::Written {
            life,
            health_is_current: true,
        };
        let actions = self.lane.on_recorded(recorded, Ok(written), &moment);
        self.advance(actions);
    }

    fn grant_permit(&mut self) {
        if self.world.permits_asked > 0 && self.permits > 0 {
            self.world.permits_asked -= 1;
            self.lane.on_permit_granted();
            self.advance(Vec::new());
        }
    }

    fn publish(&mut self, number: usize) {
        let new = queued(number, self.moment().schedule);
        self.world.pending.insert(new.key, new.clone());
        let moment = self.moment();
        self.lane.on_newly_due(vec![new], &moment);
        self.advance(Vec::new());
    }

    fn set_paused(&mut self, paused: bool) {
        let mut endpoint = Endpoint::clone(self.lane.endpoint());
        endpoint.paused = paused.then_some(PauseReason::Operator);
        endpoint.version += 1;
        let moment = self.moment();
        self.lane.on_changed(
            Changed {
                endpoint: Arc::new(endpoint),
                health: None,
            },
            &moment,
        );
        self.advance(Vec::new());
    }

    /// Advances time to the timer.
    fn run_down_timer(&mut self) {
        match self.world.wakeup {
            Some(Wakeup::Advance(wait)) => {
                self.now += wait.as_secs() + 1;
                self.advance(Vec::new());
            }
            Some(Wakeup::RequestStop(wait)) => {
                self.now += wait.as_secs() + 1;
                let actions = self.lane.on_idle();
                let moment = self.moment();
                self.world.carry_out(actions, &moment);
            }
            Some(Wakeup::None) | None => {}
        }
    }

    fn reply_to_stop(&mut self) {
        if std::mem::take(&mut self.world.stop_requested) {
            let actions = self.lane.on_stop_reply(StopReply::KeepRunning);
            self.advance(actions);
        }
    }
}

#[test]
fn a_delivery_that_was_just_published_is_claimed_started_and_recorded() {
    let mut bench = Bench::running(endpoint());
    bench.publish(1);
    assert_eq!(bench.world.claims.len(), 1);
    bench.answer_claim(true);
    assert_eq!(bench.world.attempts.len(), 1);
    bench.end_attempt(true);
    assert_eq!(bench.world.records.len(), 1);
    bench.answer_record();
    assert_eq!(
        bench.world.wakeup,
        Some(Wakeup::RequestStop(Duration::from_secs(60)))
    );
}

#[test]
fn nothing_starts_before_the_history_is_known() {
    let mut bench = Bench::new(endpoint());
    bench.publish(1);
    assert!(bench.world.claims.is_empty());
    bench.answer_history();
    bench.answer_read();
    assert_eq!(bench.world.claims.len(), 1);
}

#[test]
fn a_history_that_cannot_be_read_is_read_again_after_a_second() {
    let mut bench = Bench::new(endpoint());
    bench.world.history.clear();
    let moment = bench.moment();
    let actions = bench
        .lane
        .on_history_loaded(Err(StoreError::Panicked), &moment);
    bench.advance(actions);
    assert!(bench.world.history.is_empty(), "not at once");
    assert_eq!(
        bench.world.wakeup,
        Some(Wakeup::Advance(Duration::from_secs(1)))
    );
    bench.run_down_timer();
    assert_eq!(bench.world.history.len(), 1);
}

#[test]
fn a_claim_that_is_answered_after_a_pause_is_released() {
    let mut bench = Bench::running(endpoint());
    bench.publish(1);
    bench.set_paused(true);
    bench.answer_claim(true);
    assert_eq!((bench.world.started, bench.world.released), (0, 1));
    bench.set_paused(false);
    bench.answer_read();
    assert_eq!(
        bench.world.claims.len(),
        1,
        "and claimed again after the resume"
    );
}

#[test]
fn a_changed_rate_limit_waits_for_its_history() {
    let mut bench = Bench::running(endpoint());
    let mut changed = endpoint();
    changed.limits.rate_limit = RateLimit::Unlimited;
    changed.version = 1;
    let moment = bench.moment();
    bench.lane.on_changed(
        Changed {
            endpoint: Arc::new(changed),
            health: None,
        },
        &moment,
    );
    bench.advance(Vec::new());
    assert_eq!(bench.world.history.len(), 1);
    bench.publish(1);
    assert!(bench.world.claims.is_empty());
    bench.answer_history();
    bench.answer_read();
    assert_eq!(bench.world.claims.len(), 1);
}

#[test]
fn a_drained_lane_stops_when_its_last_outcome_is_written() {
    let mut bench = Bench::running(endpoint());
    bench.publish(1);
    bench.answer_claim(true);
    bench.lane.on_drain();
    bench.advance(Vec::new());
    assert!(!bench.world.stopped);
    bench.end_attempt(true);
    assert!(!bench.world.stopped);
    bench.answer_record();
    assert!(bench.world.stopped);
}

/// The next owner reads the endpoint's health and what is on the wire: both must be settled.
#[test]
fn it_is_quiet_once_all_claims_are_started_or_released_and_its_outcomes_are_written() {
    let mut bench = Bench::running(endpoint());
    bench.publish(1);
    bench.publish(2);
    bench.answer_claim(true);
    bench.answer_claim(true);
    bench.end_attempt(false);
    bench.publish(3);
    bench.lane.on_drain();
    bench.lease = false;
    bench.advance(Vec::new());
    assert_eq!(bench.world.quiet, None, "a claim is being committed");
    bench.answer_claim(true);
    assert_eq!(bench.world.quiet, None, "it is being released");
    bench.answer_release();
    assert_eq!(bench.world.quiet, None, "an outcome is being written");
    bench.answer_record();
    let quiet = bench.world.quiet.take().expect("now it is");
    let on_wire: Vec<i64> = quiet.attempts.iter().map(|one| one.key.event_seq).collect();
    assert_eq!(on_wire, [1], "the claims are answered last first");
    let timeout = bench.lane.endpoint().limits.timeout;
    assert_eq!(quiet.ends_by, bench.moment().monotonic + timeout);
    bench.end_attempt(false);
    let (finished, _) = bench.world.records.first().expect("one more");
    assert!(finished.is_after_handover);
    // The new owner's claims are not this one's to take away.
    let claims = vec![(queued(9, Timestamp::from_micros(ORIGIN)).key, 1)];
    for _ in 0..3 {
        let sending = Some(claims.clone());
        let polled = Polled {
            next: None,
            sending,
        };
        assert!(bench.lane.on_polled(polled).is_empty());
    }
    bench.answer_record();
    assert!(bench.world.stopped);
}

/// Three at once and four a minute, with those of the former owner.
#[test]
fn attempts_of_the_former_owner_count_until_they_are_recorded() {
    let mut bench = Bench::new(endpoint());
    let at = bench.moment();
    let attempt = |event_seq| OnWire {
        key: DeliveryKey {
            event_seq,
            endpoint: 1,
        },
        claim_no: 1,
        started_at: at.wall,
    };
    bench
        .lane
        .count_tail(&[attempt(101), attempt(102)], at.wall, at.monotonic);
    bench.answer_history();
    bench.answer_read();
    for number in 1..=4 {
        bench.publish(number);
    }
    bench.answer_claim(true);
    assert_eq!(bench.world.attempts.len(), 1, "two are another's");
    let claims = [(attempt(101).key, 1), (attempt(102).key, 1)];
    for _ in 0..2 {
        let polled = Polled {
            next: None,
            sending: Some(claims.to_vec()),
        };
        let reclaimed = bench.lane.on_polled(polled);
        assert!(reclaimed.is_empty(), "they have an owner");
    }
    let actions = bench
        .lane
        .on_tail_ended(&[attempt(101).key], &bench.moment());
    bench.advance(actions);
    bench.answer_claim(true);
    assert_eq!(bench.world.attempts.len(), 2);
    // What is left of a tail does not keep a supervisor from stopping.
    bench.lane.on_drain();
    bench.advance(Vec::new());
    while !bench.world.attempts.is_empty() {
        bench.end_attempt(true);
        bench.answer_record();
    }
    assert!(bench.world.stopped);
}

#[test]
fn without_a_permit_it_waits_for_exactly_one() {
    let mut bench = Bench::running(endpoint());
    bench.permits = 0;
    bench.publish(1);
    bench.publish(2);
    assert_eq!(
        (bench.world.claims.len(), bench.world.permits_asked),
        (0, 1)
    );
    bench.permits = 1;
    bench.grant_permit();
    assert_eq!(
        (bench.world.claims.len(), bench.world.permits_asked),
        (1, 1)
    );
}

#[test]
fn a_claim_unknown_here_is_reclaimed_when_two_polls_find_it() {
    let mut bench = Bench::running(endpoint());
    let unknown = vec![(queued(9, Timestamp::from_micros(ORIGIN)).key, 3)];
    let polled = || Polled {
        next: None,
        sending: Some(unknown.clone()),
    };
    assert!(bench.lane.on_polled(polled()).is_empty());
    let actions = bench.lane.on_polled(polled());
    assert!(matches!(&actions[..], [Action::Run(Work::Reclaim(claims))] if *claims == unknown));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Invariants for any order of inputs: never more in flight than the concurrency allows, never
    /// more starts per minute than the rate limit, each claim ends in one start or one release,
    /// nothing starts while paused or without a lease, and nothing due is forgotten.
    #[test]
    fn the_promises_hold_for_any_order_of_inputs(
        steps in prop::collection::vec((0_u8..15, 0_u64..40), 1..250)
    ) {
        let mut bench = Bench::new(endpoint());
        let mut published = 0;
        for (step, value) in steps {
            let started = bench.world.started;
            match step {
                0 | 1 => {
                    published += 1;
                    bench.publish(published);
                }
                2 => bench.answer_history(),
                3 => bench.answer_read(),
                4 | 5 => bench.answer_claim(value % 8 > 0),
                6 => bench.end_attempt(value % 3 > 0),
                7 => bench.answer_record(),
                8 => bench.grant_permit(),
                9 => bench.run_down_timer(),
                10 => bench.set_paused(value % 4 == 0),
                11 => {
                    bench.lease = value % 4 > 0;
                    bench.advance(Vec::new());
                }
                12 => bench.reply_to_stop(),
                13 => bench.answer_release(),
                _ => {
                    bench.now += value;
                    bench.advance(Vec::new());
                }
            }
            prop_assert!(bench.world.attempts.len() <= 3, "concurrency");
            let minute = bench.moment().monotonic.saturating_sub(Duration::from_secs(60));
            let recent = bench.world.starts.iter().filter(|at| **at > minute).count();
            prop_assert!(recent <= 4, "{} starts within a minute", recent);
            prop_assert_eq!(bench.world.claimed, bench.world.started + bench.world.released);
            if !bench.lane.endpoint().is_active() || !bench.lease {
                prop_assert_eq!(bench.world.started, started, "started although it must not");
            }
        }
        // At the end everything is answered, and nothing due is forgotten.
        bench.lease = true;
        bench.permits = 9;
        bench.set_paused(false);
        for _ in 0..2_000 {
            let is_done = bench.world.pending.is_empty() && !bench.world.is_busy();
            if is_done || bench.world.stopped {
                break;
            }
            bench.answer_history();
            bench.answer_read();
            bench.answer_claim(true);
            bench.answer_release();
            bench.end_attempt(true);
            bench.answer_record();
            bench.grant_permit();
            bench.reply_to_stop();
            if !bench.world.is_busy() {
                let next = bench.world.wakeup;
                let is_forgotten = matches!(next, Some(Wakeup::None) | None);
                prop_assert!(!is_forgotten, "no timer, and {:?} pending", bench.world.pending.keys());
                bench.run_down_timer();
            }
        }
        prop_assert!(bench.world.pending.is_empty(), "{:?}", bench.world.pending.keys());
    }
}
