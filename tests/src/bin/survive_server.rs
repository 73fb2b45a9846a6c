//! The server in the pods of the world that connections must survive in.
//!
//! `fairlead-survive-server POD DIRECTORY TCP-PORT UDP-PORT QUIC-PORT ADDRESS [ADDRESS …]`; it runs until it is killed. What it
//! serves is said in `survive::server`; its log goes to the directory.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use fairlead_tests::survive::server::{self, Ports};

/// Connections of TCP and QUIC that last, and a UDP echo.
#[derive(Debug, Parser)]
struct Arguments {
    /// Who answers
    pod: String,
    /// Of the log
    directory: PathBuf,
    tcp_port: u16,
    udp_port: u16,
    quic_port: u16,
    addresses: Vec<IpAddr>,
}

fn main() -> Result<()> {
    let Arguments { pod, directory, tcp_port, udp_port, quic_port, addresses } = Arguments::parse();
    ensure!(!addresses.is_empty(), "no address to listen on");
    let ports = Ports { tcp: tcp_port, udp: udp_port, quic: quic_port };
    server::run(&pod, &directory, ports, &addresses)
}
