//! What a client gets of a VIP while nothing is wrong.

use std::net::SocketAddr;

use fairlead_tests::world::{Federation, Plan};

use crate::served::Served;

#[test]
fn every_pod_answers_for_the_vip_over_both_families_and_protocols() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    assert_eq!(served.answering(), served.pods());
    for &vip in &served.service.vips {
        let echo = served.client().datagram(SocketAddr::new(vip, served.service.udp_port), b"ahoy").unwrap();
        assert!(echo.ends_with(b"ahoy"));
    }
}

#[test]
fn full_size_segments_pass_in_both_directions() {
    for encapsulation in ["ipip", "gue"] {
        let federation = Federation { encapsulation: encapsulation.to_owned(), ..Federation::default() };
        let served = Served::build(&Plan::small(), &federation);
        served.wait_until_served();
        let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(1_048_576).collect();
        for &vip in &served.service.vips {
            assert_eq!(served.client().get(&served.url(vip, "/bytes/1048576")).unwrap().body, pattern);
            let answer = served.client().post(&served.url(vip, "/upload"), &pattern).unwrap();
            assert!(answer.text().ends_with("received=1048576\n"), "{encapsulation}: {}", answer.text());
        }
    }
}
