//! What the clients of a prefix, and all, may cause to be sent on: a packet that came back and was claimed in the end counts no more.
//!
//! In: claims. The programs count what comes back, by the client's prefix and second, so that strays can't take the room of
//! connections; a connection that is found takes none.

use fairlead_abi::{ALL_BOUNCES, Address, bounces_of, map};

use super::{Dataplane, Error, mapped::Mapped};

/// See the module.
pub struct Bounces {
    seed: u64,
    counts: Mapped<u64>,
}

impl Dataplane {
    /// The counts of what came back; `seed` is the programs'.
    pub fn bounces(&self, seed: u64) -> Result<Bounces, Error> {
        Ok(Bounces { seed, counts: super::load::mapped(&self.ebpf, map::BOUNCES)? })
    }
}

impl Bounces {
    /// A packet of this client came back so often until it was claimed.
    pub fn give_back(&mut self, client: &Address, bounces: u32) -> Result<(), Error> {
        let entries = u32::try_from(self.counts.elements().len()).expect("a map's size has 32 bits");
        for index in [bounces_of(self.seed, client, entries), ALL_BOUNCES] {
            self.counts.update(index, 0, |count| less(count, bounces))?;
        }
        Ok(())
    }
}

/// The count of a second, which stands in the upper half, is smaller by so many.
fn less(count: u64, by: u32) -> u64 {
    const COUNT: u64 = u32::MAX as u64;
    count & !COUNT | (count & COUNT).saturating_sub(by.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_leaves_the_second_alone() {
        let count = |second: u64, count: u64| second << 32 | count;
        assert_eq!(less(count(7, 5), 2), count(7, 3));
        assert_eq!(less(count(7, 1), 2), count(7, 0));
        assert_eq!(less(0, 9), 0);
    }
}
