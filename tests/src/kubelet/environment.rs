//! A container's environment and its command line, as its pod and the cluster's ConfigMaps and Secrets give them.
//!
//! In: a pod, and one of its containers. Out: names and values, in Kubernetes' order: `envFrom`, then `env`, with `$(NAME)`
//! replaced. Only reads.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, Secret};
use kube::{Api, Client};

/// Values by name.
pub(super) type Values = BTreeMap<String, String>;

/// The environment of a container; `given` is what it has anyway, and `field` what fields of its pod are.
///
/// # Errors
/// A ConfigMap, Secret, key or field that isn't there, named with the variable that wants it.
pub(super) async fn environment(
    client: &Client,
    namespace: &str,
    container: &Container,
    given: Values,
    field: &(dyn Fn(&ObjectFieldSelector) -> Result<String> + Sync),
) -> Result<Values> {
    let mut values = given;
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let found = if let Some(map) = &source.config_map_ref {
            config_map(client, namespace, &map.name, map.optional).await?
        } else if let Some(secret) = &source.secret_ref {
            secret_texts(client, namespace, &secret.name, secret.optional).await?
        } else {
            bail!("envFrom: only configMapRef and secretRef are honoured");
        };
        values.extend(found.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
    }
    for variable in container.env.iter().flatten() {
        let name = &variable.name;
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &values)),
            Some(source) => referenced(client, namespace, source, field)
                .await
                .with_context(|| format!("env {name}: valueFrom"))?,
        };
        if let Some(value) = value {
            values.insert(name.clone(), value);
        }
    }
    Ok(values)
}

async fn referenced(
    client: &Client,
    namespace: &str,
    source: &EnvVarSource,
    field: &(dyn Fn(&ObjectFieldSelector) -> Result<String> + Sync),
) -> Result<Option<String>> {
    let (mut found, key, optional, object) = if let Some(selector) = &source.field_ref {
        return field(selector).map(Some);
    } else if let Some(key) = &source.config_map_key_ref {
        let found = config_map(client, namespace, &key.name, key.optional).await?;
        (found, &key.key, key.optional, format!("ConfigMap {}", key.name))
    } else if let Some(key) = &source.secret_key_ref {
        let found = secret_texts(client, namespace, &key.name, key.optional).await?;
        (found, &key.key, key.optional, format!("Secret {}", key.name))
    } else {
        bail!("only fieldRef, configMapKeyRef and secretKeyRef are honoured");
    };
    match found.remove(key) {
        None if optional != Some(true) => bail!("{object} has no key {key}"),
        value => Ok(value),
    }
}

async fn config_map(client: &Client, namespace: &str, name: &str, optional: Option<bool>) -> Result<Values> {
    let map = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await?;
    match map {
        None if optional != Some(true) => bail!("there is no ConfigMap {namespace}/{name}"),
        map => Ok(map.and_then(|map| map.data).unwrap_or_default()),
    }
}

async fn secret_texts(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Values> {
    let secret = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await?;
    let Some(secret) = secret else {
        if optional == Some(true) {
            return Ok(Values::new());
        }
        bail!("there is no Secret {namespace}/{name}");
    };
    let text = |(key, value): (String, k8s_openapi::ByteString)| {
        let value = String::from_utf8(value.0).with_context(|| format!("Secret {name}: {key} is no text"))?;
        Ok((key, value))
    };
    secret.data.unwrap_or_default().into_iter().map(text).collect()
}

/// `$(NAME)` replaced where there is such a name, `$$` by `$`; all else stays.
pub(super) fn expand(text: &str, values: &Values) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('(').and_then(|name| name.split_once(')'));
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((value, after)) = name.and_then(|(name, after)| Some((values.get(name)?, after))) {
            expanded.push_str(value);
            rest = after;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

/// A field of a pod, of those that `fieldRef` may name.
///
/// # Errors
/// One that isn't honoured.
pub(super) fn field(
    pod: &Pod,
    node: &str,
    pod_ips: &[String],
    host_ips: &[String],
    path: &str,
) -> Result<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let lines = |map: &Option<Values>| {
        let lines = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}\n"));
        lines.collect::<String>()
    };
    let keyed = |map: &Option<Values>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((begin, key)) = path.split_once("['")
        && let Some(key) = key.strip_suffix("']")
    {
        match begin {
            "metadata.labels" => return Ok(keyed(&metadata.labels, key)),
            "metadata.annotations" => return Ok(keyed(&metadata.annotations, key)),
            _ => {}
        }
    }
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&metadata.labels),
        "metadata.annotations" => lines(&metadata.annotations),
        "spec.nodeName" => node.to_owned(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.podIP" => first(pod_ips),
        "status.podIPs" => pod_ips.join(","),
        "status.hostIP" => first(host_ips),
        "status.hostIPs" => host_ips.join(","),
        _ => bail!("fieldRef: {path} is not honoured"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_parentheses_are_replaced_where_there_are_such() {
        let values = Values::from([("A".to_owned(), "1".to_owned())]);
        for (text, expanded) in
            [("$(A)-$(A)", "1-1"), ("$(B) $A $$(A) $", "$(B) $A $(A) $"), ("$(A", "$(A"), ("none", "none")]
        {
            assert_eq!(expand(text, &values), expanded, "{text}");
        }
    }
}
