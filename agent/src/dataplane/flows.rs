//! Sweeps the receiver's table of flows: the kernel never evicts from it, so the agent takes out what has ended
//! or has been silent for long. Where the table fills up, it does so more often, and ended flows go before their time.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::ErrorKind,
    time::{Duration, Instant},
};

use aya::{
    TestRun as _, TestRunOptions,
    maps::{Array, HashMap, IterableMap as _, MapData, MapError},
    programs::{Program, SchedClassifier},
};
use fairlead_abi::{Delivery, DeliveryKey, FlowEntry, FlowKey, FlowState, HeldFlows, map, program, protocol};
use fairlead_core::asks::ANNOUNCE_EVERY;

use super::{
    Dataplane, Error, HeldHere, batch,
    carry::{Carry, Table},
    held,
    load::mapped,
    recent::Memory,
};

/// How often flows are swept, and how often where the table is [crowded](Swept::is_crowded).
const PERIOD: Duration = ANNOUNCE_EVERY.saturating_sub(Duration::from_millis(500));
const CROWDED_PERIOD: Duration = Duration::from_secs(1);
/// How long a flow is kept after the endpoint closed it.
const LINGER: Duration = Duration::from_secs(60);
/// How long it is kept at least: its last packets are still on their way.
const LINGER_AT_LEAST: Duration = Duration::from_secs(1);
/// How long a silent TCP connection is kept: more than two hours, after which keepalives are sent.
const TCP_IDLE: Duration = Duration::from_secs(2 * 3600 + 15 * 60);
/// Ticks for which flows may be missing after some were lost: ten minutes on the fastest clock, more on others.
const LOST_FOR: u32 = 600_000;
/// For so long what a sweep counted is told, with its age.
const COUNTED_FOR: Duration = Duration::from_secs(60);
/// So long after it was full flows may be missing in the table: those that it had no room for come into it with their
/// endpoint's next packet, and stand where the oldest are forgotten till then.
const OVERFLOWED_FOR: Duration = Duration::from_secs(600);
/// How long a silent UDP flow is kept.
const UDP_IDLE: Duration = Duration::from_secs(180);
/// Ticks per second that kernels are built with.
const TICK_RATES: [u32; 4] = [100, 250, 300, 1000];
/// How long to watch the clock before its rate is believed.
const WATCH: Duration = Duration::from_secs(1);

/// The sweeper.
pub struct Sweep {
    flows: Table,
    /// Tables that packets go by until the links are switched.
    former: Vec<Table>,
    recent: Memory,
    held: HashMap<MapData, DeliveryKey, HeldFlows>,
    ended: held::Ended,
    clock: Clock,
    due: Instant,
    /// When it was found full last.
    full: Option<Instant>,
}

/// The clock that flows are stamped by, as a sweep knows it.
#[derive(Debug)]
struct Clock {
    first: (Instant, u32),
    /// Ticks per second. Decided once and kept: the count wraps after 50 days at the fastest, and counts for less from
    /// then on.
    rate: Option<u32>,
}

impl Clock {
    /// The kernel's ticks per second, at a reading `ticks`; `None` while there was too little time to tell.
    fn rate(&mut self, now: Instant, ticks: u32) -> Option<u32> {
        let (then, first) = self.first;
        self.rate = self.rate.or_else(|| rate(now.duration_since(then), ticks.wrapping_sub(first)));
        self.rate
    }
}

impl Dataplane {
    /// Takes the table of flows out to sweep it; `None` when it was taken before. `seed` is the programs'.
    pub fn take_sweep(&mut self, seed: u64) -> Result<Option<Sweep>, Error> {
        let now = self.ticks()?;
        let Some(flows) = self.ebpf.take_map(map::FLOWS) else { return Ok(None) };
        let flows = HashMap::try_from(flows).map_err(Error::map(map::FLOWS))?;
        let Some(held) = self.ebpf.take_map(map::HELD) else { return Ok(None) };
        let held = HashMap::try_from(held).map_err(Error::map(map::HELD))?;
        let recent = Memory::new(seed, mapped(&self.ebpf, map::RECENT)?)?;
        let former = self.carry.as_ref().map_or(Ok(Vec::new()), Carry::former_flows)?;
        let clock = Clock { first: (Instant::now(), now), rate: None };
        Ok(Some(Sweep {
            flows,
            former,
            recent,
            held,
            ended: held::Ended::default(),
            clock,
            due: Instant::now() + WATCH,
            full: None,
        }))
    }

    /// Flows of the tables before were lost: for a while, packets that come to the slot's current backend are left to their
    /// endpoint to judge, which finds its connections again.
    pub(super) fn tell_lost(&mut self) -> Result<(), Error> {
        let until = self.ticks()?.wrapping_add(LOST_FOR).max(1);
        let mut array = Array::<_, u64>::try_from(self.map_mut(map::LOST)?).map_err(Error::map(map::LOST))?;
        array.set(0, u64::from(until), 0).map_err(Error::map(map::LOST))
    }

    /// Whether some that were lost may be missing yet, at a reading of the clock.
    pub fn may_lack_flows(&mut self, ticks: u32) -> Result<bool, Error> {
        let error = Error::map(map::LOST);
        let mut array = Array::<_, u64>::try_from(self.map_mut(map::LOST)?).map_err(&error)?;
        let until = array.get(&0, 0).map_err(&error)?;
        #[expect(clippy::cast_possible_truncation, reason = "the lower half, as `ticks` is")]
        let lacks = until != 0 && (until as u32).wrapping_sub(ticks) < u32::MAX / 2;
        if until != 0 && !lacks {
            // Over for good: half a turn of the clock later it would hold again.
            array.set(0, 0, 0).map_err(&error)?;
        }
        Ok(lacks)
    }

    /// The clock that flows are stamped by.
    pub fn ticks(&mut self) -> Result<u32, Error> {
        let frame = [0; 64];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let result = self.clock()?.test_run(options).map_err(Error::program(program::CLOCK))?;
        Ok(result.return_value)
    }

    fn clock(&self) -> Result<&SchedClassifier, Error> {
        match self.ebpf.program(program::CLOCK) {
            Some(Program::SchedClassifier(clock)) => Ok(clock),
            _ => {
                let source = Box::new(aya::programs::ProgramError::NotLoaded);
                Err(Error::Program { program: program::CLOCK, source })
            }
        }
    }
}

impl Sweep {
    /// Whether it is time to sweep again. To be asked every second: what was counted is announced.
    #[must_use]
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Removes flows that ended or fell silent; `ticks` is the clock's reading now, and `settled` that packets go by the
    /// new tables alone. The others are counted for the `deliveries` that they came by, and the programs told of that. `None`
    /// while too little is known of the clock.
    pub fn run(
        &mut self,
        ticks: u32,
        settled: bool,
        deliveries: &BTreeMap<DeliveryKey, Delivery>,
    ) -> Result<Option<Swept>, Error> {
        self.due = Instant::now() + PERIOD;
        if settled {
            self.former.clear();
        }
        let Some(rate) = self.clock.rate(Instant::now(), ticks) else { return Ok(None) };
        for table in &mut self.former {
            sweep(table, ticks, rate, |_, _| {}, |_, _| Ok(()))?;
        }
        let mut tally = held::Tally::default();
        let (ended, recent) = (&mut self.ended, &mut self.recent);
        let mut swept = sweep(
            &mut self.flows,
            ticks,
            rate,
            |key, flow| tally.add(key, flow),
            |key, flow| {
                ended.add(key, flow);
                recent.forget(key, flow)
            },
        )?;
        if swept.is_crowded() {
            self.due = Instant::now() + CROWDED_PERIOD;
        }
        let now = Instant::now();
        self.full = self.full.filter(|full| now.duration_since(*full) < OVERFLOWED_FOR);
        self.full = if swept.is_full() { Some(now) } else { self.full };
        swept.overflowed = self.full.is_some();
        let held = tally.of(deliveries);
        let seconds = u32::try_from(COUNTED_FOR.as_secs()).expect("a few");
        let opened = self.ended.opened(&held, deliveries);
        let when = held::When { ticks, rate, valid: rate * seconds };
        held::tell(&mut self.held, (&held, &opened), when, swept.overflowed)?;
        swept.held = held;
        Ok(Some(swept))
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Flows that stay.
    pub stay: usize,
    /// Flows that were removed.
    pub ended: usize,
    /// Flows that there is room for.
    pub capacity: usize,
    /// Those that stay, by delivery.
    pub held: HeldHere,
    /// The table was full lately: others stand where nobody counts them.
    pub overflowed: bool,
}

impl Swept {
    /// Whether the table was full.
    fn is_full(&self) -> bool {
        self.stay + self.ended >= self.capacity
    }

    /// Whether the table may be full before long.
    fn is_crowded(&self) -> bool {
        self.stay > self.capacity / 2
    }
}

/// Removes the flows of a table that are over and shows them to `ended`, and the others to `each`. Beyond three quarters of
/// the room, those that ended first are over before their time: a refused connection is worse than a late packet that is
/// not known any more.
fn sweep(
    flows: &mut Table,
    ticks: u32,
    rate: u32,
    mut each: impl FnMut(&FlowKey, &FlowEntry),
    mut ended: impl FnMut(&FlowKey, &FlowEntry) -> Result<(), Error>,
) -> Result<Swept, Error> {
    let error = Error::map(map::FLOWS);
    let capacity = flows.map().info().map_err(&error)?.max_entries() as usize;
    let (mut over, mut closing, mut stay) = (Vec::new(), Vec::new(), 0);
    batch::read(map::FLOWS, flows, |keys, entries| {
        for (key, flow) in keys.iter().zip(entries) {
            let silent = silence(flow, ticks, rate);
            if silent > limit(key, flow) {
                over.push((*key, *flow));
                continue;
            }
            stay += 1;
            if flow.state == FlowState::Closing as u8 && silent >= LINGER_AT_LEAST {
                closing.push((silent, *key, *flow));
            } else {
                each(key, flow);
            }
        }
        Ok(())
    })?;
    closing.sort_unstable_by_key(|&(silent, ..)| Reverse(silent));
    let early = usize::min(closing.len(), usize::saturating_sub(stay, capacity / 4 * 3));
    over.extend(closing.drain(..early).map(|(_, key, flow)| (key, flow)));
    closing.iter().for_each(|(_, key, flow)| each(key, flow));
    for (key, flow) in &over {
        // Another connection of the same ports may have begun meanwhile.
        if flows.get(key, 0).is_ok_and(|now| (now.state, now.seen) != (flow.state, flow.seen)) {
            continue;
        }
        match flows.remove(key) {
            // Removed by somebody else meanwhile.
            Err(MapError::SyscallError(removal)) if removal.io_error.kind() == ErrorKind::NotFound => {}
            removed => removed.map_err(&error)?,
        }
        ended(key, flow)?;
    }
    Ok(Swept { stay: stay - early, ended: over.len(), capacity, ..Swept::default() })
}

/// The kernel's ticks per second; `None` while there was too little time to tell.
fn rate(elapsed: Duration, ticks: u32) -> Option<u32> {
    if elapsed < WATCH {
        return None;
    }
    let seen = f64::from(ticks) / elapsed.as_secs_f64();
    TICK_RATES.into_iter().min_by_key(|rate| ratio_from(f64::from(*rate), seen))
}

/// How far two rates are apart, in thousandths of the smaller.
fn ratio_from(a: f64, b: f64) -> u64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a ratio of rates above zero"
    )]
    let thousandths = (high / low.max(0.001) * 1000.0) as u64;
    thousandths
}

/// How long no packet of a flow has come.
fn silence(flow: &FlowEntry, ticks: u32, rate: u32) -> Duration {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half, as `ticks` is")]
    let silent = ticks.wrapping_sub(flow.seen as u32);
    if silent > u32::MAX / 2 {
        return Duration::ZERO; // a packet came between the clock's reading and the entry's
    }
    Duration::from_millis(u64::from(silent) * 1000 / u64::from(rate))
}

/// After how long a silence a flow is over.
fn limit(key: &FlowKey, flow: &FlowEntry) -> Duration {
    match key.protocol {
        _ if flow.state == FlowState::Closing as u8 => LINGER,
        protocol::TCP => TCP_IDLE,
        _ => UDP_IDLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(protocol: u8, state: FlowState, seen: u64, ticks: u32) -> bool {
        let flow = FlowEntry { state: state as u8, seen, ..FlowEntry::default() };
        silence(&flow, ticks, 250) > limit(&FlowKey { protocol, ..FlowKey::default() }, &flow)
    }

    #[test]
    fn the_tick_rate_is_the_nearest_that_kernels_have() {
        assert_eq!(rate(Duration::from_secs(10), 2_490), Some(250));
        assert_eq!(rate(Duration::from_secs(10), 2_990), Some(300));
        assert_eq!(rate(Duration::from_secs(10), 10_100), Some(1000));
        assert_eq!(rate(Duration::from_millis(900), 90), None);
    }

    #[test]
    fn the_tick_rate_stays_when_the_clock_wraps() {
        let began = Instant::now();
        let mut clock = Clock { first: (began, u32::MAX - 300 * 1000), rate: None };
        let mut at = |seconds: u64| {
            let ticks = u64::from(u32::MAX - 300 * 1000) + seconds * 1000;
            #[expect(clippy::cast_possible_truncation, reason = "as the clock does")]
            clock.rate(began + Duration::from_secs(seconds), ticks as u32)
        };
        assert_eq!(at(0), None);
        assert_eq!(at(15), Some(1000));
        assert_eq!(at(400), Some(1000), "300 s after the start the reading wraps");
        assert_eq!(at(50 * 24 * 3600), Some(1000), "and what has passed since then does");
    }

    #[test]
    fn flows_end_after_their_own_time() {
        let now = 1_000_000;
        assert!(is_over(protocol::TCP, FlowState::Closing, u64::from(now - 61 * 250), now));
        assert!(!is_over(protocol::TCP, FlowState::Established, u64::from(now - 61 * 250), now));
        assert!(is_over(protocol::UDP, FlowState::Established, u64::from(now - 181 * 250), now));
    }

    #[test]
    fn a_stamp_from_the_future_and_a_wrapped_clock_are_no_silence() {
        assert!(!is_over(protocol::UDP, FlowState::Established, 105, 100));
        assert!(!is_over(protocol::UDP, FlowState::Established, u64::from(u32::MAX - 100), 150));
    }
}
