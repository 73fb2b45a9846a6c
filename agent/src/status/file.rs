//! The document on disk: whole or as it was before, and never behind the agent's back.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use super::Status;

/// The file in the state directory.
pub const STATUS_FILE: &str = "status.json";
/// It is written at most this often.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// Writes the latest status to the state directory whenever it changed, until `ended`; nothing is being written then.
pub(crate) async fn keep(
    directory: PathBuf,
    mut status: watch::Receiver<Arc<Status>>,
    mut ended: oneshot::Receiver<()>,
) {
    loop {
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            _ = &mut ended => return,
        }
        let latest = Arc::clone(&status.borrow_and_update());
        let directory = directory.clone();
        let written = tokio::task::spawn_blocking(move || write_status(&directory, &latest)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the status is not kept; commands show an old one");
        }
        tokio::select! {
            () = tokio::time::sleep(WRITE_EVERY) => {}
            _ = &mut ended => return,
        }
    }
}

/// Writes the latest status at the end, for the commands and the next agent.
pub(crate) fn keep_last(directory: &Path, status: &Status) {
    if let Err(error) = write_status(directory, status) {
        tracing::warn!(%error, "the last status is not kept; commands show an old one");
    }
}

fn write_status(directory: &Path, status: &Status) -> std::io::Result<()> {
    let temporary = directory.join(".status.new");
    let mut writer = std::io::BufWriter::new(fs::File::create(&temporary)?);
    serde_json::to_writer(&mut writer, status)?;
    // A full disk may say so only now; what was there before must stay then.
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(STATUS_FILE))
}

/// The last status that an agent wrote to `directory`.
///
/// # Errors
/// None was written, or it can't be read.
pub fn read_status(directory: &Path) -> std::io::Result<Status> {
    let file = std::io::BufReader::new(fs::File::open(directory.join(STATUS_FILE))?);
    serde_json::from_reader(file).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_leaves_the_last_status() {
        let directory = tempfile::tempdir().unwrap();
        let config = crate::config::tests::good();
        write_status(directory.path(), &Status::starting(&config)).unwrap();
        let pid = std::process::id();
        assert_eq!(read_status(directory.path()).unwrap().pid, pid);
        // Every write there says that no space is left.
        std::os::unix::fs::symlink("/dev/full", directory.path().join(".status.new")).unwrap();
        let error = write_status(directory.path(), &Status::starting(&config)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(read_status(directory.path()).unwrap().pid, pid);
    }

    #[tokio::test]
    async fn the_keeper_ends_when_it_writes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing can be written there until somebody reads.
        let pipe = directory.path().join(".status.new");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let status = Arc::new(Status::starting(&crate::config::tests::good()));
        let (sender, seen) = watch::channel(Arc::clone(&status));
        let (end, ended) = oneshot::channel();
        sender.send_replace(status);
        let mut keeper = tokio::spawn(keep(directory.path().to_owned(), seen, ended));
        let begun = tokio::time::timeout(Duration::from_millis(100), &mut keeper).await;
        assert!(begun.is_err(), "it waits for a change or writes");
        drop(end);
        let ended = tokio::time::timeout(Duration::from_millis(100), &mut keeper).await;
        assert!(ended.is_err(), "it still writes");
        let written = tokio::task::spawn_blocking(move || fs::read(pipe)).await.unwrap().unwrap();
        assert!(serde_json::from_slice::<Status>(&written).is_ok());
        keeper.await.unwrap();
    }
}
