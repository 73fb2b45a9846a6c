//! The world that fairlead is tested in, and the load that runs through it.
//!
//! [`world`] makes routers, gateways, nodes, pods and clients in network namespaces, all on this machine. [`client`] asks
//! single questions from a client's place; [`load`] asks all the time and counts every answer;
//! [`demo`] puts both on stage, and [`survive`] asks what becomes of connections that last. Nothing of these knows how
//! fairlead works: what is tested is seen from outside. [`packets`] is for the BPF programs alone, packet by
//! packet, and [`mod@bench`] measures them and the planner. [`control_plane`] runs real Kubernetes API servers,
//! and [`kubelet`] what these want to have running.
#![forbid(unsafe_code)]

pub mod bench;
pub mod client;
pub mod control_plane;
pub mod demo;
pub mod kubelet;
pub mod load;
pub mod packets;
pub mod quic;
pub mod survive;
pub mod world;
