//! Claims of this node's endpoints on their way to the gateways that their packets came from.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_abi::{Claim, DeliveryKey, FlowReport, message::CLAIMS};
use fairlead_core::asks::{Keys, claims};
use ipnet::IpNet;

/// Claims that wait to be sent together.
#[derive(Debug)]
pub(super) struct Claimer {
    /// Where the gateways' tunnel packets come from.
    gateways: Vec<IpNet>,
    waiting: BTreeMap<IpAddr, Vec<Claim>>,
    nonce: u64,
}

impl Claimer {
    /// To gateways with these tunnel prefixes; `random` has to differ at each start.
    pub(super) fn new(gateways: Vec<IpNet>, random: u64) -> Self {
        Self { gateways, waiting: BTreeMap::new(), nonce: random }
    }

    /// The gateways are these from now on.
    pub(super) fn serve(&mut self, gateways: &[IpNet]) {
        self.gateways = gateways.to_vec();
    }

    /// Adds what a program reported, unless it comes from no gateway that is known.
    pub(super) fn add(&mut self, report: &FlowReport) {
        let source = IpAddr::from(report.gateway);
        let Some(gateway) = self.gateways.iter().find(|prefix| prefix.contains(&source)) else { return };
        self.waiting.entry(control_address(gateway)).or_default().push(claim(report));
    }

    /// Messages for all that waits.
    pub(super) fn take(&mut self, keys: &Keys) -> Vec<(IpAddr, Vec<u8>)> {
        let mut messages = Vec::new();
        for (gateway, all) in std::mem::take(&mut self.waiting) {
            for some in all.chunks(CLAIMS) {
                self.nonce = self.nonce.wrapping_add(1);
                messages.push((gateway, claims(some, keys, self.nonce)));
            }
        }
        messages
    }
}

/// Where a gateway's agent takes messages: the address, or the first one of the prefix, that its tunnel packets come from.
pub(super) fn control_address(prefix: &IpNet) -> IpAddr {
    if prefix.prefix_len() == prefix.max_prefix_len() { prefix.addr() } else { prefix.network() }
}

fn claim(report: &FlowReport) -> Claim {
    let [c0, c1, v0, v1] = report.ports;
    let about = DeliveryKey {
        outer: report.outer,
        vip: report.vip,
        port: [v0, v1],
        protocol: report.protocol,
        family: report.family,
        padding: 0,
    };
    Claim { about, client: report.client, client_port: [c0, c1], kind: report.kind, padding: [0; 5] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_abi::{Address, kind};
    use fairlead_core::asks::Secrets;

    fn report(gateway: &str, client: u8) -> FlowReport {
        let gateway: IpAddr = gateway.parse().unwrap();
        FlowReport {
            gateway: gateway.into(),
            client: Address::v4([192, 0, 2, client]),
            kind: kind::FORMER,
            ..FlowReport::default()
        }
    }

    #[test]
    fn claims_go_to_their_gateway_sixteen_at_a_time() {
        let prefixes = ["198.51.100.1/32", "2001:db8:f::/96"].map(|prefix| prefix.parse().unwrap());
        let mut claimer = Claimer::new(prefixes.into(), 7);
        for client in 0..20 {
            claimer.add(&report("198.51.100.1", client));
        }
        claimer.add(&report("2001:db8:f::7:7", 1));
        claimer.add(&report("203.0.113.9", 1));
        let keys = Secrets::parse(&"ab".repeat(32)).unwrap().keys("eu");
        let messages = claimer.take(&keys);
        let to: Vec<String> =
            messages.iter().map(|(to, message)| format!("{to} {}", message.len())).collect();
        let whole = 24 + 16 * size_of::<Claim>();
        let rest = |count: usize| 24 + count * size_of::<Claim>();
        assert_eq!(
            to,
            [
                format!("198.51.100.1 {whole}"),
                format!("198.51.100.1 {}", rest(4)),
                format!("2001:db8:f:: {}", rest(1))
            ]
        );
        assert!(claimer.take(&keys).is_empty());
    }
}
