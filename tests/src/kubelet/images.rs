//! What stands for an image on this machine.
//!
//! In: YAML that maps names of images to commands. Out: the command for an image. Nothing is pulled: a container sees this
//! machine's root, with a layer of its own above it.
//!
//! ```yaml
//! images:
//! - image: nginx:*              # `*` is any text; the first entry that fits counts
//!   command: [nginx]            # as an image's ENTRYPOINT: a container's `command` replaces it
//!   args: [-g, daemon off;]     # as an image's CMD: a container's `args` or `command` replaces it
//!   environment: {LANG: C}
//!   files:                      # where the container sees it: what it is here
//!     /usr/local/bin/server: /home/me/target/debug/server
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// All of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    images: Vec<Image>,
}

/// What stands for the images of a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    image: String,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) files: BTreeMap<PathBuf, PathBuf>,
}

impl Images {
    /// Reads the YAML.
    ///
    /// # Errors
    /// What isn't such YAML; a path that is not absolute.
    pub fn read(text: &str) -> Result<Self> {
        let images: Self = serde_saphyr::from_str(text).context("images: read the YAML")?;
        for image in &images.images {
            for path in image.files.iter().flat_map(|(inside, here)| [inside, here]) {
                let (path, name) = (path.display(), &image.image);
                ensure!(
                    path.to_string().starts_with('/'),
                    "images: {name}: files: {path} has to begin with /"
                );
            }
        }
        Ok(images)
    }

    /// The first entry that fits.
    pub(super) fn find(&self, name: &str) -> Option<&Image> {
        self.images.iter().find(|image| fits(&image.image, name))
    }
}

impl Image {
    /// What is to be executed where the container says this.
    pub(super) fn line(&self, command: &[String], args: &[String]) -> Vec<String> {
        match (command, args) {
            ([], []) => [&self.command[..], &self.args].concat(),
            ([], args) => [&self.command[..], args].concat(),
            (command, args) => [command, args].concat(),
        }
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(begin) else { return false };
    let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
    ends.into_iter().any(|at| fits(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_counts() {
        let text =
            "images:\n- {image: 'nginx:1.*', command: [one]}\n- {image: '*/nginx*', command: [other]}\n";
        let images = Images::read(text).unwrap();
        let command = |name: &str| images.find(name).map(|image| image.command.join(" "));
        assert_eq!(command("nginx:1.29").as_deref(), Some("one"));
        assert_eq!(command("registry.example/a/nginx@sha256:0").as_deref(), Some("other"));
        assert_eq!((command("nginx"), command("nginx:2")), (None, None));
    }

    #[test]
    fn commands_and_args_replace_what_the_image_has() {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let image = Image { command: owned(&["a"]), args: owned(&["b"]), ..Image::default() };
        assert_eq!(image.line(&[], &[]), ["a", "b"]);
        assert_eq!(image.line(&[], &owned(&["c"])), ["a", "c"]);
        assert_eq!(image.line(&owned(&["d"]), &[]), ["d"]);
        assert_eq!(image.line(&owned(&["d"]), &owned(&["c"])), ["d", "c"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let relative = Images::read("images: [{image: a, files: {/x: y}}]").unwrap_err();
        assert_eq!(relative.to_string(), "images: a: files: y has to begin with /");
        assert!(Images::read("images: [{image: a, entrypoint: [b]}]").is_err());
    }
}
