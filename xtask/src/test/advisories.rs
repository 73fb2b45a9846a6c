//! Known vulnerabilities of the dependencies, where the database of them can be reached.

use std::time::Duration;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// How long the database may take to be fetched; behind a firewall that drops, nothing else would end it.
const LIMIT: Duration = Duration::from_secs(30);

/// What came of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Clean,
    Found,
    NotReachable,
}

/// Fetches the database and checks against it.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let mut fetch = workspace.cargo();
    // Its git would ask a person where a proxy or a mirror wants a password.
    fetch.args(["deny", "fetch", "db"]).env("GIT_TERMINAL_PROMPT", "0");
    let fetched = process::status_within(&mut fetch, LIMIT)?;
    if !fetched.is_some_and(|status| status.success()) {
        return Ok(Outcome::NotReachable);
    }
    let mut check = workspace.cargo();
    let status = process::status(check.args(["deny", "check", "--disable-fetch", "advisories"]))?;
    Ok(if status.success() { Outcome::Clean } else { Outcome::Found })
}
