//! Keys and certificates of a control plane.
//!
//! In: names and addresses. Out: PEM, and files of the names that [`super::programs`] hands to the API server. Each cluster
//! has an authority of its own, so that no certificate of one is good in another.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::programs::{
    AUTHORITY, CLUSTER_IP, FRONT_PROXY, SERVING, SERVING_KEY, TOKEN_KEY, TOKEN_PUBLIC_KEY,
};

/// What the API server shows to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// One that kubeconfigs trust.
    Good,
    /// One that was good until 2001.
    Expired,
    /// One of an authority that nobody knows.
    Foreign,
}

/// Who asks: the name and group of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The common name; RBAC knows the user by it.
    pub name: String,
    /// The organization; RBAC's group.
    pub group: Option<String>,
}

impl User {
    /// The administrator's name.
    pub(super) const ADMIN: &str = "admin";

    /// One who may do nothing yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), group: None }
    }

    /// The one who may do everything, whatever RBAC says.
    #[must_use]
    pub fn admin() -> Self {
        Self::new(Self::ADMIN).in_group("system:masters")
    }

    /// The same in this group alone.
    #[must_use]
    pub fn in_group(self, group: &str) -> Self {
        Self { group: Some(group.to_owned()), ..self }
    }
}

/// A certificate with its key, PEM.
pub(super) struct Signed {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Who signs in one cluster.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    certificate: String,
    /// What the API server's certificate is valid for.
    names: Vec<String>,
}

impl Authority {
    /// A new one, whose API server is reached at these addresses and names.
    pub(super) fn new(cluster: &str, addresses: &[IpAddr], more: &[String]) -> Result<Self> {
        let issuer = authority(&format!("{cluster} CA"))?;
        let certificate = issuer.pem();
        let known = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", CLUSTER_IP];
        let mut names: Vec<String> = known.map(str::to_owned).into();
        names.extend(addresses.iter().map(IpAddr::to_string));
        names.extend_from_slice(more);
        Ok(Self { issuer, certificate, names })
    }

    /// Its own certificate, PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A client certificate.
    pub(super) fn client(&self, user: &User) -> Result<Signed> {
        let mut name = common_name(&user.name);
        if let Some(group) = &user.group {
            name.push(DnType::OrganizationName, group.as_str());
        }
        let parameters = parameters(name, ExtendedKeyUsagePurpose::ClientAuth, &[])?;
        sign(&parameters, &self.issuer)
    }

    /// Writes what does not change: authorities, and the key that tokens of ServiceAccounts are signed with; and a
    /// good serving certificate.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        put(directory, AUTHORITY, &self.certificate)?;
        put(directory, FRONT_PROXY, &authority("front-proxy CA")?.pem())?;
        let tokens = KeyPair::generate()?;
        put(directory, TOKEN_KEY, &tokens.serialize_pem())?;
        put(directory, TOKEN_PUBLIC_KEY, &tokens.public_key_pem())?;
        self.write_serving(directory, Certificate::Good)
    }

    /// Writes what the API server shows from its next start on.
    pub(super) fn write_serving(&self, directory: &Path, certificate: Certificate) -> Result<()> {
        let Signed { certificate, key } = self.serving(certificate)?;
        put(directory, SERVING, &certificate)?;
        put(directory, SERVING_KEY, &key)
    }

    fn serving(&self, certificate: Certificate) -> Result<Signed> {
        let name = common_name("kube-apiserver");
        let mut parameters = parameters(name, ExtendedKeyUsagePurpose::ServerAuth, &self.names)?;
        match certificate {
            Certificate::Good => sign(&parameters, &self.issuer),
            Certificate::Expired => {
                parameters.not_after = date_time_ymd(2001, 1, 1);
                sign(&parameters, &self.issuer)
            }
            // Of the same name: only the key tells them apart.
            Certificate::Foreign => sign(&parameters, &authority("kubernetes CA")?),
        }
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = common_name(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn parameters(
    name: DistinguishedName,
    usage: ExtendedKeyUsagePurpose,
    names: &[String],
) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = name;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![usage];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

fn sign(parameters: &CertificateParams, issuer: &CertifiedIssuer<'static, KeyPair>) -> Result<Signed> {
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, issuer)?;
    Ok(Signed { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn put(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
