//! What is said where the kernel reports no changes of a directory.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::ErrorKind;

/// That no instance is left was said.
static TOLD: AtomicBool = AtomicBool::new(false);

/// A limit of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Instances,
    Watches,
}

impl Limit {
    fn of(error: &notify::Error) -> Option<Self> {
        match &error.kind {
            // Also where this process may open no more files, which the agent's own limits leave far away.
            ErrorKind::Io(error) if error.raw_os_error() == Some(nix::libc::EMFILE) => Some(Self::Instances),
            ErrorKind::MaxFilesWatch => Some(Self::Watches),
            _ => None,
        }
    }

    /// What to raise, and how.
    fn remedy(self) -> &'static str {
        match self {
            Self::Instances => {
                "this user has no inotify instance left, fs.inotify.max_user_instances says how many there are: \
                 `sysctl -w fs.inotify.max_user_instances=1024`, and a file in /etc/sysctl.d to keep it so"
            }
            Self::Watches => {
                "this user has no inotify watch left, fs.inotify.max_user_watches says how many there are: \
                 `sysctl -w fs.inotify.max_user_watches=1048576`, and a file in /etc/sysctl.d to keep it so"
            }
        }
    }
}

/// Says that changes in `directory` are noticed late, up to `period`, and what to do. A limit that is reached is reached
/// for all directories, so it is said once.
pub fn tell_deaf(error: &notify::Error, directory: &Path, period: Duration) {
    let Some(limit) = Limit::of(error) else {
        return tracing::warn!(%error, directory = %directory.display(), "changes are noticed up to {period:?} late");
    };
    if !TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "changes of files are noticed late, for the kernel doesn't report them: {}",
            limit.remedy()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_by_its_name() {
        let no_more = notify::Error::io(std::io::Error::from_raw_os_error(nix::libc::EMFILE));
        let limit = Limit::of(&no_more).unwrap();
        assert_eq!(limit, Limit::Instances);
        assert!(limit.remedy().contains("sysctl -w fs.inotify.max_user_instances="));
        let limit = Limit::of(&notify::Error::new(ErrorKind::MaxFilesWatch)).unwrap();
        assert!(limit.remedy().contains("sysctl -w fs.inotify.max_user_watches="));
        assert_eq!(Limit::of(&notify::Error::path_not_found()), None);
    }
}
