//! The Internet checksum, written for clearness: big-endian words, one after the other.

/// The one's complement sum of 16-bit words, a last odd byte padded with zero (RFC 1071).
fn sum(bytes: &[u8], start: u64) -> u64 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    })
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).expect("folded to 16 bits")
}

/// The checksum over all parts, each of even length but the last.
#[must_use]
pub fn internet(parts: &[&[u8]]) -> [u8; 2] {
    (!fold(parts.iter().fold(0, |total, part| sum(part, total)))).to_be_bytes()
}

/// `checksum` after the words `old` were replaced by the words `new` somewhere (RFC 1624, equation 3): as wrong
/// afterwards as it was before.
#[must_use]
pub fn replaced(checksum: [u8; 2], old: &[u8], new: &[u8]) -> [u8; 2] {
    let inverted: Vec<u8> = old.iter().map(|byte| !byte).collect();
    let kept = u64::from(!u16::from_be_bytes(checksum));
    (!fold(sum(new, sum(&inverted, kept)))).to_be_bytes()
}

/// A UDP checksum after a replacement: 0 says that there is none and stays, a computed 0 is sent as 0xffff (RFC 768).
#[must_use]
pub fn replaced_in_udp(checksum: [u8; 2], old: &[u8], new: &[u8]) -> [u8; 2] {
    match checksum {
        [0, 0] => [0, 0],
        _ => match replaced(checksum, old, new) {
            [0, 0] => [0xff, 0xff],
            other => other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_and_a_header_that_is_right() {
        assert_eq!(internet(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), [0x22, 0x0d]);
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199];
        assert_eq!(internet(&[&header]), [0, 0]);
    }

    #[test]
    fn replacing_equals_computing_anew() {
        let mut bytes = [0x12, 0x34, 0xab, 0xcd, 0xff, 0xfe, 0x00, 0x01];
        let before = internet(&[&bytes]);
        bytes[2..6].copy_from_slice(&[9, 8, 7, 6]);
        assert_eq!(replaced(before, &[0xab, 0xcd, 0xff, 0xfe], &[9, 8, 7, 6]), internet(&[&bytes]));
    }

    #[test]
    fn udp_knows_no_checksum() {
        assert_eq!(replaced_in_udp([0, 0], &[1, 2], &[3, 4]), [0, 0]);
        assert_eq!(replaced_in_udp([0xff, 0xfe], &[0, 0], &[0, 1]), [0xff, 0xfd]);
        assert_eq!(replaced_in_udp([0, 1], &[0, 0], &[0, 1]), [0xff, 0xff]);
    }
}
