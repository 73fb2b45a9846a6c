//! What `cargo xtask test` runs, as tables.

use serde_json::Value;

use crate::setup::Purpose;

/// A part that can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Unit and property tests; needs no root
    Core,
    /// The BPF programs: packet in, verdict and packet out
    Programs,
    /// Network namespaces with real clients and servers
    World,
    /// Real control planes of Kubernetes, several side by side
    Clusters,
    /// Thousands of connections that must outlive all that happens; only when it is named
    Survive,
}

impl Part {
    /// As it is typed and shown.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Core => "core",
            Part::Programs => "programs",
            Part::World => "world",
            Part::Clusters => "clusters",
            Part::Survive => "survive",
        }
    }
}

/// A check that counts no tests; only the whole run does these.
#[derive(Debug)]
pub(crate) struct Lint {
    pub(crate) name: &'static str,
    /// Arguments of cargo.
    pub(crate) cargo: &'static [&'static str],
    pub(crate) environment: &'static [(&'static str, &'static str)],
}

const fn lint(name: &'static str, cargo: &'static [&'static str]) -> Lint {
    Lint { name, cargo, environment: &[] }
}

/// In order of rising cost.
pub(crate) const LINTS: &[Lint] = &[
    lint("format", &["fmt", "--all", "--check"]),
    lint("licences, bans, sources", &["deny", "check", "bans", "licenses", "sources"]),
    lint("clippy", &["clippy", "--workspace", "--exclude", BPF, "--all-targets", "--", "-D", "warnings"]),
    Lint {
        name: "clippy of the BPF programs",
        // For the host, because the BPF toolchain need not have clippy. Its tests would need std.
        cargo: &["clippy", "--package", BPF, "--lib", "--bins", "--", "-D", "warnings"],
        // Without std there is nothing to unwind with.
        environment: &[("CARGO_PROFILE_DEV_PANIC", "abort")],
    },
    Lint {
        name: "documentation",
        // The BPF package's binary has the name of the agent's library, and both would write the same pages.
        cargo: &["doc", "--workspace", "--exclude", BPF, "--no-deps"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
    },
];

const BPF: &str = "fairlead-ebpf";

/// One run of `cargo test`.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) part: Part,
    pub(crate) name: &'static str,
    /// Arguments of cargo that build programs which the tests start, if any.
    pub(crate) build: &'static [&'static str],
    pub(crate) packages: &'static [&'static str],
    /// Which tests of these packages.
    pub(crate) tests: Tests,
}

/// A choice of a package's tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    /// Every one.
    All,
    /// Those inside its library and binaries.
    Unit,
    /// Those in its folder `tests`, whatever they are called; none is fine.
    Integration,
    /// These files of its folder `tests`.
    Named(&'static [&'static str]),
}

/// In order of rising cost. Every test of the workspace must be in one of them: see [`forgotten`].
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        part: Part::Core,
        name: "the pure crates",
        build: &[],
        packages: &["fairlead-abi", "fairlead-core", "xtask"],
        tests: Tests::All,
    },
    Suite { part: Part::Core, name: "the agent", build: &[], packages: &[AGENT], tests: Tests::Unit },
    Suite {
        part: Part::Programs,
        name: "the agent and the kernel",
        build: &[],
        packages: &[AGENT],
        tests: Tests::Integration,
    },
    Suite {
        part: Part::Programs,
        name: "packets in, packets out",
        build: &[],
        packages: &[WORLD],
        tests: Tests::Named(&["programs"]),
    },
    Suite { part: Part::World, name: "its parts", build: &[], packages: &[WORLD], tests: Tests::Unit },
    Suite {
        part: Part::World,
        name: "network namespaces",
        build: PROGRAMS_OF_THE_WORLD,
        packages: &[WORLD],
        tests: Tests::Named(&["world", "steering", "survive"]),
    },
    Suite {
        part: Part::Clusters,
        name: "real API servers",
        build: PROGRAMS_OF_THE_WORLD,
        packages: &[WORLD],
        tests: Tests::Named(&["clusters", "federation", "kubelet"]),
    },
];

/// What takes too long for CI: a run without `--full` does the share of it that the tests choose themselves.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// Whose suites read the variable.
    pub(crate) part: Part,
    /// Of the environment, as the tests read it.
    pub(crate) variable: &'static str,
    /// Its value with `--full`.
    pub(crate) full: &'static str,
    /// What is left out without.
    pub(crate) rest: &'static str,
}

/// All that `--full` does.
pub(crate) const MATRICES: &[Matrix] = &[
    Matrix {
        part: Part::Core,
        variable: "PROPTEST_CASES",
        full: "2048",
        rest: "1792 or more of 2048 cases of each property",
    },
    Matrix {
        part: Part::Core,
        variable: "FAIRLEAD_FLEETS",
        full: "1000",
        rest: "950 of 1,000 simulated fleets of gateways",
    },
    Matrix {
        part: Part::Programs,
        variable: "FAIRLEAD_PACKETS",
        full: "6700000",
        rest: "17.7 of 20.1 million random packets through programs and model",
    },
    Matrix {
        part: Part::World,
        variable: "FAIRLEAD_KILLS",
        full: "400",
        rest: "350 of 400 kills of agents that write",
    },
];

const PROGRAMS_OF_THE_WORLD: &[&str] = &["build", "--package", AGENT, "--package", WORLD, "--bins"];

const AGENT: &str = "fairlead";

/// The package of the programs' tests and the world.
const WORLD: &str = "fairlead-tests";

impl Suite {
    /// The arguments of cargo that run it.
    pub(crate) fn cargo(&self) -> Vec<&'static str> {
        let mut arguments = vec!["test", "--no-fail-fast"];
        for package in self.packages {
            arguments.extend(["--package", package]);
        }
        match self.tests {
            Tests::All => {}
            Tests::Unit => arguments.extend(["--lib", "--bins"]),
            Tests::Integration => arguments.extend(["--test", "*"]),
            Tests::Named(names) => arguments.extend(names.iter().flat_map(|name| ["--test", name])),
        }
        // What passing tests print holds their `left out:` lines.
        arguments.extend(["--", "--show-output"]);
        arguments
    }

    /// Whether the workspace, as `cargo metadata` shows it, has anything for it to run. Only a folder `tests` may
    /// be missing: a named file that isn't there is cargo's error.
    pub(crate) fn has_tests(&self, metadata: &Value) -> bool {
        self.tests != Tests::Integration
            || targets(metadata).any(|(package, kind, _)| kind == "test" && self.packages.contains(&package))
    }

    fn runs(&self, package: &str, kind: &str, target: &str) -> bool {
        let chosen = match self.tests {
            Tests::All => true,
            Tests::Unit => kind != "test",
            Tests::Integration => kind == "test",
            Tests::Named(names) => kind == "test" && names.contains(&target),
        };
        chosen && self.packages.contains(&package)
    }
}

/// What has to be there for `part`, or for everything.
pub(crate) fn purposes(part: Option<Part>) -> &'static [Purpose] {
    match part {
        None => &[Purpose::Bpf, Purpose::Lints, Purpose::World, Purpose::Clusters],
        Some(Part::Core) => &[Purpose::Bpf],
        Some(Part::Clusters) => &[Purpose::Bpf, Purpose::World, Purpose::Clusters],
        Some(Part::Programs | Part::World | Part::Survive) => &[Purpose::Bpf, Purpose::World],
    }
}

/// What holds tests and is run by no suite, as `cargo metadata` shows the workspace.
pub(crate) fn forgotten(metadata: &Value) -> Vec<String> {
    let nobodys = targets(metadata).filter(|(package, kind, target)| {
        // The BPF package is built for another target, where no test can run.
        *package != BPF && !SUITES.iter().any(|suite| suite.runs(package, kind, target))
    });
    nobodys.map(|(package, kind, target)| format!("{package} ({kind} {target})")).collect()
}

/// Package, kind and name of everything in the workspace that may hold tests.
fn targets(metadata: &Value) -> impl Iterator<Item = (&str, &str, &str)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| {
        let targets = package["targets"].as_array().into_iter().flatten();
        targets.filter_map(|target| {
            Some((package["name"].as_str()?, target["kind"][0].as_str()?, target["name"].as_str()?))
        })
    });
    targets.filter(|(_, kind, _)| matches!(*kind, "lib" | "bin" | "test"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_suite_becomes_arguments_of_cargo() {
        let line = |tests| {
            let suite = Suite { part: Part::World, name: "x", build: &[], packages: &["a", "b"], tests };
            suite.cargo().join(" ")
        };
        let begin = "test --no-fail-fast --package a --package b";
        assert_eq!(line(Tests::All), format!("{begin} -- --show-output"));
        assert_eq!(line(Tests::Unit), format!("{begin} --lib --bins -- --show-output"));
        assert_eq!(line(Tests::Integration), format!("{begin} --test * -- --show-output"));
        assert_eq!(line(Tests::Named(&["x", "y"])), format!("{begin} --test x --test y -- --show-output"));
    }

    #[test]
    fn tests_that_no_suite_runs_are_found() {
        let metadata = json!({"packages": [
            {"name": "fairlead-core", "targets": [{"kind": ["lib"], "name": "fairlead_core"}]},
            {"name": "fairlead-ebpf", "targets": [{"kind": ["lib"], "name": "fairlead_ebpf"}]},
            {"name": "fairlead", "targets": [
                {"kind": ["lib"], "name": "fairlead"},
                {"kind": ["custom-build"], "name": "build-script-build"},
                {"kind": ["test"], "name": "whatever"},
            ]},
            {"name": "fairlead-tests", "targets": [
                {"kind": ["lib"], "name": "fairlead_tests"},
                {"kind": ["test"], "name": "world"},
                {"kind": ["test"], "name": "no-such-suite"},
            ]},
            {"name": "new", "targets": [{"kind": ["lib"], "name": "new"}]},
        ]});
        assert_eq!(forgotten(&metadata), ["fairlead-tests (test no-such-suite)", "new (lib new)"]);
    }

    #[test]
    fn a_package_without_a_tests_folder_has_nothing_to_run_there() {
        let suite = |tests| Suite { part: Part::World, name: "x", build: &[], packages: &["a"], tests };
        let without = json!({"packages": [{"name": "a", "targets": [{"kind": ["lib"], "name": "a"}]}]});
        let with = json!({"packages": [{"name": "a", "targets": [{"kind": ["test"], "name": "t"}]}]});
        assert!(!suite(Tests::Integration).has_tests(&without));
        assert!(suite(Tests::Integration).has_tests(&with));
        assert!(suite(Tests::Named(&["t"])).has_tests(&without), "cargo says that it is missing");
    }

    #[test]
    fn every_part_can_be_typed_by_its_name() {
        use clap::ValueEnum;
        for part in Part::value_variants() {
            assert_eq!(Part::from_str(part.name(), false), Ok(*part));
        }
    }
}
