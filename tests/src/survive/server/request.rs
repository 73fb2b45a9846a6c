//! What a connection is for: its first line.

use std::fmt;
use std::time::Duration;

/// From one piece of a paced transfer to the next.
pub const PACE: Duration = Duration::from_millis(250);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// So many bytes of the pattern of `seed`, at first `rate` bytes per second.
    Download {
        /// Of the pattern.
        seed: u64,
        /// In all.
        bytes: u64,
        /// Per second.
        rate: u64,
    },
    /// The client sends so many bytes of the pattern of `seed`.
    Upload {
        /// Of the pattern.
        seed: u64,
        /// In all.
        bytes: u64,
    },
    /// Every line is answered with itself and who answers; after the line `close` the server closes.
    Echo,
}

impl Request {
    /// From a line without its end.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (what, numbers) = line.split_once(' ').unwrap_or((line, ""));
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        match (what, &numbers[..]) {
            ("download", &[seed, bytes, rate]) => Some(Self::Download { seed, bytes, rate }),
            ("upload", &[seed, bytes]) => Some(Self::Upload { seed, bytes }),
            ("echo", []) => Some(Self::Echo),
            _ => None,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Download { seed, bytes, rate } => write!(f, "download {seed} {bytes} {rate}"),
            Self::Upload { seed, bytes } => write!(f, "upload {seed} {bytes}"),
            Self::Echo => f.write_str("echo"),
        }
    }
}

/// How many bytes a transfer of this rate sends at once.
pub(in crate::survive) fn piece(rate: u64) -> usize {
    let bytes = u128::from(rate) * PACE.as_millis() / 1000;
    usize::try_from(bytes).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        let download = Request::Download { seed: 1, bytes: 2, rate: 3 };
        for request in [download, Request::Upload { seed: u64::MAX, bytes: 0 }, Request::Echo] {
            assert_eq!(Request::parse(&request.to_string()), Some(request));
        }
        for line in ["", "echo 1", "download 1 2", "upload 1 -2", "upload a b", "GET / HTTP/1.1"] {
            assert_eq!(Request::parse(line), None, "{line}");
        }
    }

    #[test]
    fn pieces() {
        assert_eq!(piece(8192), 2048);
        assert_eq!(piece(0), 1);
    }
}
