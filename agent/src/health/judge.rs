//! Thresholds: single answers into a state that doesn't flap.

use fairlead_core::model::{ProbeSpec, ProbeState};

/// What is thought of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Judge {
    state: ProbeState,
    /// Answers in a row that speak against `state`.
    against: u32,
    /// The number of the youngest probe that was judged.
    judged: u64,
}

impl Judge {
    /// One that takes over a verdict that was reached by other questions.
    pub(super) const fn with(state: ProbeState) -> Self {
        Self { state, against: 0, judged: 0 }
    }

    pub(super) const fn state(&self) -> ProbeState {
        self.state
    }

    /// Takes the answer to probe `number`, counted from 1; true: the state flipped.
    ///
    /// Unknown counts as the API server says, so it takes `fall` failures to become bad, but one good answer to be
    /// good. Answers may come out of order where timeouts are longer than intervals: what an older probe says late
    /// is known better already.
    pub(super) fn take(&mut self, number: u64, passed: bool, spec: &ProbeSpec) -> bool {
        if number <= self.judged {
            return false;
        }
        self.judged = number;
        let (other, needed) = match (self.state, passed) {
            (ProbeState::Good, true) | (ProbeState::Bad, false) => {
                self.against = 0;
                return false;
            }
            (ProbeState::Unknown, true) => (ProbeState::Good, 1),
            (ProbeState::Bad, true) => (ProbeState::Good, spec.rise),
            (ProbeState::Unknown | ProbeState::Good, false) => (ProbeState::Bad, spec.fall),
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        *self = Self { state: other, against: 0, judged: number };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: fn() -> ProbeSpec = || ProbeSpec { rise: 2, fall: 3, ..ProbeSpec::default() };

    /// The states after each answer; `+` is a good one.
    fn states(start: ProbeState, answers: &str) -> String {
        let mut judge = Judge::with(start);
        let mut number = 0;
        let mut letter = |answer| {
            number += 1;
            let before = judge.state();
            let flipped = judge.take(number, answer == '+', &SPEC());
            assert_eq!(flipped, before != judge.state());
            match judge.state() {
                ProbeState::Unknown => '?',
                ProbeState::Good => 'G',
                ProbeState::Bad => 'B',
            }
        };
        answers.chars().map(&mut letter).collect()
    }

    #[test]
    fn one_good_answer_ends_not_knowing() {
        assert_eq!(states(ProbeState::Unknown, "+"), "G");
        assert_eq!(states(ProbeState::Unknown, "--+"), "??G");
    }

    #[test]
    fn falls_after_failures_in_a_row() {
        assert_eq!(states(ProbeState::Unknown, "----"), "??BB");
        assert_eq!(states(ProbeState::Good, "---"), "GGB");
        assert_eq!(states(ProbeState::Good, "--+--+--+"), "GGGGGGGGG", "never three in a row");
    }

    #[test]
    fn rises_after_good_answers_in_a_row() {
        assert_eq!(states(ProbeState::Bad, "++"), "BG");
        assert_eq!(states(ProbeState::Bad, "+-+-++"), "BBBBBG");
        assert_eq!(states(ProbeState::Good, "---++"), "GGBBG");
    }

    #[test]
    fn what_an_older_probe_says_late_does_not_count() {
        let mut judge = Judge::with(ProbeState::Good);
        assert!(!judge.take(2, true, &SPEC()));
        for _ in 0..5 {
            assert!(!judge.take(1, false, &SPEC()));
        }
        assert!(!judge.take(3, false, &SPEC()));
        assert!(!judge.take(4, false, &SPEC()));
        assert!(judge.take(5, false, &SPEC()));
        assert_eq!(judge.state(), ProbeState::Bad);
    }

    #[test]
    fn thresholds_of_nothing_mean_one() {
        let spec = ProbeSpec { rise: 0, fall: 0, ..ProbeSpec::default() };
        let mut judge = Judge::default();
        assert!(judge.take(1, false, &spec));
        assert!(judge.take(2, true, &spec));
        assert_eq!(judge.state(), ProbeState::Good);
    }
}
