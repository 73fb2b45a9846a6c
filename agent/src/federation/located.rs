//! Which files say something of a service: problems that arise where all clusters are merged, where nobody knows files,
//! are shown with them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fairlead_core::model::{ObjectName, Problem};

/// A problem names no more files than this.
const MOST: usize = 3;

/// The files of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFiles {
    /// The one with the Service.
    pub service: Option<Arc<Path>>,
    /// Those with its EndpointSlices, each once.
    pub slices: Vec<Arc<Path>>,
}

/// By service.
pub type Located = BTreeMap<ObjectName, ServiceFiles>;

impl ServiceFiles {
    /// Those that a field of a model's problem comes from.
    fn of_field(&self, field: &str) -> &[Arc<Path>] {
        if field.starts_with("endpoints[") { &self.slices } else { self.service.as_slice() }
    }
}

/// The problem, with the files that it comes from added to what would be right. `clusters` are those that have the
/// service, where they are known.
pub(super) fn located<'a>(
    problem: Problem,
    clusters: impl Iterator<Item = (&'a Arc<str>, &'a Located)>,
) -> Problem {
    let Some(object) = &problem.object else { return problem };
    let concerned =
        clusters.filter(|(name, _)| problem.cluster.as_ref().is_none_or(|cluster| cluster == *name));
    let of_service = concerned.filter_map(|(_, located)| located.get(object));
    let files: Vec<&Arc<Path>> = of_service.flat_map(|files| files.of_field(&problem.field)).collect();
    let mut named: Vec<String> = files.iter().take(MOST).map(|file| file.display().to_string()).collect();
    if named.is_empty() {
        return problem;
    }
    if files.len() > MOST {
        named.push(format!("{} more", files.len() - MOST));
    }
    let place = format!("in {}", named.join(", "));
    let hint = match &problem.hint {
        Some(hint) => format!("{hint}; {place}"),
        None => place,
    };
    Problem { hint: Some(hint), ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(cluster: Option<&str>, field: &str, hint: Option<&str>) -> Problem {
        Problem {
            object: Some(ObjectName::new("shop", "web")),
            cluster: cluster.map(Arc::from),
            field: field.to_owned(),
            what: "is wrong".to_owned(),
            hint: hint.map(ToOwned::to_owned),
        }
    }

    /// A cluster that has `shop/web` in one file and its slices in others.
    fn cluster(name: &str, slices: usize) -> (Arc<str>, Located) {
        let file = |file: &str| Arc::<Path>::from(Path::new(&format!("{name}/{file}.yaml")));
        let slices = (1..=slices).map(|number| file(&format!("slice-{number}"))).collect();
        let files = ServiceFiles { service: Some(file("web")), slices };
        (name.into(), Located::from([(ObjectName::new("shop", "web"), files)]))
    }

    #[test]
    fn a_problem_names_the_files_that_it_comes_from() {
        let clusters = [cluster("a", 5), cluster("b", 1)];
        let hint =
            |problem| located(problem, clusters.iter().map(|(name, files)| (name, files))).hint.unwrap();
        assert_eq!(hint(problem(Some("a"), "VIP", None)), "in a/web.yaml");
        assert_eq!(hint(problem(None, "VIP", Some("use another"))), "use another; in a/web.yaml, b/web.yaml");
        assert_eq!(hint(problem(Some("b"), "endpoints[p]", None)), "in b/slice-1.yaml");
        assert_eq!(
            hint(problem(Some("a"), "endpoints[p]", None)),
            "in a/slice-1.yaml, a/slice-2.yaml, a/slice-3.yaml, 2 more"
        );
        let unknown = problem(Some("c"), "VIP", None);
        assert_eq!(located(unknown.clone(), clusters.iter().map(|(name, files)| (name, files))), unknown);
    }
}
