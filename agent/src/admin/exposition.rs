//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// The content type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until it starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Writes families of samples; the samples of a family must follow each other.
pub(super) struct Exposition<W> {
    to: W,
    name: &'static str,
}

/// A sample's labels.
pub(super) type Labels<'a> = [(&'static str, &'a dyn Display)];

impl<W: Write> Exposition<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, name: "" }
    }

    /// Begins a family.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> io::Result<()> {
        self.name = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        writeln!(self.to, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    /// One sample of the family that was begun last.
    pub(super) fn sample(&mut self, labels: &Labels<'_>, value: impl Display) -> io::Result<()> {
        self.to.write_all(self.name.as_bytes())?;
        for (at, (label, text)) in labels.iter().enumerate() {
            write!(self.to, "{}{label}=\"", if at == 0 { '{' } else { ',' })?;
            write!(Escaped(&mut self.to), "{text}").map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.to.write_all(b"\"")?;
        }
        writeln!(self.to, "{} {value}", if labels.is_empty() { "" } else { "}" })
    }

    /// A family of one sample.
    pub(super) fn single(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl Display,
    ) -> io::Result<()> {
        self.family(name, kind, help)?;
        self.sample(&[], value)
    }
}

/// Escapes what a label's value can't hold.
struct Escaped<'w, W>(&'w mut W);

impl<W: Write> std::fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for part in text.split_inclusive(['\\', '"', '\n']) {
            let (plain, escaped) = match part.as_bytes().last() {
                Some(b'\\') => (&part[..part.len() - 1], "\\\\"),
                Some(b'"') => (&part[..part.len() - 1], "\\\""),
                Some(b'\n') => (&part[..part.len() - 1], "\\n"),
                _ => (part, ""),
            };
            self.0.write_all(plain.as_bytes()).map_err(|_| std::fmt::Error)?;
            self.0.write_all(escaped.as_bytes()).map_err(|_| std::fmt::Error)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_samples_are_written_as_prometheus_reads_them() {
        let mut text = Vec::new();
        let mut exposition = Exposition::new(&mut text);
        exposition.family("x_total", Kind::Counter, "Things.").unwrap();
        exposition.sample(&[("a", &1), ("b", &"two")], 7).unwrap();
        exposition.sample(&[("a", &"say \"hi\"\\\n")], 0.5).unwrap();
        exposition.single("y", Kind::Gauge, "Another.", 3).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "# HELP x_total Things.\n\
             # TYPE x_total counter\n\
             x_total{a=\"1\",b=\"two\"} 7\n\
             x_total{a=\"say \\\"hi\\\"\\\\\\n\"} 0.5\n\
             # HELP y Another.\n\
             # TYPE y gauge\n\
             y 3\n"
        );
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Exposition::new(Gone).single("y", Kind::Gauge, "Another.", 3);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
