//! Kubeconfig files: where an API server is, by whom its certificate is signed, and who asks.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::pki::Signed;

/// Of one cluster and one user. All of it stands in the text: it may be moved to wherever.
pub(super) struct Kubeconfig<'a> {
    pub(super) cluster: &'a str,
    pub(super) server: SocketAddr,
    /// PEM.
    pub(super) authority: &'a str,
    pub(super) user: &'a str,
    pub(super) credentials: Credentials,
}

/// How a user proves who it is.
pub(super) enum Credentials {
    /// PEM, both.
    Certificate {
        certificate: String,
        key: String,
    },
    Token(String),
}

impl Credentials {
    pub(super) fn of(signed: &Signed) -> Self {
        Self::Certificate { certificate: signed.certificate.clone(), key: signed.key.clone() }
    }
}

impl Kubeconfig<'_> {
    /// YAML.
    pub(super) fn text(&self) -> String {
        let Self { cluster, server, user, .. } = self;
        let authority = STANDARD.encode(self.authority);
        let credentials = match &self.credentials {
            Credentials::Certificate { certificate, key } => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                STANDARD.encode(certificate),
                STANDARD.encode(key)
            ),
            Credentials::Token(token) => format!("    token: {token}\n"),
        };
        format!(
            "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    server: https://{server}
    certificate-authority-data: {authority}
users:
- name: {user}
  user:
{credentials}contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {user}
current-context: {cluster}
"
        )
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        write(path, &self.text())
    }
}

/// For its owner alone: kubectl warns of others.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_stands_in_the_text() {
        let text = Kubeconfig {
            cluster: "us-central1-a",
            server: "[::1]:6443".parse().unwrap(),
            authority: "authority",
            user: "agent",
            credentials: Credentials::Certificate { certificate: "certificate".into(), key: "key".into() },
        }
        .text();
        for line in [
            "    server: https://[::1]:6443\n    certificate-authority-data: YXV0aG9yaXR5\n",
            "  user:\n    client-certificate-data: Y2VydGlmaWNhdGU=\n    client-key-data: a2V5\ncontexts:\n",
            "current-context: us-central1-a\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_token_is_written_as_it_is() {
        let text = Kubeconfig {
            cluster: "a",
            server: "127.0.0.1:1".parse().unwrap(),
            authority: "",
            user: "agent",
            credentials: Credentials::Token("a.b.c".into()),
        }
        .text();
        assert!(text.contains("  user:\n    token: a.b.c\ncontexts:\n"), "{text}");
    }
}
