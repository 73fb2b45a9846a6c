//! From a kubeconfig file, or a pod's ServiceAccount, to a client of an API server.
//!
//! Who the server is is always verified: a configuration that says otherwise is refused. Files that credentials came from are
//! remembered, so that rotated ones are noticed ([`Connection::is_current`]). Reading them blocks, for as long as the file
//! system does.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};

use crate::directory::Stamp;
use crate::federation::source::Access;

/// A client, and what it was made from.
pub(super) struct Connection {
    pub(super) client: Client,
    /// The address of the API server.
    pub(super) server: String,
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Connection {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// What is wrong with the kubeconfig, naming the file and the field; a ServiceAccount's files that are not there.
    pub(super) async fn open(access: &Access) -> Result<Self, String> {
        let (config, files) = match access {
            Access::Kubeconfig { path, context } => from_kubeconfig(path, context.as_deref()).await?,
            Access::InCluster => {
                let config = Config::incluster().map_err(|error| {
                    format!(
                        "inCluster: {}; the agent has to run in a pod with a ServiceAccount",
                        chain(&error)
                    )
                })?;
                (config, Vec::new())
            }
        };
        let server = config.cluster_url.to_string();
        // What they were before the client reads them: a change meanwhile is seen as one.
        let client = Client::try_from(config).map_err(|error| chain(&error))?;
        Ok(Self { client, server, files })
    }

    /// Whether the files that credentials came from are still the same. Blocks.
    pub(super) fn is_current(&self) -> bool {
        self.files.iter().all(|(path, known)| stamp(path) == *known)
    }
}

async fn from_kubeconfig(
    path: &Path,
    context: Option<&str>,
) -> Result<(Config, Vec<(PathBuf, Option<Stamp>)>), String> {
    let told = |message: String| format!("kubeconfig {}: {message}", path.display());
    let known = stamp(path);
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| told(chain(&error)))?;
    let name = match context.or(kubeconfig.current_context.as_deref()) {
        Some(name) if kubeconfig.contexts.iter().any(|context| context.name == name) => name.to_owned(),
        Some(name) => {
            let names: Vec<&str> = kubeconfig.contexts.iter().map(|context| &*context.name).collect();
            return Err(told(format!("it has no context {name}, only: {}", names.join(", "))));
        }
        None => return Err(told("current-context is not set: set it, or give context".to_owned())),
    };
    let mut files = vec![(path.to_owned(), known)];
    files.extend(referenced(&kubeconfig, &name).into_iter().map(|file| (file.clone(), stamp(&file))));
    let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| told(format!("context {name}: {}", chain(&error))))?;
    if config.accept_invalid_certs {
        return Err(told(format!(
            "context {name}: insecure-skip-tls-verify is set, and who answers would be anybody: remove it, and give \
             certificate-authority-data"
        )));
    }
    if config.cluster_url.scheme_str() != Some("https") {
        return Err(told(format!("context {name}: server is {}: only https is spoken", config.cluster_url)));
    }
    Ok((config, files))
}

/// Files that a context's credentials stand in. Not those with tokens: the client reads them again by itself.
fn referenced(kubeconfig: &Kubeconfig, context: &str) -> Vec<PathBuf> {
    let context = kubeconfig.contexts.iter().find(|known| known.name == context);
    let Some(context) = context.and_then(|context| context.context.as_ref()) else { return Vec::new() };
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let user = kubeconfig.auth_infos.iter().find(|user| Some(&user.name) == context.user.as_ref());
    let authority = cluster.and_then(|cluster| cluster.cluster.as_ref()?.certificate_authority.clone());
    let info = user.and_then(|user| user.auth_info.as_ref());
    let own = info.map(|info| [info.client_certificate.clone(), info.client_key.clone()]);
    authority.into_iter().chain(own.into_iter().flatten().flatten()).map(PathBuf::from).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

/// An error with what it came from, each once; of a server's refusal what the server says.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = one(error);
    let mut source = error.source();
    while let Some(error) = source {
        let cause = one(error);
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

fn one(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => refusal(status),
        Some(kube::Error::Service(error)) => error.to_string(),
        _ => error.to_string(),
    }
}

/// What a server says that refuses something.
pub(super) fn refusal(status: &Status) -> String {
    match (&*status.message, &*status.reason) {
        ("", "") => format!("HTTP status {}", status.code),
        ("", reason) => format!("{reason} ({})", status.code),
        (message, _) => format!("{message} ({})", status.code),
    }
}
