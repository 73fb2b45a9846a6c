//! What a Service's annotations can ask for.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Options of one shard, from the annotations (`fairlead.io/…`) of its Service object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOptions {
    /// New connections per second that one endpoint takes; `None`: no limit.
    pub capacity_per_endpoint: Option<u32>,
    /// With fewer usable endpoints the shard takes nothing, unless no other can; 0 and 1 mean the same.
    pub min_healthy: u32,
    /// How to probe, where it differs from the default.
    pub probe: ProbeOptions,
    /// Ports of the VIP that are not served go up to the gateway's own stack.
    pub pass_unserved_ports: bool,
    /// The endpoint has the VIP itself: packets are not rewritten.
    pub endpoint_owns_vip: bool,
}

/// What an endpoint is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// Whether it accepts a connection.
    #[default]
    Tcp,
    /// Whether it answers a GET with 200 to 399.
    Http,
    /// The same over TLS, with any certificate.
    Https,
    /// Nothing: the API server's word is all.
    None,
}

/// How endpoints are probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// What is asked.
    pub kind: ProbeKind,
    /// Of HTTP and HTTPS.
    pub path: Arc<str>,
    /// Another port of the VIP than the one that is judged.
    pub port: Option<u16>,
    /// From one probe to the next.
    pub interval: Duration,
    /// An answer later than this counts as none.
    pub timeout: Duration,
    /// Good answers in a row that make a bad endpoint good.
    pub rise: u32,
    /// Failures in a row that make a good endpoint bad.
    pub fall: u32,
}

impl Default for ProbeSpec {
    fn default() -> Self {
        Self {
            kind: ProbeKind::Tcp,
            path: Arc::from("/"),
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// What a service says about its probes; the rest is the configuration's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOptions {
    /// See [`ProbeSpec::kind`].
    pub kind: Option<ProbeKind>,
    /// See [`ProbeSpec::path`].
    pub path: Option<Arc<str>>,
    /// See [`ProbeSpec::port`].
    pub port: Option<u16>,
    /// See [`ProbeSpec::interval`].
    pub interval: Option<Duration>,
    /// See [`ProbeSpec::timeout`].
    pub timeout: Option<Duration>,
    /// See [`ProbeSpec::rise`].
    pub rise: Option<u32>,
    /// See [`ProbeSpec::fall`].
    pub fall: Option<u32>,
}

impl ProbeOptions {
    /// These options, and `default` for what they leave open. An answer is never waited for longer than an interval.
    #[must_use]
    pub fn over(&self, default: &ProbeSpec) -> ProbeSpec {
        let interval = self.interval.unwrap_or(default.interval);
        ProbeSpec {
            kind: self.kind.unwrap_or(default.kind),
            path: self.path.clone().unwrap_or_else(|| Arc::clone(&default.path)),
            port: self.port.or(default.port),
            interval,
            timeout: self.timeout.unwrap_or(default.timeout).min(interval),
            rise: self.rise.unwrap_or(default.rise),
            fall: self.fall.unwrap_or(default.fall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_no_longer_than_an_interval_whoever_says_which() {
        let ms = Duration::from_millis;
        let default = ProbeSpec { interval: ms(1000), timeout: ms(800), ..ProbeSpec::default() };
        let rows = [
            (None, None, 1000, 800),
            (Some(ms(200)), None, 200, 200),
            (None, Some(ms(1500)), 1000, 1000),
            (Some(ms(2000)), Some(ms(1500)), 2000, 1500),
        ];
        for (interval, timeout, merged_interval, merged_timeout) in rows {
            let merged = ProbeOptions { interval, timeout, ..ProbeOptions::default() }.over(&default);
            assert_eq!((merged.interval, merged.timeout), (ms(merged_interval), ms(merged_timeout)));
        }
    }
}
