//! Sweeps the receiver's table of flows: the kernel never evicts from it, so the agent takes out what has ended
//! or has been silent for long.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    time::{Duration, Instant},
};

use aya::{
    TestRun as _, TestRunOptions,
    maps::{Array, HashMap, MapData, MapError},
    programs::{Program, SchedClassifier},
};
use fairlead_abi::{Delivery, DeliveryKey, FlowEntry, FlowKey, FlowState, HeldFlows, map, program, protocol};

use super::{
    Dataplane, Error, HeldHere,
    carry::{Carry, Table},
    held,
};

/// How long a flow is kept after the endpoint closed it.
const LINGER: Duration = Duration::from_secs(60);
/// How long a silent TCP connection is kept: more than two hours, after which keepalives are sent.
const TCP_IDLE: Duration = Duration::from_secs(2 * 3600 + 15 * 60);
/// Ticks for which flows may be missing after some were lost: ten minutes on the fastest clock, more on others.
const LOST_FOR: u32 = 600_000;
/// For so long the flows that a sweep counted are said to be those that there are.
pub const COUNTED_FOR: Duration = Duration::from_secs(20);
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
    held: HashMap<MapData, DeliveryKey, HeldFlows>,
    clock: Clock,
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
    /// Takes the table of flows out to sweep it; `None` when it was taken before.
    pub fn take_sweep(&mut self) -> Result<Option<Sweep>, Error> {
        let now = self.ticks()?;
        let Some(flows) = self.ebpf.take_map(map::FLOWS) else { return Ok(None) };
        let flows = HashMap::try_from(flows).map_err(Error::map(map::FLOWS))?;
        let Some(held) = self.ebpf.take_map(map::HELD) else { return Ok(None) };
        let held = HashMap::try_from(held).map_err(Error::map(map::HELD))?;
        let former = self.carry.as_ref().map_or(Ok(Vec::new()), Carry::former_flows)?;
        Ok(Some(Sweep { flows, former, held, clock: Clock { first: (Instant::now(), now), rate: None } }))
    }

    /// Flows of the tables before were lost: for a while, packets that come to the slot's current backend are left to their
    /// endpoint to judge, which finds its connections again.
    pub(super) fn tell_lost(&mut self) -> Result<(), Error> {
        let until = self.ticks()?.wrapping_add(LOST_FOR).max(1);
        let mut array = Array::<_, u64>::try_from(self.map_mut(map::LOST)?).map_err(Error::map(map::LOST))?;
        array.set(0, u64::from(until), 0).map_err(Error::map(map::LOST))
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
    /// Removes flows that ended or fell silent; `ticks` is the clock's reading now, and `settled` that packets go by the
    /// new tables alone. The others are counted for the `deliveries` that they came by, and the programs told of that.
    pub fn run(
        &mut self,
        ticks: u32,
        settled: bool,
        deliveries: &BTreeMap<DeliveryKey, Delivery>,
    ) -> Result<Swept, Error> {
        if settled {
            self.former.clear();
        }
        let Some(rate) = self.clock.rate(Instant::now(), ticks) else { return Ok(Swept::default()) };
        for table in &mut self.former {
            sweep(table, ticks, rate, |_, _| {})?;
        }
        let mut tally = held::Tally::default();
        let mut stay = 0;
        let ended = sweep(&mut self.flows, ticks, rate, |key, flow| {
            stay += 1;
            tally.add(key, flow);
        })?;
        let held = tally.of(deliveries);
        let seconds = u32::try_from(COUNTED_FOR.as_secs()).expect("a few");
        held::tell(&mut self.held, &held, (ticks, rate * seconds))?;
        Ok(Swept { stay, ended, held })
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Flows that stay.
    pub stay: usize,
    /// Flows that were removed.
    pub ended: usize,
    /// Those that stay, by delivery.
    pub held: HeldHere,
}

/// Removes the flows of a table that are over, how many; and shows the others to `each`.
fn sweep(
    flows: &mut Table,
    ticks: u32,
    rate: u32,
    mut each: impl FnMut(&FlowKey, &FlowEntry),
) -> Result<usize, Error> {
    let error = Error::map(map::FLOWS);
    let mut ended = Vec::new();
    for entry in flows.iter() {
        match entry {
            Ok((key, flow)) if is_over(&key, &flow, ticks, rate) => ended.push(key),
            Ok((key, flow)) => each(&key, &flow),
            Err(source) => return Err(error(source)),
        }
    }
    for key in &ended {
        match flows.remove(key) {
            // Removed by somebody else meanwhile.
            Err(MapError::SyscallError(removal)) if removal.io_error.kind() == ErrorKind::NotFound => {}
            removed => removed.map_err(&error)?,
        }
    }
    Ok(ended.len())
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

/// Whether a flow has ended or been silent for long.
fn is_over(key: &FlowKey, flow: &FlowEntry, ticks: u32, rate: u32) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half, as `ticks` is")]
    let silent = ticks.wrapping_sub(flow.seen as u32);
    if silent > u32::MAX / 2 {
        return false; // a packet came between the clock's reading and the entry's
    }
    let limit = match key.protocol {
        _ if flow.state == FlowState::Closing as u8 => LINGER,
        protocol::TCP => TCP_IDLE,
        _ => UDP_IDLE,
    };
    Duration::from_secs(u64::from(silent) / u64::from(rate)) > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(protocol: u8, state: FlowState, seen: u64) -> (FlowKey, FlowEntry) {
        let entry = FlowEntry { state: state as u8, seen, ..FlowEntry::default() };
        (FlowKey { protocol, ..FlowKey::default() }, entry)
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
        let (key, entry) = flow(protocol::TCP, FlowState::Closing, u64::from(now - 61 * 250 - 250));
        assert!(is_over(&key, &entry, now, 250));
        let (key, entry) = flow(protocol::TCP, FlowState::Established, u64::from(now - 61 * 250 - 250));
        assert!(!is_over(&key, &entry, now, 250));
        let (key, entry) = flow(protocol::UDP, FlowState::Established, u64::from(now - 182 * 250));
        assert!(is_over(&key, &entry, now, 250));
    }

    #[test]
    fn a_stamp_from_the_future_and_a_wrapped_clock_are_no_silence() {
        let (key, entry) = flow(protocol::UDP, FlowState::Established, 105);
        assert!(!is_over(&key, &entry, 100, 250));
        let (key, entry) = flow(protocol::UDP, FlowState::Established, u64::from(u32::MAX - 100));
        assert!(!is_over(&key, &entry, 150, 250));
    }
}
