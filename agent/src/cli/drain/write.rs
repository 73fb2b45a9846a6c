//! Writes what is drained of a cluster: a ConfigMap at its API server or, among manifests, alone in a file of its own.
//!
//! The file is whole at any moment: written under a name that sources pass over, then renamed. What else stands in the
//! object stays.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::known::Cluster;
use crate::federation::convert::{DRAINS_NAME, DRAINS_NAMESPACE, Drains, drains};
use crate::federation::{Access, Origin, kubernetes};
use crate::file::read_to_string;
use crate::yaml::{Objects, from_node, to_text};

/// The file in the directory of a cluster's manifests.
pub(super) const FILE: &str = "fairlead-drains.yaml";
const TEMPORARY: &str = ".fairlead-drains.yaml.new";
/// Largest file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Changes what is drained of a cluster; what is drained then, and whether that is anything else than before.
pub(super) fn change(cluster: &Cluster, edit: impl Fn(&mut Drains)) -> Result<(Arc<Drains>, bool)> {
    let directory = match &cluster.origin {
        Origin::Manifests(directory) => directory,
        Origin::Kubernetes(access) => return change_at(cluster, access, edit),
    };
    let path = directory.join(FILE);
    if let Some(elsewhere) = cluster.file.as_ref().filter(|file| **file != path) {
        bail!(
            "what is drained of cluster {} is said by ConfigMap {DRAINS_NAMESPACE}/{DRAINS_NAME} in {}: change it there, or \
             remove it",
            cluster.name,
            elsewhere.display()
        );
    }
    if fs::metadata(directory).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        bail!(
            "the directory of the manifests of cluster {} is missing: {}: create it, or correct `manifests` in the \
             configuration",
            cluster.name,
            directory.display()
        );
    }
    // Of several commands at a time, one after the other; where the file system has no locks, the last one counts.
    let _lock = File::open(directory).ok().and_then(|file| Flock::lock(file, FlockArg::LockExclusive).ok());
    let told = || format!("what is drained of cluster {}: {}", cluster.name, path.display());
    let mut object = read(&path).with_context(told)?;
    let before = judge(&object).with_context(told)?;
    let mut after = before.clone();
    edit(&mut after);
    if after == before {
        return Ok((Arc::new(after), false));
    }
    let data = set(&mut object, &after);
    let written = if data { put(directory, &path, &to_text(&object)) } else { fs::remove_file(&path) };
    match written {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
            "{} can't be written: not permitted; run this as a user who may change the manifests of cluster {}",
            path.display(),
            cluster.name
        ),
        Err(error) => Err(error).with_context(|| format!("{} can't be written", path.display())),
        Ok(()) => Ok((Arc::new(after), true)),
    }
}

/// As [`change`], at a cluster's API server.
fn change_at(cluster: &Cluster, access: &Access, edit: impl Fn(&mut Drains)) -> Result<(Arc<Drains>, bool)> {
    let changed = runtime()?.block_on(kubernetes::change_drains(access, edit));
    changed.map_err(|message| anyhow!("what is drained of cluster {}: {message}", cluster.name))
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// What is drained of a cluster, where [`change`] writes it.
pub(super) fn drained(cluster: &Cluster) -> Result<Drains> {
    match &cluster.origin {
        Origin::Manifests(directory) => judge(&read(&directory.join(FILE))?),
        Origin::Kubernetes(access) => {
            let read = runtime()?.block_on(kubernetes::read(Arc::clone(&cluster.name), access));
            read.map(|snapshot| (*snapshot.drains).clone()).map_err(Error::msg)
        }
    }
}

/// The object in the file; a new one where there is none.
fn read(path: &Path) -> Result<Value> {
    let text = match read_to_string(path, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(new()),
        text => text.context("can't be read")?,
    };
    let objects: Vec<_> =
        Objects::new(&text).collect::<Result<_, _>>().context("is broken, repair it first")?;
    match objects.as_slice() {
        [] => Ok(new()),
        [object] => Ok(from_node(object).context("is broken, repair it first")?),
        _ => bail!("it has other objects too: move them to another file"),
    }
}

fn new() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": DRAINS_NAME, "namespace": DRAINS_NAMESPACE},
    })
}

/// What it drains, where it is the ConfigMap that counts and can be understood.
fn judge(object: &Value) -> Result<Drains> {
    let is = |field: &str, value: &str| object.pointer(field).and_then(Value::as_str) == Some(value);
    let is_ours = is("/apiVersion", "v1")
        && is("/kind", "ConfigMap")
        && is("/metadata/name", DRAINS_NAME)
        && is("/metadata/namespace", DRAINS_NAMESPACE);
    ensure!(is_ours, "it has another object: move it to another file");
    let object: ConfigMap = serde_json::from_value(object.clone()).context("is broken, repair it first")?;
    let (drains, faults) = drains(&object);
    drains.with_context(|| {
        let faults = faults.iter().filter(|fault| fault.rejects);
        let told: Vec<String> = faults.map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
        format!("is broken, repair it first: {}", told.join("; "))
    })
}

/// Puts what is drained into the object; whether there is any data in it then.
fn set(object: &mut Value, drains: &Drains) -> bool {
    let Some(fields) = object.as_object_mut() else { return false };
    let mut data = match fields.remove("data") {
        Some(Value::Object(data)) => data,
        _ => Map::new(),
    };
    data.retain(|key, _| !Drains::has_key(key));
    data.extend(drains.data().into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))));
    let some = !data.is_empty();
    fields.insert("data".to_owned(), Value::Object(data));
    some
}

fn put(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY);
    // One that a killed command left is no good to anybody, whatever it is.
    let _ = fs::remove_file(&temporary);
    let written = File::create(&temporary).and_then(|mut file| {
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&temporary);
    }
    written
}
