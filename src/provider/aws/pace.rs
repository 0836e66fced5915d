//! How fast EC2 is asked: at half of what it lets an account do in a region, for the account is not ours alone.
//!
//! Each of its interfaces has a bucket of tokens: a call takes one, and waits for it if there is none. The limits are
//! those of "Request throttling for the Amazon EC2 API" (Amazon EC2 Developer Guide) and, for Systems Manager, of
//! "AWS Systems Manager endpoints and quotas" (AWS General Reference).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is limited together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Api {
    /// `RunInstances`.
    RunInstances,
    /// `TerminateInstances`.
    TerminateInstances,
    /// Whatever only looks, with a filter or page by page.
    Describe,
    /// Whatever else changes something.
    Change,
    /// Writing parameters of Systems Manager.
    PutParameter,
    /// Asking the price list, of which no limit is documented.
    PriceList,
}

/// A bucket's measures.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// How many tokens it holds.
    burst: f64,
    /// How many come in a second.
    refill: f64,
}

impl Api {
    /// Half of what is documented.
    fn limit(self) -> Limit {
        let (burst, refill) = match self {
            // Of instances it is 2 a second, too: each call is for one.
            Self::RunInstances => (5.0, 2.0),
            Self::TerminateInstances => (100.0, 5.0),
            Self::Describe => (100.0, 20.0),
            Self::Change => (50.0, 5.0),
            Self::PutParameter => (3.0, 3.0),
            Self::PriceList => (10.0, 10.0),
        };
        Limit { burst: burst / 2.0, refill: refill / 2.0 }
    }
}

/// Waits until a call may be made. The call is counted whether it is made or not.
pub(super) async fn wait(region: &str, api: Api) {
    static BUCKETS: Mutex<BTreeMap<(String, Api), Bucket>> = Mutex::new(BTreeMap::new());
    let now = Instant::now();
    let delay = {
        let mut buckets = BUCKETS.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.entry((region.to_owned(), api)).or_insert_with(|| Bucket::new(api.limit(), now)).take(now)
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// A bucket of tokens. Those who wait have taken theirs in advance, so that they go in the order in which they came.
struct Bucket {
    limit: Limit,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(limit: Limit, now: Instant) -> Self {
        Self { limit, tokens: limit.burst, at: now }
    }

    /// Takes a token; says how long to wait until it is there.
    fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.limit.refill).min(self.limit.burst) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens / self.limit.refill).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_gives_at_once_and_then_as_fast_as_it_fills() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Limit { burst: 2.0, refill: 0.5 }, begin);
        let waits: Vec<u64> = (0..4).map(|_| bucket.take(begin).as_secs()).collect();
        assert_eq!(waits, [0, 0, 2, 4]);
        // Both that are owed have come, and one more.
        assert_eq!(bucket.take(begin + Duration::from_secs(6)).as_secs(), 0);
        assert_eq!(bucket.take(begin + Duration::from_secs(6)).as_secs(), 2);
    }

    #[test]
    fn a_bucket_does_not_overflow() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Limit { burst: 2.0, refill: 0.5 }, begin);
        let later = begin + Duration::from_secs(3600);
        let waits: Vec<u64> = (0..3).map(|_| bucket.take(later).as_secs()).collect();
        assert_eq!(waits, [0, 0, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn launches_keep_to_one_a_second_in_each_region() {
        let begin = Instant::now();
        for _ in 0..62 {
            wait("test-pace-1", Api::RunInstances).await;
        }
        let taken = begin.elapsed().as_secs_f64();
        assert!((59.0..61.0).contains(&taken), "{taken} s");
        // Another region has limits of its own.
        let begin = Instant::now();
        wait("test-pace-2", Api::RunInstances).await;
        assert!(begin.elapsed().is_zero());
    }
}
