//! What endpoints said lately: a receiver goes by it without its table of flows, and by the table where it doesn't know.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fairlead_abi::{FlowKey, Roles, Settings};
use fairlead_tests::packets::{
    Lab,
    build::{self, Tcp, flags, ipip, tcp},
    report::{PASS, TRANSMIT},
};

use super::{
    node::*,
    story::{CLIENT_PORT, SEQUENCE, Story},
};

/// PSH, which says nothing here.
const PUSH: u8 = 0x08;
/// Far from all other numbers.
const FAR: u32 = 1 << 28;

/// A connection whose endpoint spoke after the handshake.
fn connected(vip: &str) -> Story {
    let mut story = Story::new(vip);
    story.connects();
    assert!(story.answers_tcp(flags::ACK, SEQUENCE.wrapping_add(1)));
    story
}

fn next(story: &Story, tcp_flags: u8) -> Tcp {
    story.segment(tcp_flags, SEQUENCE.wrapping_add(1))
}

#[test]
fn what_the_endpoint_said_makes_a_packet_known() {
    for vip in VIPS {
        let mut story = connected(vip);
        let key = story.key(TCP);
        story.lab.remove_flow(&key).unwrap();
        let fits = next(&story, flags::ACK);
        assert_eq!(story.arrives_marked(fits.clone()), PASS, "the table is not looked into");
        assert_eq!(story.arrives_marked(next(&story, flags::ACK | PUSH)), PASS);
        for other in
            [flags::SYN, flags::FIN | flags::ACK, flags::RST, flags::RST | flags::ACK, flags::SYN_ACK, 0]
        {
            assert_eq!(story.arrives_marked(next(&story, other)), TRANSMIT, "flags {other}: the table tells");
        }
        for (sent, got) in [(FAR, 0), (0, FAR), (FAR.wrapping_neg(), 0), (0, FAR.wrapping_neg())] {
            let far = Tcp {
                sequence: fits.sequence.wrapping_add(sent),
                acknowledged: fits.acknowledged.wrapping_add(got),
                ..fits.clone()
            };
            assert_eq!(story.arrives_marked(far), TRANSMIT, "{sent} {got}");
        }
        assert_eq!(story.arrives_marked(fits), PASS, "nothing of that counts");
    }
}

#[test]
fn it_counts_for_the_vip_and_port_that_the_flow_began_with() {
    let mut story = connected(VIPS[0]);
    let key = story.key(TCP);
    story.lab.remove_flow(&key).unwrap();
    // Port 87 of the VIP leads to the same pod and port.
    let packet = build::ip(
        story.client(),
        story.vip,
        Tcp { acknowledged: SEQUENCE.wrapping_add(1), ..tcp(CLIENT_PORT, port::LOCAL, flags::ACK) },
    );
    let before = story.lab.half_open().unwrap().len();
    let run = story.lab.ingress(&incoming(ipip(ip(GATEWAYS[0]), ip(POD[0]), &packet)).bytes()).unwrap();
    assert_eq!((run.action, story.lab.half_open().unwrap().len()), (PASS, before + 1), "a flow that is new");
}

#[test]
fn what_is_over_is_forgotten() {
    for vip in VIPS {
        // By the endpoint's end.
        for end in [flags::FIN | flags::ACK, flags::RST] {
            let mut story = connected(vip);
            assert!(story.answers_tcp(end, SEQUENCE.wrapping_add(1)));
            let key = story.key(TCP);
            story.lab.remove_flow(&key).unwrap();
            assert_eq!(story.arrives_marked(next(&story, flags::ACK)), TRANSMIT, "flags {end}");
        }
        // By the client's reset.
        let mut story = connected(vip);
        let key = story.key(TCP);
        assert_eq!(story.arrives_marked(next(&story, flags::RST)), PASS);
        story.lab.remove_flow(&key).unwrap();
        assert_eq!(story.arrives_marked(next(&story, flags::ACK)), TRANSMIT);
    }
}

#[test]
fn what_the_agent_takes_out_is_forgotten() {
    // More than three hours at any tick rate.
    const LATER: u32 = 4 * 3600 * 1000;
    // As an agent's: all that the map has.
    let settings = Settings { recent_mask: u32::MAX, ..settings(Roles::RECEIVER) };
    let mut story = Story { lab: Lab::new(&settings, &tables()).unwrap(), ..Story::new(VIPS[0]) };
    let mut sweep = story.lab.take_sweep().unwrap();
    story.connects();
    assert!(story.answers_tcp(flags::ACK, SEQUENCE.wrapping_add(1)));
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut swept = |ticks| sweep.run(ticks, true, &BTreeMap::new()).unwrap().map(|swept| swept.ended);
    while swept(story.lab.ticks().unwrap()) != Some(0) {
        assert!(Instant::now() < deadline, "the clock is not believed");
    }
    assert_eq!(story.arrives_marked(next(&story, flags::ACK)), PASS);
    assert_eq!(swept(story.lab.ticks().unwrap().wrapping_add(LATER)), Some(1));
    assert_eq!(story.arrives_marked(next(&story, flags::ACK)), TRANSMIT, "its replies would have no VIP");
}

#[test]
fn flows_that_found_no_room_are_known_by_the_table() {
    // A single bucket, for many flows.
    let settings = Settings { recent_mask: 0, ..settings(Roles::RECEIVER) };
    let mut story = Story { lab: Lab::new(&settings, &tables()).unwrap(), ..Story::new(VIPS[0]) };
    story.connects();
    let (key, entry) = story.lab.flows().unwrap().pop_first().unwrap();
    let port_of = |number: u16| 30_000 + number;
    for number in 0..50 {
        let key = FlowKey { client_port: port_of(number).to_be_bytes(), ..key };
        story.lab.set_flow(&key, &entry).unwrap();
    }
    let mut speak = |number: u16| {
        let reply = Tcp {
            sequence: entry.sequence,
            acknowledged: entry.client_sequence,
            ..tcp(POD_PORT, port_of(number), flags::ACK)
        };
        let packet = build::ip(story.pod(), story.client(), reply);
        story.lab.egress(&outgoing(&HOP, packet).bytes(), 0).unwrap();
        number
    };
    let spoken: Vec<_> = (0..50).map(&mut speak).collect();
    let known = |story: &mut Story, number: u16| {
        let segment = Tcp {
            sequence: entry.client_sequence,
            acknowledged: entry.sequence,
            ..tcp(port_of(number), port::IPIP_V4, flags::ACK)
        };
        story.arrives_marked(segment) == PASS
    };
    assert!(spoken.iter().all(|&number| known(&mut story, number)), "all are in the table");
    for &number in &spoken {
        let key = FlowKey { client_port: port_of(number).to_be_bytes(), ..key };
        story.lab.remove_flow(&key).unwrap();
    }
    let last: Vec<_> = spoken.iter().copied().filter(|&number| known(&mut story, number)).collect();
    assert_eq!(last.len(), 8, "{last:?}: a bucket's worth");
    assert!(last.contains(&49), "{last:?}: who spoke last");
}
