//! Where clusters' objects are: one place for each, and each its own.

use super::{Faults, at, called, items};
use crate::config::types::{ClusterDraft, ConfigDraft};
use crate::yaml::Path;

impl Faults {
    /// Those that contradict themselves or each other.
    pub(super) fn clusters(&mut self, config: &ConfigDraft) {
        let clusters = items(&config.clusters);
        for (index, cluster) in clusters.iter().enumerate() {
            let path = at("clusters").index(index);
            let message = "there must be at least one: endpoints outside of them are not accepted";
            self.some(path.key("podCidrs"), &cluster.pod_cidrs, message);
            self.origin(&path, cluster);
            self.same_server(&path, cluster, &clusters[..index]);
            let Some(Some(manifests)) = &cluster.manifests else { continue };
            for (i, other) in clusters[..index].iter().enumerate() {
                if let Some(Some(theirs)) = &other.manifests
                    && (theirs.starts_with(manifests) || manifests.starts_with(theirs))
                {
                    let message = format!(
                        "{} reads {} already: each needs its own directory",
                        called("cluster", i, &other.name),
                        theirs.display()
                    );
                    self.add(path.key("manifests"), message);
                }
            }
        }
    }

    /// Where a cluster's objects are.
    fn origin(&mut self, path: &Path, cluster: &ClusterDraft) {
        let (Some(kubeconfig), Some(context)) = (&cluster.kubeconfig, &cluster.context) else { return };
        let (Some(in_cluster), Some(manifests)) = (cluster.in_cluster, &cluster.manifests) else { return };
        let given = [
            ("kubeconfig", kubeconfig.is_some()),
            ("inCluster", in_cluster),
            ("manifests", manifests.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        match given[..] {
            [] => self.add(
                path.clone(),
                "where are its objects? Give kubeconfig, the file that leads to its API server; or inCluster: true; or \
                 manifests, a directory",
            ),
            [_] => {}
            [first, second, ..] => {
                let message = format!("stands beside {first}, and only one can count: remove one of them");
                self.add(path.key(second), message);
            }
        }
        if context.is_some() && kubeconfig.is_none() {
            self.add(path.key("context"), "is a name in a kubeconfig: give kubeconfig too, or remove this");
        }
    }

    /// Two clusters with the same API server.
    fn same_server(&mut self, path: &Path, cluster: &ClusterDraft, others: &[ClusterDraft]) {
        let server =
            |cluster: &ClusterDraft| match (&cluster.kubeconfig, &cluster.context, cluster.in_cluster) {
                (Some(Some(file)), Some(context), _) => Some((Some(file.clone()), context.clone())),
                (_, _, Some(true)) => Some((None, None)),
                _ => None,
            };
        let Some(own) = server(cluster) else { return };
        let same = |(_, other): &(usize, &ClusterDraft)| server(other).as_ref() == Some(&own);
        if let Some((index, other)) = others.iter().enumerate().find(same) {
            let field = if own.0.is_some() { "kubeconfig" } else { "inCluster" };
            let other = called("cluster", index, &other.name);
            self.add(path.key(field), format!("{other} has the same API server: each needs its own"));
        }
    }
}
