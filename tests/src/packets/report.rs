//! A packet and what became of it, as text: what a failing test prints, ready to become a row.

use std::fmt;

/// XDP's number for dropping.
pub const DROP: u32 = 1;
/// XDP's number for the local stack.
pub const PASS: u32 = 2;
/// XDP's number for sending back.
pub const TRANSMIT: u32 = 3;
/// XDP's number for another interface.
pub const REDIRECT: u32 = 4;

/// The name of an XDP number.
#[must_use]
pub fn action_name(action: u32) -> String {
    match action {
        DROP => "DROP".into(),
        PASS => "PASS".into(),
        TRANSMIT => "TX".into(),
        REDIRECT => "REDIRECT".into(),
        other => format!("action {other}"),
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal digits; panics on anything else.
#[must_use]
pub fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect()
}

/// A packet on which a program and what was expected of it differ.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// The packet.
    pub frame: Vec<u8>,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub got: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "  in:       {}", hex(&self.frame))?;
        writeln!(f, "  expected: {}", self.expected)?;
        write!(f, "  got:      {}", self.got)
    }
}

/// An action and the packet that comes of it.
#[must_use]
pub fn outcome(action: u32, frame: &[u8]) -> String {
    if action == DROP { action_name(action) } else { format!("{} {}", action_name(action), hex(frame)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_there_and_back() {
        assert_eq!(unhex(&hex(&[0, 0x9f, 0xff])), [0, 0x9f, 0xff]);
    }
}
