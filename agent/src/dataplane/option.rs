//! An option of a socket that no crate has a name for.

use std::{io, os::fd::AsRawFd};

use nix::libc;

/// Takes UDP datagrams over IPv6 that have no checksum (RFC 6936): what programs answer by is tagged.
pub fn take_without_checksum(socket: &impl AsRawFd) -> io::Result<()> {
    const UDP_NO_CHECK6_RX: libc::c_int = 102;
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
    // SAFETY: the kernel reads `length` bytes of `on`.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            UDP_NO_CHECK6_RX,
            (&raw const on).cast(),
            length,
        )
    };
    nix::errno::Errno::result(outcome).map(drop).map_err(io::Error::from)
}
