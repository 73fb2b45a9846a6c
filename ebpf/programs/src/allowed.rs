//! Whom a service lets in: where it has ranges (`spec.loadBalancerSourceRanges`), clients outside of all of them are refused,
//! whatever connections they have.

use aya_ebpf::btf_maps::lpm_trie::Key;
use fairlead_abi::{Address, ClientKey, ServiceEntry};

use crate::maps::ALLOWED;

/// Whether the service takes packets of this client. One without ranges costs a bit of its entry, which is read anyway.
#[inline(always)]
#[must_use]
pub fn is_allowed(service: &ServiceEntry, client: Address) -> bool {
    if service.flags & ServiceEntry::RESTRICTED == 0 {
        return true;
    }
    let [upper, lower] = client.words();
    find(service.id, upper, lower) != 0
}

/// Whether a range of the service holds the client, whose address are these words; 0: none does. A subprogram, and told
/// by value: what is pointed to would stand on the stack of every packet.
#[inline(never)]
fn find(service: u32, upper: u64, lower: u64) -> u32 {
    let client = Address::of_words([upper, lower]).bytes;
    let key = Aligned { key: Key::new(ClientKey::SERVICE_BITS + 128, ClientKey { service, client }) };
    ALLOWED.get(&key.key).is_some() as u32
}

/// A key whose address stands where words do: the kernel reads it by words.
#[repr(C, align(8))]
struct Aligned {
    key: Key<ClientKey>,
}
