//! Objects as text, and what is taken from them.

mod service;
mod slice;

use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::model::{Conditions, ProbeKind, Protocol};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;

use super::*;
use crate::yaml::{Objects, from_node};

fn read<T: DeserializeOwned>(text: &str) -> T {
    from_node(&Objects::single(text).unwrap()).unwrap()
}

fn told(faults: &[Fault]) -> Vec<String> {
    let tell = |fault: &Fault| {
        format!("{}{}: {}", if fault.rejects { "REJECTED " } else { "" }, fault.path, fault.message)
    };
    faults.iter().map(tell).collect()
}

#[test]
fn only_the_label_true_makes_a_receiver() {
    for (label, expected) in [("'true'", true), ("'false'", false), ("''", false)] {
        let text = format!("metadata: {{name: n, labels: {{fairlead.io/receiver: {label}}}}}\n");
        assert_eq!(node(&read::<Node>(&text).metadata), Object::Node { receiver: expected });
    }
    assert_eq!(node(&read::<Node>("metadata: {name: n}\n").metadata), Object::Node { receiver: false });
}
