//! Files that people name, read without ever waiting.
//!
//! Opening a pipe waits for who writes to it, and a device may never end: neither is read, however it came to its name.

use std::{
    fs::{File, FileType, Metadata, OpenOptions, metadata},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// What can't be read as a file.
pub const SPECIAL: &str = "a pipe, a socket or a device, not a file";

/// Opens a regular file; symbolic links are followed.
///
/// # Errors
/// There is none, or it can't be read.
pub fn open(path: &Path) -> io::Result<File> {
    regular(&metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    // Something else may have come into its place since.
    regular(&file.metadata()?)?;
    Ok(file)
}

/// The text of a regular file that has at most so many bytes.
///
/// # Errors
/// There is none, it can't be read, it is longer or no UTF-8.
pub fn read_to_string(path: &Path, most: u64) -> io::Result<String> {
    let (mut text, file) = (Vec::new(), open(path)?);
    file.take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    String::from_utf8(text).map_err(|_| io::Error::other("it is not text in UTF-8"))
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    let kind: FileType = metadata.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(io::Error::from_raw_os_error(nix::libc::EISDIR))
    } else {
        Err(io::Error::other(format!("it is {SPECIAL}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_make_a_reader_wait_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        assert_eq!(read_to_string(&path("link"), 4).unwrap(), "text");
        assert_eq!(read_to_string(&path("link"), 3).unwrap_err().to_string(), "it has more than 3 bytes");
        std::fs::write(path("file"), [0xff]).unwrap();
        assert_eq!(read_to_string(&path("file"), 4).unwrap_err().to_string(), "it is not text in UTF-8");
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for name in [path("pipe"), path("socket"), "/dev/zero".into()] {
            let error = open(&name).unwrap_err().to_string();
            assert_eq!(error, "it is a pipe, a socket or a device, not a file", "{}", name.display());
        }
        assert_eq!(open(directory.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
