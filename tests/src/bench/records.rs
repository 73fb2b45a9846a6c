//! What the programs of `ebpf/programs/src/bench.rs` are told, and what they counted: their record, as words.

use anyhow::{Context, Result, ensure};
use aya::maps::{PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use fairlead::dataplane::Dataplane;
use fairlead_abi::{Backend, Encap, Hop};

use super::case::{Case, FRAME, Tunnel};

const WORDS: usize = TUNNEL + 1;
const MAP: &str = "BENCH";

/// Offsets, in words, of what follows the headers.
const FLOWS: usize = HEADERS;
const ENDS: usize = FLOWS + 1;
const V6: usize = FLOWS + 2;
const BACKEND: usize = FLOWS + 3;
const HOP: usize = BACKEND + size_of::<Backend>() / 8;
const RUNS: usize = HOP + size_of::<Hop>() / 8;
const VERDICTS: usize = RUNS + 1;
const LENGTH: usize = VERDICTS + 5;
const ARRIVED: usize = LENGTH + 1;
const STRANGE: usize = ARRIVED + 1;
const FASTEST: usize = STRANGE + 2;
const TUNNEL: usize = FASTEST + 1;
/// Words of headers at most.
pub(super) const HEADERS: usize = 16;

/// Packets that the sink times together.
pub(super) const BLOCK: u64 = 4096;

/// One CPU's record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record([u64; WORDS]);

impl Record {
    /// Packets of `case`, of `flows` flows (a power of two), to `busy` services.
    pub(super) fn new(case: Case, flows: u32, busy: u32) -> Self {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(case.frame().chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("chunks of eight bytes"));
        }
        let (source, destination) = case.address_ends();
        words[V6] = u64::from(case.is_v6());
        words[FLOWS] = pair(flows - 1, busy);
        words[ENDS] = pair(source, destination);
        words[BACKEND..HOP].copy_from_slice(&backend(case.is_v6()));
        words[HOP..HOP + 2].copy_from_slice(&[0x0200_0100_0000_0002, 0x0000_0001_0200_0000]);
        words[LENGTH] = (FRAME + if case.is_v6() { 40 } else { 20 }) as u64;
        Self(words)
    }

    /// Packets of `case` in `tunnel`, of `flows` flows.
    pub(super) fn in_tunnel(case: Case, tunnel: &Tunnel, flows: u32) -> Self {
        let mut record = Self::new(case, flows, 1);
        let frame = tunnel.frame(case);
        for (word, bytes) in record.0.iter_mut().zip(frame.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("chunks of eight bytes"));
        }
        let [a, b, c, d] = case.ports();
        record.0[TUNNEL] = u64::from_ne_bytes([a, b, c, d, tunnel.kind, u8::from(tunnel.bounced), 0, 0]);
        record
    }

    pub(super) fn runs(&self) -> u64 {
        self.0[RUNS]
    }

    /// By XDP's number.
    pub(super) fn verdicts(&self) -> &[u64] {
        &self.0[VERDICTS..LENGTH]
    }

    /// At the sink: as they should be, and others.
    pub(super) fn arrived(&self) -> (u64, u64) {
        (self.0[ARRIVED], self.0[STRANGE])
    }

    /// The least nanoseconds in which [`BLOCK`] packets arrived at the sink.
    pub(super) fn fastest(&self) -> Option<u64> {
        Some(self.0[FASTEST]).filter(|&took| took != 0)
    }

    /// Gives this record to all CPUs.
    pub(super) fn write(&self, dataplane: &mut Dataplane) -> Result<()> {
        let cpus = nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
        let values = PerCpuValues::try_from(vec![self.0; cpus])?;
        map(dataplane)?.set(0, values, 0).context("write the bench's record")
    }

    /// The record of one CPU.
    pub(super) fn read(dataplane: &mut Dataplane, cpu: usize) -> Result<Self> {
        let values = map(dataplane)?.get(&0, 0).context("read the bench's record")?;
        Ok(Self(*values.get(cpu).with_context(|| format!("no CPU {cpu}"))?))
    }
}

type Map<'a> = PerCpuArray<&'a mut aya::maps::MapData, [u64; WORDS]>;

fn map(dataplane: &mut Dataplane) -> Result<Map<'_>> {
    let map = dataplane.map_mut(MAP)?;
    let map = PerCpuArray::try_from(map).context("the ELF's record is another than this bench's")?;
    Ok(map)
}

/// Two fields of 32 bits.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Where the floor sends everything: an IPIP endpoint of the packet's own family.
fn backend(v6: bool) -> [u64; 3] {
    let (address, family) = if v6 {
        (fairlead_abi::Address::v6([0x20, 1, 0xd, 0xb8, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]), 6)
    } else {
        (fairlead_abi::Address::v4([10, 0, 0, 10]), 4)
    };
    let [high, low] = address.words();
    let mtu = 1500_u16.to_ne_bytes();
    [high, low, u64::from_ne_bytes([1, 0, 0, 0, mtu[0], mtu[1], Encap::Ipip as u8, family])]
}

/// An error unless all packets since the record was written had the verdict that they should have.
pub(super) fn check(record: &Record, packets: u64, verdict: usize) -> Result<()> {
    let right = record.verdicts()[verdict];
    ensure!(
        record.runs() == packets && right == packets,
        "of {packets} packets {right} had the verdict {verdict}: {:?} in {} runs",
        record.verdicts(),
        record.runs()
    );
    Ok(())
}
