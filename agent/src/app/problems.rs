//! Problems in the log: each once when it appears, and once when it is gone.
//!
//! What a node's status lists is compared with what it listed before. A broken directory can have as many problems as
//! objects, so a turn tells only so many of them, and how many more there are.

use std::collections::BTreeSet;

use fairlead_core::model::Problem;

/// How many a turn tells that appear, and how many that are gone.
const MOST: usize = 20;

/// What the log has been told.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<Problem>);

/// What the log has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    appeared: Vec<String>,
    gone: Vec<String>,
}

impl Told {
    /// Tells what is different from the last time.
    pub(super) fn tell(&mut self, problems: &[Problem]) {
        let News { appeared, gone } = self.news(problems);
        shortened(appeared).iter().for_each(|line| tracing::warn!("{line}"));
        shortened(gone).iter().for_each(|line| tracing::info!("no more: {line}"));
    }

    fn news(&mut self, problems: &[Problem]) -> News {
        let now: BTreeSet<Problem> = problems.iter().cloned().collect();
        let texts = |some: &BTreeSet<Problem>, without: &BTreeSet<Problem>| {
            some.difference(without).map(ToString::to_string).collect()
        };
        let news = News { appeared: texts(&now, &self.0), gone: texts(&self.0, &now) };
        self.0 = now;
        news
    }
}

fn shortened(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST);
    if more > 0 {
        lines.truncate(MOST);
        lines.push(format!("and {more} more; `fairlead status` lists all there are"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(name: &str) -> Problem {
        let (object, cluster) = (Some(fairlead_core::model::ObjectName::new("shop", name)), Some("a".into()));
        let (field, what, hint) =
            ("VIP".to_owned(), "lies in no pool".to_owned(), Some("in web.yaml".to_owned()));
        Problem { object, cluster, field, what, hint }
    }

    #[test]
    fn each_is_told_once_when_it_appears_and_once_when_it_is_gone() {
        let mut told = Told::default();
        let text = |name: &str| format!("cluster a: Service shop/{name}: VIP: lies in no pool (in web.yaml)");
        let news = told.news(&[problem("web")]);
        assert_eq!(news, News { appeared: vec![text("web")], gone: vec![] });
        assert_eq!(told.news(&[problem("web")]), News::default());
        let news = told.news(&[problem("dns")]);
        assert_eq!(news, News { appeared: vec![text("dns")], gone: vec![text("web")] });
        assert_eq!(told.news(&[]), News { appeared: vec![], gone: vec![text("dns")] });
        assert_eq!(told.news(&[]), News::default());
    }

    #[test]
    fn a_turn_tells_no_more_than_people_read() {
        let lines = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(shortened(lines(MOST)), lines(MOST));
        let many = shortened(lines(MOST + 7));
        assert_eq!(many.len(), MOST + 1);
        assert_eq!(many[MOST], "and 7 more; `fairlead status` lists all there are");
    }
}
