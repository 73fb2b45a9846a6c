//! A receiver whose pod has real sockets, and clients that are played by hand.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fairlead::dataplane::{follow_namespaces, socket_offsets};
use fairlead_abi::message::{COUNT_WORDS, message_kind};
use fairlead_abi::{
    Ask, AskedFlow, CONTROL_PORT, Count, FlowEntry, FlowKey, FlowState, OWN_NAMESPACE, Roles, Settings, kind,
    mark,
};
use fairlead_tests::packets::{
    build::{self, Tcp, flags, ipip, tcp, udp},
    pod::{Hand, Heard, Pod, beside_a_pod},
    report::{PASS, TRANSMIT},
};
use tokio::sync::watch;

use super::{ask, node::*};

pub const FROM: u16 = 40_000;
/// The first number of clients by hand.
pub const FIRST: u32 = 0xffff_fff0;

/// A receiver whose pod has real sockets, seen by the VIP of one IP version.
pub struct Scene<'p> {
    pub node: Node,
    pub pod: &'p Pod,
    pub vip: IpAddr,
}

/// A connection of a client by hand.
pub struct Connection {
    pub hand: Hand,
    /// What the client sends next, and what it gets next.
    pub next: u32,
    pub expects: u32,
}

/// Plays at a node with look-ups, with a VIP of each IP version; nothing where the kernel doesn't allow them.
pub fn play(story: impl Fn(&mut Scene<'_>) + Send + Sync) {
    let offsets = match socket_offsets() {
        Ok(offsets) => offsets,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let addresses: Vec<IpAddr> = POD.into_iter().chain(CLIENTS).map(ip).collect();
    for vip in VIPS.map(ip) {
        let play = |pod: &Pod| {
            let settings = Settings { sockets: offsets, ..settings(Roles::RECEIVER) };
            let mut node = Node::with(&settings, &tables());
            assert_eq!(node.lab.blind(), None);
            follow(&mut node, &POD.map(ip));
            story(&mut Scene { node, pod, vip });
        };
        beside_a_pod(&addresses, play).unwrap();
    }
}

/// Has the agent's part find the namespaces of these endpoints.
pub fn follow(node: &mut Node, endpoints: &[IpAddr]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (want, wanted) = watch::channel(Arc::default());
    let (tell_placed, _placed) = watch::channel(Arc::default());
    let following =
        runtime.spawn(follow_namespaces(wanted, tell_placed, node.lab.take_namespaces().unwrap()));
    want.send_replace(Arc::new(endpoints.iter().copied().collect::<BTreeSet<_>>()));
    let until = Instant::now() + Duration::from_secs(10);
    while node.lab.namespaces().unwrap().len() < endpoints.len() {
        assert!(Instant::now() < until, "namespaces are not found: {:?}", node.lab.namespaces());
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
    }
    following.abort();
    let found = node.lab.namespaces().unwrap();
    assert!(found.values().all(|&number| number != OWN_NAMESPACE), "{found:?}");
}

impl Scene<'_> {
    pub fn client(&self) -> IpAddr {
        of_family(CLIENTS, self.vip)
    }

    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(of_family(POD, self.vip), POD_PORT)
    }

    pub fn listen(&self) -> TcpListener {
        let endpoint = self.endpoint();
        self.pod.run(move || Ok(TcpListener::bind(endpoint)?)).unwrap()
    }

    pub fn hand(&self) -> Hand {
        self.pod.client(SocketAddr::new(self.client(), FROM), self.endpoint()).unwrap()
    }

    /// The pod answers a SYN.
    pub fn half_open(&self) -> (Hand, Heard) {
        let hand = self.hand();
        hand.send(Tcp { sequence: FIRST, ..tcp(0, 0, flags::SYN) }).unwrap();
        let heard = hand.hear().unwrap();
        assert_eq!(
            (heard.flags & flags::SYN_ACK, heard.acknowledged),
            (flags::SYN_ACK, FIRST.wrapping_add(1))
        );
        (hand, heard)
    }

    /// A connection that the programs have not seen.
    pub fn connect(&self, listener: &TcpListener) -> (Connection, TcpStream) {
        let (hand, heard) = self.half_open();
        let (next, expects) = (FIRST.wrapping_add(1), heard.sequence.wrapping_add(1));
        let connection = Connection { hand, next, expects };
        connection.send(flags::ACK);
        let stream = listener.accept().unwrap().0;
        (connection, stream)
    }

    /// A gateway sends a client's packet by this kind of mark: XDP's number.
    pub fn arrives(&mut self, kind: u8, segment: Tcp) -> u32 {
        let segment = Tcp { source: FROM, destination: port::FORMERS, ..segment };
        let inner = build::ip(self.client(), self.vip, segment);
        let id = mark(hash(self.client(), FROM, port::FORMERS), kind, false);
        let outer = build::IpPacket { id, ..ipip(ip(GATEWAYS[0]), ip(POD[0]), &inner) };
        self.node.lab.ingress(&incoming(outer).bytes()).unwrap().action
    }

    pub fn key(&self) -> FlowKey {
        FlowKey {
            endpoint: of_family(POD, self.vip).into(),
            client: self.client().into(),
            endpoint_port: POD_PORT.to_be_bytes(),
            client_port: FROM.to_be_bytes(),
            protocol: TCP,
            padding: [0; 3],
        }
    }

    /// The only entry of an established flow.
    pub fn entry(&self) -> Option<FlowEntry> {
        let flows = self.node.lab.flows().unwrap();
        assert!(flows.keys().all(|key| *key == self.key()), "{flows:?}");
        flows.into_values().next()
    }

    /// The packet is known by the socket: it is delivered, and the flow is as it is told.
    pub fn is_known(
        &mut self,
        what: &str,
        segment: Tcp,
        (state, client_ended): (FlowState, u8),
    ) -> FlowEntry {
        self.node.lab.clear_flows().unwrap();
        assert_eq!(self.arrives(kind::FORMER, segment), PASS, "{what}");
        let entry = self.entry().unwrap();
        assert_eq!((entry.vip, entry.port), (self.vip.into(), port::FORMERS.to_be_bytes()), "{what}");
        assert_eq!((entry.state, entry.client_ended, entry.mss), (state as u8, client_ended, MSS), "{what}");
        assert!(entry.seen > 0 && self.node.lab.half_open().unwrap().is_empty(), "{what}");
        entry
    }

    /// It isn't, and nothing is noted.
    pub fn is_unknown(&mut self, what: &str, segment: &Tcp) {
        for kind in [kind::CURRENT, kind::GUESS, kind::FORMER] {
            assert_eq!(self.arrives(kind, segment.clone()), TRANSMIT, "{what}");
        }
        assert_eq!((self.entry(), self.node.lab.half_open().unwrap().len()), (None, 0), "{what}");
    }
}

impl Connection {
    pub fn segment(&self, tcp_flags: u8) -> Tcp {
        Tcp { sequence: self.next, acknowledged: self.expects, ..tcp(0, 0, tcp_flags) }
    }

    pub fn send(&self, tcp_flags: u8) {
        self.hand.send(self.segment(tcp_flags)).unwrap();
    }

    /// The client ends, and the pod acknowledges that.
    pub fn ends(&mut self) {
        self.send(flags::FIN | flags::ACK);
        self.next = self.next.wrapping_add(1);
        while self.hand.hear().unwrap().acknowledged != self.next {}
    }

    /// The pod ends.
    pub fn hears_the_end(&mut self) {
        while self.hand.hear().unwrap().flags & flags::FIN == 0 {}
        self.expects = self.expects.wrapping_add(1);
    }
}

/// What is said of one flow, and of the whole: whether flows can be missing, and how many there are.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub answer: u8,
    pub state: u8,
    pub flows: u32,
}

impl Scene<'_> {
    /// A gateway asks whose the flow of this packet is.
    pub fn asks(&mut self, segment: &Tcp) -> Said {
        let about = ask::about(self.vip, ip(POD[0]));
        let mut question = Ask { count: ask::count(message_kind::ASK, about, 0), ..Ask::default() };
        question.count.header.count = 1;
        question.flows[0] = AskedFlow {
            client: self.client().into(),
            client_port: FROM.to_be_bytes(),
            flags: segment.flags,
            sequence: segment.sequence.to_be_bytes(),
            acknowledgement: segment.acknowledged.to_be_bytes(),
            ..AskedFlow::default()
        };
        let message = ask::sealed(question.words().to_vec());
        let (gateway, pod) = (ip(GATEWAYS[0]), ip(POD[0]));
        let packet = incoming(build::ip(gateway, pod, udp(CONTROL_PORT, CONTROL_PORT, &message)));
        let run = self.node.lab.ingress(&packet.bytes()).unwrap();
        assert_eq!(run.action, TRANSMIT);
        let words = run.frame[run.frame.len() - size_of::<Ask>()..].as_chunks::<8>().0;
        let words: Vec<u64> = words.iter().map(|&word| u64::from_le_bytes(word)).collect();
        let count = Count::of(words[..COUNT_WORDS].try_into().unwrap());
        let flow = AskedFlow::of(words[COUNT_WORDS..].first_chunk().copied().unwrap());
        Said { answer: flow.answer, state: count.state, flows: count.flows }
    }
}

/// Until the kernel has taken what was sent.
pub fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !reached() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}
