//! Whose packets of QUIC are, by the server ID in their connection ID.
//!
//! In come the addresses of a service's backends, out goes which backend each server ID leads to. A server may make its
//! connection IDs by any of its addresses, whichever family its clients come by: so it needs one ID only.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::ServerId;

/// A server ID, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedServer {
    /// What connection IDs say.
    pub id: ServerId,
    /// What it was made of: an address of the endpoint. `None` where only the kernel knew of it.
    pub address: Option<IpAddr>,
    /// Position in [`ServiceTable::backends`](super::ServiceTable::backends).
    pub backend: u16,
}

/// A server ID that two addresses have: it is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Clash {
    /// The ID.
    pub id: ServerId,
    /// Two of the addresses.
    pub addresses: [IpAddr; 2],
}

/// A server ID that could lead to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) id: ServerId,
    /// The endpoint has left: who is there comes first.
    pub(super) lingers: bool,
    pub(super) backend: u16,
    pub(super) address: Option<IpAddr>,
}

/// Each ID once, in order, whatever the order of `claims`.
pub(super) fn assign(mut claims: Vec<Claim>) -> (Vec<NamedServer>, Vec<Clash>) {
    claims.sort_unstable();
    let (mut named, mut clashes) = (Vec::new(), Vec::new());
    for of_id in claims.chunk_by(|a, b| a.id == b.id) {
        let Claim { id, backend, .. } = of_id[0];
        let addresses = || of_id.iter().filter_map(|claim| claim.address);
        match (addresses().min(), addresses().max()) {
            (Some(one), Some(other)) if one != other => clashes.push(Clash { id, addresses: [one, other] }),
            (address, _) => named.push(NamedServer { id, address, backend }),
        }
    }
    (named, clashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: u8, address: u8, lingers: bool, backend: u16) -> Claim {
        let address = (address > 0).then(|| IpAddr::from([10, 0, 0, address]));
        Claim { id: ServerId([id; 8]), lingers, backend, address }
    }

    fn assigned(claims: &[Claim]) -> (Vec<(u8, u16)>, Vec<u8>) {
        let (named, clashes) = assign(claims.to_vec());
        let backwards = assign(claims.iter().rev().copied().collect());
        assert_eq!((&named, &clashes), (&backwards.0, &backwards.1), "the order doesn't matter");
        let named = named.iter().map(|server| (server.id.0[0], server.backend));
        (named.collect(), clashes.iter().map(|clash| clash.id.0[0]).collect())
    }

    #[test]
    fn each_id_is_one_backends() {
        assert_eq!(
            assigned(&[claim(3, 3, false, 0), claim(1, 1, true, 1), claim(2, 2, false, 0)]),
            (vec![(1, 1), (2, 0), (3, 0)], vec![])
        );
        assert_eq!(assigned(&[]), (vec![], vec![]));
    }

    #[test]
    fn an_address_that_two_backends_have_is_that_ones_which_is_there() {
        assert_eq!(assigned(&[claim(1, 1, true, 0), claim(1, 1, false, 1)]), (vec![(1, 1)], vec![]));
        assert_eq!(assigned(&[claim(1, 1, true, 4), claim(1, 1, true, 2)]), (vec![(1, 2)], vec![]));
        // Of one the address is not known.
        assert_eq!(assigned(&[claim(1, 0, true, 0), claim(1, 1, false, 1)]), (vec![(1, 1)], vec![]));
        assert_eq!(assigned(&[claim(1, 0, true, 3)]), (vec![(1, 3)], vec![]));
    }

    #[test]
    fn an_id_that_two_addresses_have_is_nobodys() {
        let clashing =
            [claim(1, 1, false, 0), claim(1, 2, true, 1), claim(1, 3, false, 2), claim(2, 4, false, 2)];
        assert_eq!(assigned(&clashing), (vec![(2, 2)], vec![1]));
    }
}
