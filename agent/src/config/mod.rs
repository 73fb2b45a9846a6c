//! The configuration file: what is this node's own to know.
//!
//! A YAML file comes in; out goes a [`Config`] that holds, or every [`ConfigProblem`] that it has, each with file,
//! line, column and field. [`declarations`] turns it into what the core plans with. A changed file is taken whole
//! or not at all ([`ConfigWatch`]). Nothing here opens a port or touches the kernel.
//!
//! The fields are declared once, in [`types`]; the parser and the JSON Schema both come from there.

mod declare;
mod essentials;
mod kinds;
mod problem;
mod read;
mod schema;
mod section;
pub mod types;
mod validate;
mod watch;

use std::path::Path;

pub use declare::declarations;
pub use essentials::Essentials;
pub use problem::ConfigProblem;
pub use types::Config;
pub use watch::{ConfigWatch, Reload};

use crate::file::read_to_string;
use crate::yaml::{Objects, Place};
use read::{Read, Reader};

/// Largest file that is read.
const MAX_BYTES: u64 = 16 << 20;

/// Reads and judges the file that `--config` names; relative paths in it are taken from its own directory.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(path: &Path) -> Result<Config, Vec<ConfigProblem>> {
    match load(path) {
        Ok(text) => parse(&text, path),
        Err(mut problem) => {
            problem.message += "; --config or FAIRLEAD_CONFIG names another file";
            Err(vec![problem])
        }
    }
}

/// As [`check`], of a file that was named in another way.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_other(path: &Path) -> Result<Config, Vec<ConfigProblem>> {
    let text = load(path).map_err(|problem| vec![problem])?;
    parse(&text, path)
}

/// As [`check`], of a text that was read from `path` before.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<ConfigProblem>> {
    let document =
        Objects::single(text).map_err(|e| vec![ConfigProblem::new(path, e.place, "", e.message)])?;
    let mut reader = Reader::default();
    let mut draft = Config::read(&document, &mut reader);
    draft.resolve_paths(path.parent().unwrap_or(Path::new("")));
    let mut problems = reader.into_problems(path);
    for fault in validate::faults(&draft) {
        let place = document.locate(&fault.path);
        problems.push(ConfigProblem::new(path, place, &fault.path.to_string(), fault.message));
    }
    if problems.is_empty() {
        return Ok(Config::whole(draft).expect("what is missing is a problem"));
    }
    problems.sort();
    Err(problems)
}

fn load(path: &Path) -> Result<String, ConfigProblem> {
    let problem = |message: String| ConfigProblem::new(path, Place { line: 0, column: 0 }, "", message);
    read_to_string(path, MAX_BYTES).map_err(|error| problem(format!("can't be read: {error}")))
}

/// The JSON Schema (draft 2020-12) of the file, for editors and for `fairlead config schema`.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = Config::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "fairlead configuration".into();
    schema
}

#[cfg(test)]
pub(crate) mod tests;
