//! Volumes of a pod, as files and directories of this machine.
//!
//! In: the pod's `volumes`. Out: a path for each. Those that are made of objects (ConfigMaps, Secrets, tokens, fields) are
//! written again whenever they are asked for, each file replaced as a whole, so that containers see what has changed.
//!
//! A `hostPath` below /sys, /proc, /dev, /lib, /usr, /etc and /boot is this machine's. All others are in a directory of the
//! node's own: nodes that stand on one machine would else see each other's files, and leave them behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, ServiceAccount, ServiceAccountTokenProjection,
    Volume, VolumeProjection,
};
use kube::Api;
use kube::api::PostParams;

use super::sandbox::Lodging;

/// Directories of which this machine has the one that is meant.
const MACHINES_OWN: [&str; 7] = ["/sys", "/proc", "/dev", "/lib", "/usr", "/etc", "/boot"];

/// Bytes by path.
type Files = BTreeMap<String, Vec<u8>>;

/// Makes or renews all of a pod's volumes: a path for each name.
///
/// # Errors
/// The volume, its field and what is missing; a kind that isn't honoured.
pub(super) async fn make(lodging: &Lodging) -> Result<BTreeMap<String, PathBuf>> {
    let mut paths = BTreeMap::new();
    for volume in lodging.spec().volumes.iter().flatten() {
        let path = one(lodging, volume).await.with_context(|| format!("volume {}", volume.name))?;
        paths.insert(volume.name.clone(), path);
    }
    Ok(paths)
}

async fn one(lodging: &Lodging, volume: &Volume) -> Result<PathBuf> {
    let directory = lodging.directory.join("volumes").join(&volume.name);
    if let Some(host) = &volume.host_path {
        let made = host.type_.as_deref().is_some_and(|kind| kind.ends_with("OrCreate"));
        return host_path(&lodging.node.directory, &host.path, host.type_.as_deref(), made);
    }
    fs::create_dir_all(&directory)?;
    let (files, mode) = if volume.empty_dir.is_some() {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        return Ok(directory);
    } else if let Some(map) = &volume.config_map {
        (config_map(lodging, &map.name, map.items.as_deref(), map.optional).await?, map.default_mode)
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().context("secretName is missing")?;
        (self::secret(lodging, name, secret.items.as_deref(), secret.optional).await?, secret.default_mode)
    } else if let Some(fields) = &volume.downward_api {
        (downward(lodging, fields.items.as_deref())?, fields.default_mode)
    } else if let Some(projected) = &volume.projected {
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            files.extend(projection(lodging, source, &directory).await?);
        }
        (files, projected.default_mode)
    } else {
        bail!(
            "only configMap, secret, downwardAPI, projected, emptyDir and hostPath are honoured: give one of these"
        );
    };
    write(&directory, &files, mode)?;
    Ok(directory)
}

fn host_path(node: &Path, path: &str, kind: Option<&str>, made: bool) -> Result<PathBuf> {
    ensure!(!path.split('/').any(|part| part == ".."), "hostPath: {path} must not have `..`");
    if MACHINES_OWN.iter().any(|own| Path::new(path).starts_with(own)) {
        ensure!(Path::new(path).exists(), "hostPath: this machine has no {path}");
        return Ok(path.into());
    }
    let own = node.join("host").join(path.trim_start_matches('/'));
    // Without a type, a real kubelet makes no check, and the container's mount makes the directory.
    if !own.exists() && (made || kind.is_none_or(str::is_empty)) {
        if kind == Some("FileOrCreate") {
            fs::create_dir_all(own.parent().context("hostPath has no parent")?)?;
            fs::write(&own, "")?;
        } else {
            fs::create_dir_all(&own)?;
        }
    }
    ensure!(own.exists(), "hostPath: the node has no {path}");
    Ok(own)
}

async fn projection(lodging: &Lodging, source: &VolumeProjection, directory: &Path) -> Result<Files> {
    if let Some(map) = &source.config_map {
        config_map(lodging, &map.name, map.items.as_deref(), map.optional).await
    } else if let Some(secret) = &source.secret {
        self::secret(lodging, &secret.name, secret.items.as_deref(), secret.optional).await
    } else if let Some(fields) = &source.downward_api {
        downward(lodging, fields.items.as_deref())
    } else if let Some(token) = &source.service_account_token {
        Ok(Files::from([(token.path.clone(), self::token(lodging, token, directory).await?)]))
    } else {
        bail!("projected: only configMap, secret, downwardAPI and serviceAccountToken are honoured");
    }
}

/// One that has most of its life before it is kept.
async fn token(
    lodging: &Lodging,
    wanted: &ServiceAccountTokenProjection,
    directory: &Path,
) -> Result<Vec<u8>> {
    let seconds = wanted.expiration_seconds.unwrap_or(3600);
    let path = directory.join(&wanted.path);
    if let Ok(age) = fs::metadata(&path).and_then(|known| known.modified()).map(|then| then.elapsed())
        && age.is_ok_and(|age| i64::try_from(age.as_secs()).is_ok_and(|age| age < seconds * 4 / 5))
    {
        return Ok(fs::read(&path)?);
    }
    let pod = &lodging.pod.metadata;
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let account = lodging.spec().service_account_name.as_deref().unwrap_or("default");
    let accounts = Api::<ServiceAccount>::namespaced(lodging.node.client.clone(), lodging.namespace());
    let granted = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    let token = granted.status.and_then(|status| status.token).context("the API server gave no token")?;
    Ok(token.into_bytes())
}

async fn config_map(
    lodging: &Lodging,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Files> {
    let maps = Api::<ConfigMap>::namespaced(lodging.node.client.clone(), lodging.namespace());
    let Some(map) = maps.get_opt(name).await? else {
        ensure!(optional == Some(true), "there is no ConfigMap {name}");
        return Ok(Files::new());
    };
    let texts = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    chosen(texts.chain(bytes).collect(), items, optional).with_context(|| format!("ConfigMap {name}"))
}

async fn secret(
    lodging: &Lodging,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Files> {
    let secrets = Api::<Secret>::namespaced(lodging.node.client.clone(), lodging.namespace());
    let Some(secret) = secrets.get_opt(name).await? else {
        ensure!(optional == Some(true), "there is no Secret {name}");
        return Ok(Files::new());
    };
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    chosen(data.collect(), items, optional).with_context(|| format!("Secret {name}"))
}

fn chosen(mut all: Files, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<Files> {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(all) };
    let mut files = Files::new();
    for item in items {
        match all.remove(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), bytes)),
            None => ensure!(optional == Some(true), "it has no key {}", item.key),
        }
    }
    Ok(files)
}

fn downward(lodging: &Lodging, items: Option<&[DownwardAPIVolumeFile]>) -> Result<Files> {
    let file = |item: &DownwardAPIVolumeFile| {
        let selector = item.field_ref.as_ref().context("downwardAPI: only fieldRef is honoured")?;
        Ok((item.path.clone(), lodging.field(selector)?.into_bytes()))
    };
    items.into_iter().flatten().map(file).collect()
}

/// Replaces what has changed and removes what is gone.
fn write(directory: &Path, files: &Files, mode: Option<i32>) -> Result<()> {
    let mode = u32::try_from(mode.unwrap_or(0o644)).context("defaultMode is negative")?;
    for (path, bytes) in files {
        ensure!(
            !path.starts_with('/') && !path.split('/').any(|part| part == ".."),
            "path {path} leads outside"
        );
        let path = directory.join(path);
        if fs::read(&path).is_ok_and(|known| known == *bytes) {
            continue;
        }
        fs::create_dir_all(path.parent().context("it has to have a name")?)?;
        let new = directory.join("..new");
        fs::write(&new, bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::rename(&new, &path)?;
    }
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !wanted.contains(&*entry.file_name().to_string_lossy()) {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}
