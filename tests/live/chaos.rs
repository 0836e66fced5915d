//! The short storm: as `make chaos`, for as long as a test may take.

use std::time::Duration;

use crate::faults::Fault;
use crate::storm;

#[test]
fn what_a_storm_of_faults_leaves_comes_to_its_end_with_nothing_lost() {
    // Losing the head takes as long to mend as all else together: that is for the long storm.
    let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| *fault != Fault::KillHead).collect();
    storm::run(7, Duration::from_secs(40), &kinds);
}
