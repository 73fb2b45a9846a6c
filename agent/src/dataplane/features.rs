//! What a device's driver can do for XDP programs, as the kernel says by netlink (family "netdev", kernel 6.3).

use std::io;

use nix::libc;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// Generic netlink's own family, which names the others.
const CONTROL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_NAME` and `CTRL_ATTR_FAMILY_ID`.
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;
const FAMILY_ID: u16 = 1;
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX` and `NETDEV_A_DEV_XDP_FEATURES`.
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const TRANSMIT: u64 = 1 << 2;

/// Bytes of a message's headers: netlink's, and generic netlink's.
const HEADERS: usize = 16 + 4;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;

/// Whether frames can be sent by this interface that didn't come in by a driver just now (`ndo_xdp_xmit`); `None`: the kernel
/// is too old to say.
///
/// # Errors
/// Where there is no such interface, or netlink can't be asked.
pub fn can_transmit(ifindex: u32) -> io::Result<Option<bool>> {
    let socket = Socket::new(NETLINK_GENERIC)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let family = match ask(&socket, CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0") {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        family => attribute(&family?, FAMILY_ID).map(<[u8; 2]>::try_from),
    };
    let Some(Ok(family)) = family else { return Err(io::Error::other("a family without a number")) };
    let device = ask(&socket, u16::from_ne_bytes(family), GET_DEVICE, IFINDEX, &ifindex.to_ne_bytes())?;
    let features = attribute(&device, XDP_FEATURES).and_then(|features| features.try_into().ok());
    Ok(features.map(|features| u64::from_ne_bytes(features) & TRANSMIT != 0))
}

/// Sends a request with one attribute, and takes the answer's attributes.
fn ask(socket: &Socket, family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let request = request(family, command, kind, value);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    attributes(&answer).map(<[u8]>::to_vec)
}

fn request(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    const REQUEST: u16 = 1;
    const VERSION: u8 = 1;
    let attribute = 4 + value.len();
    let whole = HEADERS + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(whole);
    message.extend(u32::try_from(whole).expect("short").to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, VERSION, 0, 0]);
    message.extend(u16::try_from(attribute).expect("short").to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(whole, 0);
    message
}

/// The attributes of an answer, or what it was refused for.
fn attributes(answer: &[u8]) -> io::Result<&[u8]> {
    let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "a short answer of netlink");
    let (header, rest) = answer.split_first_chunk::<16>().ok_or_else(short)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if u16::from_ne_bytes([header[4], header[5]]) == ERROR {
        let code = rest.first_chunk().map_or(libc::EPROTO, |code| -i32::from_ne_bytes(*code));
        return Err(io::Error::from_raw_os_error(code));
    }
    answer.get(HEADERS..length).ok_or_else(short)
}

/// The value of one of the attributes.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(&[a, b, c, d]) = attributes.first_chunk() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others() {
        let mut all = vec![7, 0, 1, 0, 9, 9, 9, 0];
        all.extend([12, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(attribute(&all, 1), Some(&[9, 9, 9][..]));
        assert_eq!(attribute(&all, 3), Some(&[4, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(attribute(&all, 2), None);
        for short in 0..all.len() {
            let _ = attribute(&all[..short], 2);
        }
    }

    #[test]
    fn requests_are_whole_words() {
        let request = request(0x10, GET_FAMILY, FAMILY_NAME, b"netdev\0");
        assert_eq!((request.len(), &request[..4]), (32, &32_u32.to_ne_bytes()[..]));
        assert_eq!(attribute(&request[HEADERS..], FAMILY_NAME), Some(&b"netdev\0"[..]));
    }

    #[test]
    fn the_loopback_device_sends_no_frames_of_programs() {
        // Older kernels don't say.
        assert_ne!(can_transmit(1).unwrap(), Some(true));
        assert!(can_transmit(u32::MAX / 2).is_err() || can_transmit(1).unwrap().is_none());
    }
}
