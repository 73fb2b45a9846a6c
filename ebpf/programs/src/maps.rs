//! The maps, with their default sizes; the agent gives them others when it loads them.
//!
//! Arrays that the agent writes can be mapped into its memory (`BPF_F_MMAPABLE`, kernel 5.5), so that it
//! publishes with single 64-bit stores. They are never written from here, but for those that say so.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use fairlead_abi::{
    Address, Backend, BackendCounters, Bucket, CacheBucket, Cached, ClientKey, Counter, Delivery,
    DeliveryKey, DropReason, EarlyFragment, FlowEntry, FlowEvent, FlowKey, FlowReport, FragmentEntry,
    FragmentKey, HeldFlows, Hop, Limit, ProbeTarget, RateLimit, RecentBucket, Server, ServerKey,
    ServiceCounters, Settings, SipKey, Slot, SocketOffsets, TunnelSource,
};

use crate::{
    parse::{Ip, Parsed},
    socket::Socket,
    steer::Steered,
};

const MMAP: usize = BPF_F_MMAPABLE as usize;
/// Of tables that most nodes have next to nothing in, and no program writes: entries take memory once they are there.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;
/// Entries of `BOUNCES`: the first counts all, and prefixes that share another share a limit. A power of two.
pub const BOUNCE_COUNTS: usize = 8192;

/// Replaced by the loader.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    seed: 0,
    roles: 0,
    bucket_mask: 0,
    tunnel_v4: NO_TUNNEL,
    tunnel_v6: NO_TUNNEL,
    icmp_per_second: 0,
    cache_mask: 0,
    bounces_per_second: 0,
    bounces_per_prefix: 0,
    reports_per_second: 0,
    bounces_in_all: 0,
    recent_mask: 0,
    padding: 0,
    sockets: SocketOffsets { rcv_nxt: 0, rcv_wnd: 0, snd_una: 0, snd_nxt: 0, snt_isn: 0, padding: 0 },
};
const NO_TUNNEL: TunnelSource =
    TunnelSource { address: Address { bytes: [0; 16] }, vary: [0; 4], padding: 0 };

/// See [`fairlead_abi::map::SERVICES`].
#[btf_map]
pub static SERVICES: Array<Bucket, 4096, MMAP> = Array::new();
/// See [`fairlead_abi::map::SLOTS`].
#[btf_map]
pub static SLOTS: Array<Slot, 1_048_576, MMAP> = Array::new();
/// See [`fairlead_abi::map::BACKENDS`].
#[btf_map]
pub static BACKENDS: Array<Backend, 65_536, MMAP> = Array::new();
/// See [`fairlead_abi::map::SERVER_IDS`].
#[btf_map]
pub static SERVER_IDS: HashMap<ServerKey, Server, 131_072, SPARSE> = HashMap::new();
/// See [`fairlead_abi::map::ALLOWED`].
#[btf_map]
pub static ALLOWED: LpmTrie<ClientKey, u32, 65_536> = LpmTrie::new();
/// See [`fairlead_abi::map::HOPS`].
#[btf_map]
pub static HOPS: Array<Hop, 4096, MMAP> = Array::new();
/// See [`fairlead_abi::map::SERVICE_COUNTERS`].
#[btf_map]
pub static SERVICE_COUNTERS: PerCpuArray<ServiceCounters, 4096> = PerCpuArray::new();
/// See [`fairlead_abi::map::BACKEND_COUNTERS`].
#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<BackendCounters, 65_536> = PerCpuArray::new();
/// See [`fairlead_abi::map::DROPS`].
#[btf_map]
pub static DROPS: PerCpuArray<Counter, { DropReason::COUNT as usize }> = PerCpuArray::new();
/// See [`fairlead_abi::map::FLOW_EVENTS`].
#[btf_map]
pub static FLOW_EVENTS: PerCpuArray<u64, { FlowEvent::COUNT as usize }> = PerCpuArray::new();
/// See [`fairlead_abi::map::LIMITS`].
#[btf_map]
pub static LIMITS: PerCpuArray<RateLimit, { Limit::COUNT }> = PerCpuArray::new();
/// See [`fairlead_abi::map::BOUNCES`]. The agent writes too: what is claimed is given back.
#[btf_map]
pub static BOUNCES: Array<u64, BOUNCE_COUNTS, MMAP> = Array::new();
/// See [`fairlead_abi::map::CACHE`]. Removed from here, too.
#[btf_map]
pub static CACHE: Array<CacheBucket, 131_072, MMAP> = Array::new();
/// See [`fairlead_abi::map::CACHED`].
#[btf_map]
pub static CACHED: Array<Cached, 16_384, MMAP> = Array::new();
/// See [`fairlead_abi::map::REPORTS`].
#[btf_map]
pub static REPORTS: RingBuf<FlowReport, 1_048_576> = RingBuf::new();
/// See [`fairlead_abi::map::DELIVERIES`].
#[btf_map]
pub static DELIVERIES: HashMap<DeliveryKey, Delivery, 16_384> = HashMap::new();
/// See [`fairlead_abi::map::GATEWAYS`].
#[btf_map]
pub static GATEWAYS: LpmTrie<[u8; 16], u32, 1024> = LpmTrie::new();
/// See [`fairlead_abi::map::FLOWS`].
#[btf_map]
pub static FLOWS: HashMap<FlowKey, FlowEntry, 262_144> = HashMap::new();
/// See [`fairlead_abi::map::HALF_OPEN`].
#[btf_map]
pub static HALF_OPEN: LruHashMap<FlowKey, FlowEntry, 65_536> = LruHashMap::new();
/// See [`fairlead_abi::map::RECENT`]. Written here; the agent only forgets.
#[btf_map]
pub static RECENT: Array<RecentBucket, 65_536, MMAP> = Array::new();
/// See [`fairlead_abi::map::FRAGMENTS`].
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, 16_384> = LruHashMap::new();
/// See [`fairlead_abi::map::EARLY`].
#[btf_map]
pub static EARLY: RingBuf<EarlyFragment, 262_144> = RingBuf::new();
/// See [`fairlead_abi::map::LOST`].
#[btf_map]
pub static LOST: Array<u64, 1> = Array::new();
/// See [`fairlead_abi::map::NAMESPACES`].
#[btf_map]
pub static NAMESPACES: HashMap<Address, u32, 16_384, SPARSE> = HashMap::new();
/// See [`fairlead_abi::map::KEYS`].
#[btf_map]
pub static KEYS: HashMap<u32, SipKey, 64> = HashMap::new();
/// See [`fairlead_abi::map::HELD`].
#[btf_map]
pub static HELD: HashMap<DeliveryKey, HeldFlows, 16_384> = HashMap::new();
/// See [`fairlead_abi::map::PROBES`].
#[btf_map]
pub static PROBES: HashMap<u32, ProbeTarget, 65_536> = HashMap::new();
/// Programs that others go on in; filled when they are loaded.
#[btf_map]
pub static PROGRAMS: ProgramArray<2> = ProgramArray::new();
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Room for what would not fit on a stack of 512 bytes. Not pinned: nothing in it outlives a packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    /// The packet.
    pub packet: Parsed,
    /// The packet inside a tunnel packet.
    pub inner: Parsed,
    /// The outer header of a tunnel packet.
    pub tunnel: Ip,
    /// Bytes of a tunnel packet's outer headers.
    pub outer: u32,
    /// Not 0: the packet still has its outer headers, for it was sent before and came back.
    pub came_back: u32,
    /// The mark of the tunnel packet, or that it would have if its endpoint were not on this node.
    pub mark: u16,
    /// By what the endpoint was chosen, as the mark says.
    pub kind: u8,
    /// The gateway that sent the tunnel packet; all zero: this one.
    pub gateway: Address,
    /// Where a message between agents begins.
    pub message: u32,
    /// The key of its tag.
    pub key: SipKey,
    /// The backend that was chosen for the packet.
    pub steered: Steered,
    /// The id of its service.
    pub service: u32,
    /// The key of a delivery.
    pub delivery: DeliveryKey,
    /// The key of a flow.
    pub flow: FlowKey,
    /// A new entry for it.
    pub entry: FlowEntry,
    /// The endpoint's socket of it.
    pub socket: Socket,
    /// What a reply of that flow is rewritten to.
    pub reverse: Reverse,
    /// The key of a datagram.
    pub datagram: FragmentKey,
    /// What became of its first fragment.
    pub first: FragmentEntry,
}

impl Scratch {
    /// The packet is for what is delivered at an outer address, and a gateway sent it there; all zero: this one.
    #[inline(always)]
    pub fn meant_for(&mut self, outer: Address, gateway: Address) {
        self.delivery.outer = outer;
        self.gateway = gateway;
    }
}

/// What a reply is rewritten to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Reverse {
    /// The VIP.
    pub vip: Address,
    /// Its port, network byte order.
    pub port: [u8; 2],
    /// Largest MSS that may be offered; 0: any.
    pub mss: u16,
    /// Offset of the reply's IP header.
    pub l3: u16,
    /// Offset of its TCP, UDP or ICMP header.
    pub l4: u16,
    /// Of an ICMP error: offset of the ports that it quotes.
    pub quoted: u16,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// Of an ICMP error: 1 where the endpoint itself sent it.
    pub own: u8,
    /// Zero.
    pub padding: [u8; 4],
}

#[btf_map]
static EARLY_ROOM: PerCpuArray<EarlyFragment, 1> = PerCpuArray::new();

/// This CPU's room for a frame that is held.
#[inline(always)]
#[must_use]
pub fn early_room() -> Option<&'static mut EarlyFragment> {
    // SAFETY: as in `scratch`.
    Some(unsafe { &mut *EARLY_ROOM.get_ptr_mut(0)? })
}

/// This CPU's scratch room. Once per run of a program: it is not to be had twice at a time.
#[inline(always)]
#[must_use]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own; programs at these hooks don't preempt each other on one CPU; zeroed at first, which
    // is a valid value of every field.
    Some(unsafe { &mut *SCRATCH.get_ptr_mut(0)? })
}
