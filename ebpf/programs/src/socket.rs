//! The endpoint's socket of a flow, looked up in its pod's namespace: the kernel there knows a connection also where
//! `FLOWS` has lost it, or where a flood evicted its half-open entry.
//!
//! Only what fits the socket's numbers is known. TIME_WAIT is not, nor a listener but by a SYN cookie of its own, nor a
//! request socket but by the ACK of its SYN-ACK: a forged SYN leaves one behind too. No socket says which VIP it was opened by;
//! it is the packet's own, unless an entry of the flow names another.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_sock,
        bpf_tcp_check_syncookie,
    },
    programs::XdpContext,
};
use fairlead_abi::{Address, DropReason, FlowKey, FlowState, Numbers};

use crate::{
    headers::{Tcp, protocol, tcp},
    maps::{DELIVERIES, HALF_OPEN, NAMESPACES, Scratch},
    packet::Packet,
    parse::Parsed,
    receiver::{self, FINE, NOT_KNOWN},
    reply, setting,
};

/// What a look-up is about, and what it found: in [`Scratch`], for the helpers want memory of the programs' own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Socket {
    /// TCP's numbers in the packet.
    pub numbers: Numbers,
    /// Its flags.
    pub flags: u8,
    /// [`FlowState`] of the socket, as a number.
    state: u8,
    /// 1: the client has sent a FIN.
    client_ended: u8,
    /// 1: the packet has no entry that it fits, nor is there one for another VIP: it may have a socket.
    pub wanted: u8,
    /// 1: the packet ends a handshake.
    opens: u8,
    padding: [u8; 3],
    /// What the client sends next.
    client_next: u32,
    /// What the endpoint sends next; of a handshake, the number of the SYN-ACK.
    next: u32,
    room: Room,
}

/// Room for what helpers read.
#[repr(C)]
#[derive(Clone, Copy)]
union Room {
    v4: Tuple<[u8; 4]>,
    v6: Tuple<[u64; 2]>,
    headers_v4: Headers<IpV4>,
    headers_v6: Headers<IpV6>,
}

/// `struct bpf_sock_tuple`: source and destination of a packet to the endpoint.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tuple<Ip> {
    client: Ip,
    endpoint: Ip,
    client_port: [u8; 2],
    endpoint_port: [u8; 2],
}

/// Without what aligns it.
const TUPLE_V6: u32 = 36;

/// What the kernel checks a SYN cookie by.
#[repr(C)]
#[derive(Clone, Copy)]
struct Headers<Ip> {
    ip: Ip,
    tcp: Tcp,
}

/// An IPv4 header of which only version and addresses are read.
#[repr(C)]
#[derive(Clone, Copy)]
struct IpV4 {
    version: [u8; 4],
    rest: [u32; 2],
    addresses: [[u8; 4]; 2],
}

/// An IPv6 header of which only version and addresses are read.
#[repr(C)]
#[derive(Clone, Copy)]
struct IpV6 {
    version: [u8; 8],
    addresses: [[u64; 2]; 2],
}

const _: () = {
    assert!(size_of::<IpV4>() == 20 && size_of::<IpV6>() == 40 && size_of::<Tuple<[u8; 4]>>() == 12);
    assert!(core::mem::offset_of!(Tuple<[u64; 2]>, client_port) == 32);
};

/// What a look-up found.
pub mod found {
    /// There was none: the kernel doesn't allow it, or nobody knows the endpoint's namespace.
    pub const UNSEEN: u32 = 0;
    /// No socket that the packet could be for.
    pub const NONE: u32 = 1;
    /// A connection with other numbers.
    pub const OTHER: u32 = 2;
    /// The packet's connection, or the handshake that it ends.
    pub const FITS: u32 = 3;
}

/// States of sockets, `TCP_…`.
mod state {
    pub(super) const ESTABLISHED: u32 = 1;
    pub(super) const SYN_RECV: u32 = 3;
    pub(super) const FIN_WAIT1: u32 = 4;
    pub(super) const FIN_WAIT2: u32 = 5;
    pub(super) const CLOSE_WAIT: u32 = 8;
    pub(super) const LAST_ACK: u32 = 9;
    pub(super) const LISTEN: u32 = 10;
    pub(super) const CLOSING: u32 = 11;
    pub(super) const NEW_SYN_RECV: u32 = 12;

    /// Bits of those of connections; `SYN_RECV` is one that began with TCP Fast Open.
    pub(super) const OF_CONNECTIONS: u32 =
        1 << ESTABLISHED | 1 << SYN_RECV | 1 << CLOSE_WAIT | ENDPOINT_ENDED;
    /// Of those where the endpoint has sent a FIN.
    pub(super) const ENDPOINT_ENDED: u32 = 1 << FIN_WAIT1 | 1 << FIN_WAIT2 | 1 << LAST_ACK | 1 << CLOSING;
    /// Of those where the client has.
    pub(super) const CLIENT_ENDED: u32 = 1 << CLOSE_WAIT | 1 << LAST_ACK | 1 << CLOSING;
}

/// How far a number may be behind the socket's: what comes late, or once more.
const BEHIND: u32 = 1 << 20;

/// Whether sockets of the endpoint that this outer address stands for can be looked up.
#[inline(always)]
#[must_use]
pub fn can_be_seen(outer: &Address) -> bool {
    setting!(sockets.rcv_nxt) != 0 && NAMESPACES.get_ptr(outer).is_some()
}

/// Whether the endpoint's socket may know the flow of `scratch.inner`, which [`receiver::deliver`] doesn't.
#[inline(always)]
#[must_use]
pub fn is_wanted(scratch: &Scratch) -> bool {
    // Where the setting is 0, the verifier never sees what would follow.
    setting!(sockets.rcv_nxt) != 0
        && scratch.socket.wanted != 0
        && scratch.inner.carried.protocol == protocol::TCP
}

/// As [`receiver::deliver`], which does not know the flow of `scratch.inner`: by the endpoint's socket it may be known. Then it
/// has an entry afterwards. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn deliver(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    match try_deliver(ctx, scratch) {
        Ok(true) => FINE,
        Ok(false) => NOT_KNOWN,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_deliver(ctx: &XdpContext, scratch: &mut Scratch) -> Result<bool, DropReason> {
    let Scratch { inner: Parsed { carried, .. }, socket, .. } = scratch;
    // A SYN opens what no socket knows yet.
    if carried.tcp_flags & tcp::SYN != 0 {
        return Ok(false);
    }
    let numbers = reply::numbers(&Packet::new(ctx), carried)?;
    (socket.numbers, socket.flags) = (numbers, carried.tcp_flags);
    if look_up(ctx, scratch) != found::FITS {
        return Ok(false);
    }
    let Scratch { inner, flow, entry, socket, delivery, .. } = scratch;
    // SAFETY: as in `receiver`.
    let delivery = unsafe { DELIVERIES.get(&*delivery) }.ok_or(DropReason::NotDelivered)?;
    // Its endpoint answers nothing: it begins no entry.
    if socket.flags & tcp::RST != 0 {
        return receiver::readdress(&Packet::new(ctx), inner, delivery).map(|()| true);
    }
    entry.sequence = socket.next;
    entry.client_sequence = socket.client_next;
    entry.state = socket.state;
    entry.client_ended = socket.client_ended;
    reply::note_end(entry, &socket.numbers, &inner.carried);
    if reply::is_of_another(flow, entry) {
        return Ok(false);
    }
    if let Err(full) = reply::establish(flow, entry) {
        if socket.opens != 0 {
            return Err(full);
        }
        // One that is there already is no new one to refuse.
        let _ = HALF_OPEN.insert(&*flow, &*entry, 0);
    }
    receiver::readdress(&Packet::new(ctx), inner, delivery).map(|()| true)
}

/// Looks up the socket of the flow that a gateway asks about, as `look_up` does. A subprogram, for a stack of its own.
#[inline(never)]
pub fn ask(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    look_up(ctx, scratch)
}

/// Looks up the socket of the flow `scratch.flow` at the endpoint that `scratch.delivery.outer` stands for: what was
/// [`found`]. `scratch.socket` says what the packet has, and afterwards what the socket has where that fits.
#[inline(always)]
fn look_up(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    // Where this is 0, the verifier never sees what follows.
    if setting!(sockets.rcv_nxt) == 0 {
        return found::UNSEEN;
    }
    let Scratch { flow, delivery, socket, .. } = scratch;
    // SAFETY: a number of the map, which the agent replaces as a whole.
    let Some(&namespace) = (unsafe { NAMESPACES.get(&delivery.outer) }) else { return found::UNSEEN };
    let size = socket.room.set_tuple(flow);
    let tuple = (&raw mut socket.room).cast();
    // SAFETY: the tuple is as long as is told; what is found is released below.
    let sock = unsafe { bpf_skc_lookup_tcp(ctx.ctx.cast(), tuple, size, namespace as u64, 0) };
    if sock.is_null() {
        return found::NONE;
    }
    // SAFETY: a field that programs may read.
    let state = unsafe { (&raw const (*sock).state).read_volatile() };
    let outcome = match state {
        state::NEW_SYN_RECV => socket.ends_handshake(sock),
        state::LISTEN => socket.has_cookie(sock, flow),
        0..=state::CLOSING if state::OF_CONNECTIONS & 1 << state != 0 => socket.fits(sock, state),
        _ => found::NONE,
    };
    // SAFETY: it was found above, and is not used after this.
    unsafe { bpf_sk_release(sock.cast()) };
    outcome
}

impl Socket {
    /// Whether the packet fits a connection's numbers: what the endpoint would take, or has had already.
    #[inline(always)]
    fn fits(&mut self, sock: *mut bpf_sock, state: u32) -> u32 {
        // SAFETY: the helper takes any socket that was found, and gives a TCP socket or nothing.
        let socket = unsafe { bpf_skc_to_tcp_sock(sock.cast()) };
        if socket.is_null() {
            return found::NONE;
        }
        let socket = socket.cast();
        let client_next = field(socket, setting!(sockets.rcv_nxt));
        let window = field(socket, setting!(sockets.rcv_wnd));
        let unacknowledged = field(socket, setting!(sockets.snd_una));
        let next = field(socket, setting!(sockets.snd_nxt));
        let sent = self.numbers.sequence.wrapping_sub(client_next).wrapping_add(BEHIND);
        let got = self.numbers.acknowledged.wrapping_sub(unacknowledged).wrapping_add(BEHIND);
        let acknowledges = self.flags & tcp::ACK != 0;
        // All but resets acknowledge: of the others one number alone would have to be guessed.
        if !acknowledges && self.flags & tcp::RST == 0
            || sent > window.wrapping_add(BEHIND)
            || acknowledges && got > next.wrapping_sub(unacknowledged).wrapping_add(BEHIND)
        {
            return found::OTHER;
        }
        let ended = state::ENDPOINT_ENDED & 1 << state != 0;
        self.state = if ended { FlowState::Closing } else { FlowState::Established } as u8;
        self.client_ended = (state::CLIENT_ENDED & 1 << state != 0) as u8;
        self.opens = 0;
        (self.client_next, self.next) = (client_next, next);
        found::FITS
    }

    /// Whether the packet acknowledges the SYN-ACK of a request socket, and so ends its handshake.
    #[inline(always)]
    fn ends_handshake(&mut self, sock: *mut bpf_sock) -> u32 {
        // SAFETY: as in `fits`, of a request socket.
        let request = unsafe { bpf_skc_to_tcp_request_sock(sock.cast()) };
        if request.is_null() || self.flags & (tcp::ACK | tcp::RST) != tcp::ACK {
            return found::NONE;
        }
        let sent = field(request.cast(), setting!(sockets.snt_isn));
        if self.numbers.acknowledged != sent.wrapping_add(1) {
            return found::NONE;
        }
        self.begins()
    }

    /// Whether the packet has a SYN cookie that the listener has sent lately.
    #[inline(always)]
    fn has_cookie(&mut self, sock: *mut bpf_sock, flow: &FlowKey) -> u32 {
        if self.flags & (tcp::ACK | tcp::RST) != tcp::ACK {
            return found::NONE;
        }
        let tcp = Tcp {
            ports: [flow.client_port, flow.endpoint_port],
            sequence: self.numbers.sequence.to_be_bytes(),
            acknowledgement: self.numbers.acknowledged.to_be_bytes(),
            offset: 0x50,
            flags: tcp::ACK,
            rest: [0; 6],
        };
        let length = self.room.set_headers(flow, tcp);
        let ip = (&raw mut self.room).cast::<u8>();
        // SAFETY: the headers stand in the room, one after the other.
        let checked = unsafe {
            let tcp = ip.add(length as usize).cast();
            bpf_tcp_check_syncookie(sock.cast(), ip.cast(), length, tcp, size_of::<Tcp>() as u32)
        };
        if checked == 0 { self.begins() } else { found::NONE }
    }

    /// The connection begins with this packet.
    #[inline(always)]
    fn begins(&mut self) -> u32 {
        self.state = FlowState::Established as u8;
        (self.client_ended, self.opens) = (0, 1);
        self.client_next = self.numbers.sequence;
        self.next = self.numbers.acknowledged.wrapping_sub(1);
        found::FITS
    }
}

impl Room {
    /// The flow, as the endpoint's namespace has it: its length.
    #[inline(always)]
    fn set_tuple(&mut self, flow: &FlowKey) -> u32 {
        let (client_port, endpoint_port) = (flow.client_port, flow.endpoint_port);
        if flow.endpoint.is_v4() {
            let (client, endpoint) = (flow.client.to_v4(), flow.endpoint.to_v4());
            self.v4 = Tuple { client, endpoint, client_port, endpoint_port };
            return size_of::<Tuple<[u8; 4]>>() as u32;
        }
        let (client, endpoint) = (flow.client.words(), flow.endpoint.words());
        self.v6 = Tuple { client, endpoint, client_port, endpoint_port };
        TUPLE_V6
    }

    /// The headers that the endpoint would get: the length of the first.
    #[inline(always)]
    fn set_headers(&mut self, flow: &FlowKey, tcp: Tcp) -> u32 {
        if flow.endpoint.is_v4() {
            let ip = IpV4 {
                version: [0x45, 0, 0, 0],
                rest: [0; 2],
                addresses: [flow.client.to_v4(), flow.endpoint.to_v4()],
            };
            self.headers_v4 = Headers { ip, tcp };
            return size_of::<IpV4>() as u32;
        }
        let ip = IpV6 {
            version: [0x60, 0, 0, 0, 0, 20, 6, 0],
            addresses: [flow.client.words(), flow.endpoint.words()],
        };
        self.headers_v6 = Headers { ip, tcp };
        size_of::<IpV6>() as u32
    }
}

/// A field of a kernel's structure, at an offset that the verifier knows.
#[inline(always)]
fn field(of: *const u8, offset: u32) -> u32 {
    // SAFETY: the agent found the offset in the kernel's own description, and the verifier checks that a field is there.
    unsafe { of.add(offset as usize).cast::<u32>().read_volatile() }
}
