//! New connections per second, steady enough to plan with.
//!
//! In go raw rates, out comes a [`Demand`] that changes only when it matters: a ring is rebuilt whenever the
//! demand of a service with limited capacity changes, and each rebuilding moves slots.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ObjectName, Tuning};

/// New connections per second of each service, in the whole group of gateways. A missing one has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// By service.
    pub per_second: BTreeMap<ObjectName, u64>,
}

impl Demand {
    /// Of one service.
    #[must_use]
    pub fn of(&self, service: &ObjectName) -> u64 {
        self.per_second.get(service).copied().unwrap_or(0)
    }
}

/// Turns raw rates into a [`Demand`]: smoothed, rounded to three binary digits, with a dead band.
#[derive(Clone, Debug)]
pub struct DemandFilter {
    smoothing: Duration,
    band: f64,
    last: Option<Duration>,
    services: BTreeMap<ObjectName, Smoothed>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Smoothed {
    rate: f64,
    planned: u64,
}

impl DemandFilter {
    /// With nothing seen yet.
    #[must_use]
    pub fn new(tuning: &Tuning) -> Self {
        Self {
            smoothing: tuning.demand_smoothing,
            band: f64::from(tuning.demand_band_percent) / 100.0,
            last: None,
            services: BTreeMap::new(),
        }
    }

    /// Goes on from what another one had come to, as if that were of `now`.
    pub fn resume(&mut self, demand: &Demand, now: Duration) {
        self.last = Some(now);
        for (name, &planned) in &demand.per_second {
            #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
            let rate = planned as f64;
            self.services.insert(name.clone(), Smoothed { rate, planned });
        }
    }

    /// Other numbers count from now on; what was seen stays.
    pub fn retune(&mut self, tuning: &Tuning) {
        let Self { smoothing, band, .. } = Self::new(tuning);
        (self.smoothing, self.band) = (smoothing, band);
    }

    /// Takes the rates of all services since the previous call, in new connections per second of the whole group,
    /// and returns the demand to plan with. A service that is missing had none; one that fades to nothing is forgotten.
    pub fn observe(&mut self, now: Duration, rates: &BTreeMap<ObjectName, f64>) -> Demand {
        let weight = match self.last {
            None => 1.0,
            Some(last) => self.weight(now.saturating_sub(last)),
        };
        self.last = Some(now);
        for name in rates.keys() {
            self.services.entry(name.clone()).or_default();
        }
        for (name, smoothed) in &mut self.services {
            let rate = rates.get(name).copied().filter(|rate| rate.is_finite()).unwrap_or(0.0).max(0.0);
            smoothed.rate += (rate - smoothed.rate) * weight;
            smoothed.planned = follow(smoothed.planned, smoothed.rate, self.band);
        }
        self.services.retain(|_, smoothed| smoothed.planned > 0 || smoothed.rate > 0.01);
        let planned = self.services.iter().filter(|(_, s)| s.planned > 0);
        Demand { per_second: planned.map(|(name, s)| (name.clone(), s.planned)).collect() }
    }

    /// How much a sample that stands for `elapsed` counts against all before it.
    fn weight(&self, elapsed: Duration) -> f64 {
        if self.smoothing.is_zero() {
            return 1.0;
        }
        1.0 - (-elapsed.as_secs_f64() / self.smoothing.as_secs_f64()).exp()
    }
}

/// Keeps `planned` while `rate` stays within the band around it.
fn follow(planned: u64, rate: f64, band: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
    let old = planned as f64;
    if (rate - old).abs() <= old * band && planned > 0 { planned } else { rounded(rate) }
}

/// To three significant binary digits after the first: steps of 6 to 12 %. The band is wider than half a step, so that
/// a rate on the edge doesn't flap.
fn rounded(rate: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and is not negative"
    )]
    let whole = rate.round() as u64;
    let shift = (u64::BITS - whole.leading_zeros()).saturating_sub(4);
    let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
    (whole.saturating_add(half) >> shift) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(rate: f64) -> BTreeMap<ObjectName, f64> {
        BTreeMap::from([(ObjectName::new("ns", "web"), rate)])
    }

    fn planned(filter: &mut DemandFilter, second: u64, rate: f64) -> u64 {
        filter.observe(Duration::from_secs(second), &rates(rate)).of(&ObjectName::new("ns", "web"))
    }

    #[test]
    fn rounds_to_steps() {
        assert_eq!([0.4, 1.0, 15.0, 17.0, 100.0, 1000.0].map(rounded), [0, 1, 15, 18, 104, 1024]);
    }

    #[test]
    fn small_changes_change_nothing() {
        let mut filter = DemandFilter::new(&Tuning::default());
        let first = planned(&mut filter, 0, 1000.0);
        assert_eq!(first, 1024);
        for second in 1..120 {
            let wobble = if second % 2 == 0 { 1080.0 } else { 960.0 };
            assert_eq!(planned(&mut filter, second, wobble), first, "second {second}");
        }
    }

    #[test]
    fn follows_within_the_smoothing_time() {
        let mut filter = DemandFilter::new(&Tuning::default());
        planned(&mut filter, 0, 1000.0);
        // After 10 s an EWMA has gone 1 - 1/e of the way: 1632.
        let after_10 = (1..=10).map(|second| planned(&mut filter, second, 2000.0)).last();
        assert!((1536..=1664).contains(&after_10.unwrap()), "{after_10:?}");
        let after_60 = (11..=60).map(|second| planned(&mut filter, second, 2000.0)).last();
        assert!((1792..=2048).contains(&after_60.unwrap()), "{after_60:?}");
    }

    #[test]
    fn goes_on_where_another_was() {
        let (mut first, mut second) =
            (DemandFilter::new(&Tuning::default()), DemandFilter::new(&Tuning::default()));
        let mut before = Demand::default();
        for at in 0..20 {
            before = first.observe(Duration::from_secs(at), &rates(500.0));
        }
        second.resume(&before, Duration::ZERO);
        assert_eq!(second.observe(Duration::from_secs(1), &rates(500.0)), before);
        let after_10 = (2..=11).map(|at| planned(&mut second, at, 1000.0)).last().unwrap();
        assert!((768..=832).contains(&after_10), "smoothed from there on: {after_10}");
    }

    #[test]
    fn nothing_fades_to_nothing() {
        let mut filter = DemandFilter::new(&Tuning::default());
        planned(&mut filter, 0, 5.0);
        for second in 1..200 {
            filter.observe(Duration::from_secs(second), &BTreeMap::new());
        }
        assert!(filter.services.is_empty());
    }

    #[test]
    fn nonsense_counts_as_nothing() {
        let mut filter = DemandFilter::new(&Tuning::default());
        assert_eq!(planned(&mut filter, 0, f64::NAN), 0);
        assert_eq!(planned(&mut filter, 1, -5.0), 0);
    }
}
