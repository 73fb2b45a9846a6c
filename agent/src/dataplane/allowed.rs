//! The table of the ranges of clients that restricted services allow (`ALLOWED`): as plans write it, and as it is read back.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};

use aya::maps::{LpmTrie, Map, MapData, lpm_trie::Key};
use fairlead_abi::{Address, ClientKey, map};
use ipnet::IpNet;

use super::{Dataplane, Error};

/// Ranges by the ids of services.
type Ranges = BTreeMap<u32, BTreeSet<IpNet>>;

impl Dataplane {
    pub(super) fn put_range(&mut self, service: u32, range: IpNet) -> Result<(), Error> {
        let error = Error::map(map::ALLOWED);
        let mut trie = LpmTrie::<_, ClientKey, u32>::try_from(self.map_mut(map::ALLOWED)?).map_err(&error)?;
        trie.insert(&key(service, range), 1, 0).map_err(error)
    }

    pub(super) fn remove_range(&mut self, service: u32, range: IpNet) -> Result<(), Error> {
        let error = Error::map(map::ALLOWED);
        let mut trie = LpmTrie::<_, ClientKey, u32>::try_from(self.map_mut(map::ALLOWED)?).map_err(&error)?;
        trie.remove(&key(service, range)).map_err(error)
    }

    pub(super) fn read_ranges(&self) -> Result<Ranges, Error> {
        let trie = LpmTrie::try_from(self.map(map::ALLOWED)?).map_err(Error::map(map::ALLOWED))?;
        read(&trie)
    }
}

/// The table that is pinned in a folder.
pub(super) struct Pinned {
    /// `None`: the folder's version has none, and no service is restricted.
    trie: Option<LpmTrie<MapData, ClientKey, u32>>,
    /// Entries that it can have.
    pub(super) capacity: u32,
}

impl Pinned {
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(map::ALLOWED);
        if !path.try_exists().map_err(Error::pin(&path))? {
            return Ok(Self { trie: None, capacity: 0 });
        }
        let error = Error::map(map::ALLOWED);
        let data = MapData::from_pin(&path).map_err(&error)?;
        let info = data.info().map_err(|error| Error::pin(&path)(io::Error::other(error)))?;
        let trie = LpmTrie::try_from(Map::from_map_data(data).map_err(&error)?).map_err(&error)?;
        Ok(Self { trie: Some(trie), capacity: info.max_entries() })
    }

    pub(super) fn read(&self) -> Result<Ranges, Error> {
        self.trie.as_ref().map_or_else(|| Ok(Ranges::new()), read)
    }
}

/// A range as the trie has it: IPv4 in the mapped form.
fn key(service: u32, range: IpNet) -> Key<ClientKey> {
    let mapped = if matches!(range, IpNet::V4(_)) { 96 } else { 0 };
    let length = ClientKey::SERVICE_BITS + mapped + u32::from(range.prefix_len());
    Key::new(length, ClientKey { service, client: Address::from(range.network()).bytes })
}

fn read<M: Borrow<MapData>>(trie: &LpmTrie<M, ClientKey, u32>) -> Result<Ranges, Error> {
    let mut ranges = Ranges::new();
    for entry in trie.iter() {
        let (key, _) = entry.map_err(Error::map(map::ALLOWED))?;
        let ClientKey { service, client } = key.data();
        if let Some(range) = range(key.prefix_len(), client) {
            ranges.entry(service).or_default().insert(range);
        }
    }
    Ok(ranges)
}

/// `None` for a key that no agent writes.
fn range(length: u32, client: [u8; 16]) -> Option<IpNet> {
    let length = length.checked_sub(ClientKey::SERVICE_BITS)?;
    let address = Address::v6(client);
    let length = if address.is_v4() { length.checked_sub(96)? } else { length };
    IpNet::new(IpAddr::from(address), u8::try_from(length).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_go_there_and_back() {
        for text in
            ["192.0.2.0/24", "0.0.0.0/1", "198.51.100.7/32", "2001:db8::/32", "8000::/1", "2001:db8::1/128"]
        {
            let net: IpNet = text.parse().unwrap();
            let key = key(7, net);
            assert_eq!((key.data().service, range(key.prefix_len(), key.data().client)), (7, Some(net)));
        }
        assert_eq!(range(31, [0; 16]), None);
        assert_eq!(range(32 + 90, Address::v4([192, 0, 2, 0]).bytes), None);
    }
}
