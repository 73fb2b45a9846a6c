//! kubectl, as an administrator types it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::ControlPlane;
use super::programs::KUBECONFIG;
use crate::world::{finish, making};

impl ControlPlane {
    /// Runs kubectl as the administrator where the control plane is, to its end: what it wrote to standard output. An
    /// exit code other than 0 is an error that holds its words.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run_kubectl(&self.directory.join(KUBECONFIG), arguments, None)
    }

    /// The same as whom a kubeconfig names.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        self.run_kubectl(kubeconfig, arguments, None)
    }

    /// The same as the administrator, with `input` for `--filename=-`.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.run_kubectl(&self.directory.join(KUBECONFIG), arguments, Some(input))
    }

    /// `kubectl apply` of manifests, YAML or JSON: Services, CustomResourceDefinitions, whatever.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "--filename=-"], manifests).map(drop)
    }

    fn run_kubectl(&self, kubeconfig: &Path, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new(self.programs.path("kubectl"));
        command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
        // It keeps what it has discovered below its home.
        command.env("HOME", &self.directory).envs(self.place.environment());
        command.env_remove("KUBECONFIG").env_remove("KUBECACHEDIR");
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.place.run(|| {
            let child = {
                let _making = making();
                command.spawn().with_context(|| format!("start {command:?}"))?
            };
            finish(child, &format!("kubectl {} in {}", arguments.join(" "), self.name), input)
        })
    }
}
