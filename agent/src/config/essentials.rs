//! What commands need of a configuration although it doesn't hold: whose maps and whose state they read.

use std::path::{Path, PathBuf};

use super::read::{Read, Reader};
use super::types::{ClusterConfig, Config, ConfigDraft, Name, default_state_directory};
use super::{ConfigProblem, load};
use crate::yaml::{Objects, Path as Field, Place};

/// Where an agent's maps and state stand, and what else is needed by who can't wait for the file to be mended.
#[derive(Clone, Debug, PartialEq)]
pub struct Essentials {
    /// The instance.
    pub instance: Name,
    /// Where the agent keeps its state.
    pub state_directory: PathBuf,
    /// Fields that are there and can't be read: the default counts instead.
    pub unread: Vec<&'static str>,
    /// All clusters, if they can be read. They may contradict each other.
    pub clusters: Option<Vec<ClusterConfig>>,
    /// The file of secrets, and where it is named.
    pub secrets_file: Option<(PathBuf, Place)>,
}

impl Essentials {
    /// Of the file at `path`, as far as it can be read.
    ///
    /// # Errors
    /// Nothing of it can.
    pub fn read(path: &Path) -> Result<Self, ConfigProblem> {
        load(path).map(|text| Self::parse(&text, path))
    }

    /// Of a text that was read from `path`.
    pub(super) fn parse(text: &str, path: &Path) -> Self {
        let mut draft = draft(text).or_else(|| draft(&lines_of_its_own(text))).unwrap_or_else(|| {
            let unread = |name: &str| text.lines().any(|line| field(line) == Some(name));
            ConfigDraft {
                instance: (!unread("instance")).then(Name::default_instance),
                state_directory: (!unread("stateDirectory")).then_some(None),
                ..ConfigDraft::default()
            }
        });
        draft.resolve_paths(path.parent().unwrap_or(Path::new("")));
        let mut unread = Vec::new();
        let instance = draft.instance.unwrap_or_else(|| {
            unread.push("instance");
            Name::default_instance()
        });
        let given = draft.state_directory.unwrap_or_else(|| {
            unread.push("stateDirectory");
            None
        });
        let state_directory = given.unwrap_or_else(|| default_state_directory(&instance));
        let place = || Some(Objects::single(text).ok()?.locate(&Field::default().key("secretsFile")));
        let secrets_file = draft.secrets_file.flatten().and_then(|file| Some((file, place()?)));
        let clusters = Vec::whole(draft.clusters);
        Self { instance, state_directory, unread, clusters, secrets_file }
    }
}

/// What can be read of a text; `None` where it is no YAML.
fn draft(text: &str) -> Option<ConfigDraft> {
    let document = Objects::single(text).ok()?;
    Some(Config::read(&document, &mut Reader::default()))
}

/// The lines that hold one of the two fields: fields of the whole file begin at the left, and what makes the text no YAML
/// is nearly always another line.
fn lines_of_its_own(text: &str) -> String {
    let lines = text.lines().filter(|line| matches!(field(line), Some("instance" | "stateDirectory")));
    lines.collect::<Vec<_>>().join("\n")
}

/// The field whose line this is.
fn field(line: &str) -> Option<&str> {
    line.split_once(':').map(|(field, _)| field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn essentials(text: &str) -> (String, String, Vec<&'static str>) {
        let Essentials { instance, state_directory, unread, .. } =
            Essentials::parse(text, Path::new("/etc/fairlead/f.yaml"));
        (instance.0.to_string(), state_directory.display().to_string(), unread)
    }

    fn known(
        instance: &str,
        directory: &str,
        unread: &[&'static str],
    ) -> (String, String, Vec<&'static str>) {
        (instance.to_owned(), directory.to_owned(), unread.to_vec())
    }

    #[test]
    fn they_are_read_whatever_else_is_wrong() {
        for rest in
            ["seed: 0x1\nnode: [\n", "node: {name: }}\n", "\tx", "unknown: 1\nseed: many\n", "- list\n", ""]
        {
            let text = format!("instance: eu\n{rest}\nstateDirectory: state\n");
            assert_eq!(essentials(&text), known("eu", "/etc/fairlead/state", &[]), "{text}");
        }
        assert_eq!(essentials("instance: eu\nnode: [\n"), known("eu", "/var/lib/fairlead/eu", &[]));
        assert_eq!(essentials("node: [\n"), known("default", "/var/lib/fairlead/default", &[]));
    }

    #[test]
    fn one_that_cannot_be_read_is_named() {
        let default = |unread: &[&'static str]| known("default", "/var/lib/fairlead/default", unread);
        assert_eq!(essentials("instance: Not A Name\n"), default(&["instance"]));
        assert_eq!(essentials("instance: [\nstateDirectory: /s\n"), default(&["instance", "stateDirectory"]));
        assert_eq!(essentials("instance: [\n"), default(&["instance"]));
    }
}
