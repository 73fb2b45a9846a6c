//! Many slices of one service.

use super::followed::{Followed, endpoints, ours, slice};
use super::one;

#[test]
fn a_service_may_have_a_thousand_slices() {
    let (_footprint, plane) = one();
    plane.apply(&ours("web")).unwrap();
    let mut followed = Followed::of(&plane);
    followed.until_read();
    let all: String = (0..1000)
        .map(|number| {
            let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
            slice(&format!("web-{number}"), "web", &[&address])
        })
        .collect();
    let list = plane.kubectl_with(&["create", "--filename=-"], &all).unwrap();
    assert_eq!(list.lines().count(), 1000);
    let count = |followed: &Followed| endpoints(followed.said(), "web").map(|all| all.len());
    followed.until("all are followed", |followed| count(followed) == Some(1000));
    assert_eq!(followed.said().objects.slices, 1000);
    plane.kubectl(&["delete", "endpointslices", "--all", "--wait=false"]).unwrap();
    followed.until("all are gone", |followed| count(followed) == Some(0));
    assert_eq!(followed.said().objects.slices, 0);
}
