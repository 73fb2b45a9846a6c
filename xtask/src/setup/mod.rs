//! `cargo xtask setup`: what this machine needs to build, test and show fairlead.
//!
//! Gathers facts, judges them, remedies what is missing and looks again. A run on a machine that has everything
//! changes nothing. The other commands call [`ensure`] for what they need, and say nothing if that is there.

mod facts;
mod install;
mod needs;
mod table;

use anyhow::{Context, Result, bail};

use self::facts::Facts;
pub(crate) use self::needs::Purpose;
use self::needs::{Remedy, Row, State};
use crate::toolchain::{self, Compiler, Linker};
use crate::workspace::Workspace;

/// Everything, shown as a table on standard output.
pub(crate) fn setup(workspace: &Workspace) -> Result<()> {
    let all = [Purpose::Bpf, Purpose::Lints, Purpose::World, Purpose::Clusters];
    let facts = gather(workspace)?;
    let rows = needs::judge(&facts, &all);
    print!("{}", table::render(&rows, &[], table::colour()));
    let remedies = remedies(&rows);
    if remedies.is_empty() {
        return conclude(&facts, &rows);
    }
    println!();
    let applied = install::apply(workspace, &remedies, facts.root);
    let facts = gather(workspace)?;
    let missing = |row: &Row| matches!(row.state, State::Missing(_));
    let before: Vec<String> = rows.into_iter().filter(missing).map(|row| row.what).collect();
    let rows = needs::judge(&facts, &all);
    let met = |what: &String| rows.iter().all(|row| row.what != *what || row.state == State::Met);
    let done: Vec<String> = before.into_iter().filter(met).collect();
    if !done.is_empty() {
        print!("{}", table::render(&rows, &done, table::colour()));
    }
    with_advice(applied, unmet(&facts, &rows))?;
    conclude(&facts, &rows)
}

/// Makes sure of what `purposes` need before a command begins; everything it says goes to standard error.
pub(crate) fn ensure(workspace: &Workspace, purposes: &[Purpose]) -> Result<Facts> {
    let mut facts = gather(workspace)?;
    let mut rows = needs::judge(&facts, purposes);
    let remedies = remedies(&rows);
    if !remedies.is_empty() {
        let applied = install::apply(workspace, &remedies, facts.root);
        facts = gather(workspace)?;
        rows = needs::judge(&facts, purposes);
        with_advice(applied, unmet(&facts, &rows))?;
    }
    unmet(&facts, &rows)?;
    if rows.iter().any(|row| row.state == State::AsRoot) {
        let command =
            std::env::args().skip(1).fold("cargo xtask".to_owned(), |line, word| line + " " + &word);
        bail!(
            "this loads programs into the kernel and makes network namespaces: run it as root\n\n  {}\n",
            with_root(&facts, &command)
        );
    }
    Ok(facts)
}

/// The tools to build the BPF programs with.
pub(crate) fn fitting(facts: &Facts) -> Result<(Compiler, Linker)> {
    let compiler = toolchain::choose(&facts.compilers, facts.linker.as_ref()).cloned();
    compiler.zip(facts.linker.clone()).context("no BPF toolchain that fits together; try `cargo xtask setup`")
}

fn gather(workspace: &Workspace) -> Result<Facts> {
    Facts::gather(workspace, needs::looked_for())
}

fn remedies(rows: &[Row]) -> Vec<Remedy> {
    let remedies = rows.iter().filter_map(|row| match &row.state {
        State::Missing(remedy) => Some(*remedy),
        State::Met | State::Unknown | State::Lacking(_) | State::AsRoot => None,
    });
    remedies.collect()
}

/// What a step failed of, and what a person has to do all the same.
fn with_advice(applied: Result<()>, unmet: Result<()>) -> Result<()> {
    match (applied, unmet) {
        (Err(failure), Err(advice)) => Err(failure.context(advice.to_string())),
        (Err(failure), Ok(())) => Err(failure),
        (Ok(()), _) => Ok(()),
    }
}

/// The closing words of `setup`.
fn conclude(facts: &Facts, rows: &[Row]) -> Result<()> {
    unmet(facts, rows)?;
    println!("\nEverything is there.");
    if rows.iter().any(|row| row.state == State::AsRoot) {
        println!("The demo and the tests of programs and world have to be run as root:\n");
        println!("  {}\n", with_root(facts, "cargo xtask test"));
    }
    Ok(())
}

/// A command line of the user's, for root: cargo and the tools of `cargo install` are in the user's PATH only.
fn with_root(facts: &Facts, command: &str) -> String {
    if facts.present.contains("sudo") {
        format!("sudo -E env \"PATH=$PATH\" {command}")
    } else {
        format!("su -m -c 'PATH=$PATH {command}'")
            .replace("$PATH", &std::env::var("PATH").unwrap_or_default())
    }
}

/// An error that says what a person has to do about the needs that aren't met.
fn unmet(facts: &Facts, rows: &[Row]) -> Result<()> {
    let mut advice = Vec::new();
    for row in rows {
        if let State::Lacking(what_to_do) = &row.state {
            advice.push(format!("{}: {what_to_do}", row.what));
        }
    }
    let missing = remedies(rows);
    if let Some(line) = install::as_root(&missing, facts.present.contains("sudo")) {
        advice.push(format!("run this as root, then the same command again:\n\n  {line}\n"));
    } else if !missing.is_empty() {
        let names: Vec<&str> = rows
            .iter()
            .filter(|row| matches!(row.state, State::Missing(_)))
            .map(|row| row.what.as_str())
            .collect();
        advice.push(format!("still missing after installing: {}", names.join(", ")));
    }
    if advice.is_empty() { Ok(()) } else { bail!("this machine lacks something\n{}", advice.join("\n")) }
}

#[cfg(test)]
mod tests;
