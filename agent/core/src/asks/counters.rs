//! What happened, for metrics.

use super::letters::Refusal;
use super::limits::Admission;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flows that were asked for, each time anew.
    pub asked: u64,
    /// Those among them that were asked for again, at the backends that had not answered.
    pub asked_again: u64,
    /// Questions sent because of flows.
    pub questions: u64,
    /// Questions sent for counts and signs of life.
    pub polls: u64,
    /// Answers that were taken.
    pub answers: u64,
    /// Flows that a backend said are its own.
    pub mine: u64,
    /// Flows that are nobody's.
    pub nobodys: u64,
    /// Flows that were given up: somebody did not answer, or couldn't say.
    pub unanswered: u64,
    /// Packets of flows that were being asked for, or were settled a moment ago.
    pub already_asked: u64,
    /// Packets of services that have no backends.
    pub no_backends: u64,
    /// Flows not asked for: the limit of their client's prefix.
    pub limited_by_prefix: u64,
    /// Flows not asked for: the limit in all.
    pub limited_in_all: u64,
    /// Flows not asked for: past half of a limit, and seen for the first time.
    pub put_off: u64,
    /// Flows not asked for: as many as there may be are being asked for.
    pub no_room: u64,
    /// Claims that were taken.
    pub claims: u64,
    /// Claims of no backend of their service.
    pub claims_of_strangers: u64,
    /// Announcements that were taken, each part of one.
    pub announcements: u64,
    /// Endpoints left out of those: outside the pod CIDRs of the cluster whose node announces them.
    pub announced_strangers: u64,
    /// Messages refused: of no known shape.
    pub malformed: u64,
    /// Answers refused: no question with their number waits, because they are late, doubled or made up.
    pub unasked: u64,
    /// Answers refused: from, or about, another backend than was asked; and messages of no cluster that is known.
    pub strangers: u64,
    /// Messages refused: a wrong tag.
    pub forged: u64,
}

impl Counters {
    /// All of them by name.
    #[must_use]
    pub const fn rows(&self) -> [(&'static str, u64); 22] {
        [
            ("asked", self.asked),
            ("asked_again", self.asked_again),
            ("questions", self.questions),
            ("polls", self.polls),
            ("answers", self.answers),
            ("mine", self.mine),
            ("nobodys", self.nobodys),
            ("unanswered", self.unanswered),
            ("already_asked", self.already_asked),
            ("no_backends", self.no_backends),
            ("limited_by_prefix", self.limited_by_prefix),
            ("limited_in_all", self.limited_in_all),
            ("put_off", self.put_off),
            ("no_room", self.no_room),
            ("claims", self.claims),
            ("claims_of_strangers", self.claims_of_strangers),
            ("announcements", self.announcements),
            ("announced_strangers", self.announced_strangers),
            ("malformed", self.malformed),
            ("unasked", self.unasked),
            ("strangers", self.strangers),
            ("forged", self.forged),
        ]
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        *match refusal {
            Refusal::Malformed => &mut self.malformed,
            Refusal::Unasked => &mut self.unasked,
            Refusal::Stranger => &mut self.strangers,
            Refusal::Forged => &mut self.forged,
        } += 1;
    }

    pub(super) fn admission(&mut self, admission: Admission) {
        *match admission {
            Admission::Granted => &mut self.asked,
            Admission::PutOff => &mut self.put_off,
            Admission::LimitedByPrefix => &mut self.limited_by_prefix,
            Admission::LimitedInAll => &mut self.limited_in_all,
        } += 1;
    }
}
