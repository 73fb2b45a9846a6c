//! What `cargo xtask test` runs, as tables.

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
}

impl Part {
    /// As it is typed and shown.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Core => "core",
            Part::Programs => "programs",
            Part::World => "world",
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
    /// Packages whose every test belongs to it.
    pub(crate) packages: &'static [&'static str],
    /// Test targets of package `fairlead-tests`, or `lib` for its unit tests.
    pub(crate) targets: &'static [&'static str],
}

/// In order of rising cost. Every test target of the workspace must stand here: see [`forgotten`].
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        part: Part::Core,
        name: "unit and property tests",
        build: &[],
        packages: &["fairlead-abi", "fairlead-core", "fairlead", "xtask"],
        targets: &[],
    },
    Suite {
        part: Part::World,
        name: "network namespaces",
        build: PROGRAMS_OF_THE_WORLD,
        packages: &[],
        targets: &["lib", "world"],
    },
];

const PROGRAMS_OF_THE_WORLD: &[&str] = &["build", "--package", "fairlead", "--package", WORLD, "--bins"];

/// The package of the programs' tests and the world.
const WORLD: &str = "fairlead-tests";

impl Suite {
    /// The arguments of cargo that run it.
    pub(crate) fn cargo(&self) -> Vec<&'static str> {
        let mut arguments = vec!["test", "--no-fail-fast"];
        for package in self.packages {
            arguments.extend(["--package", package]);
        }
        if !self.targets.is_empty() {
            arguments.extend(["--package", WORLD]);
        }
        for target in self.targets {
            if *target == "lib" {
                arguments.push("--lib");
            } else {
                arguments.extend(["--test", target]);
            }
        }
        // What passing tests print holds their `left out:` lines.
        arguments.extend(["--", "--show-output"]);
        arguments
    }
}

/// What has to be there for `part`, or for everything.
pub(crate) fn purposes(part: Option<Part>) -> &'static [Purpose] {
    match part {
        None => &[Purpose::Bpf, Purpose::Lints, Purpose::World],
        Some(Part::Core) => &[Purpose::Bpf],
        Some(Part::Programs | Part::World) => &[Purpose::Bpf, Purpose::World],
    }
}

/// The tests of the workspace, from `cargo metadata`, that no suite would run: package and target.
pub(crate) fn forgotten(metadata: &serde_json::Value) -> Vec<String> {
    let mut forgotten = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        // Built for another target, where no test can run: `programs` tests its programs.
        if name == BPF || SUITES.iter().any(|suite| suite.packages.contains(&name)) {
            continue;
        }
        for target in package["targets"].as_array().into_iter().flatten() {
            let kind = target["kind"][0].as_str().unwrap_or_default();
            let target = match kind {
                "test" => target["name"].as_str().unwrap_or_default(),
                "lib" => "lib",
                _ => continue,
            };
            let known = name == WORLD && SUITES.iter().any(|suite| suite.targets.contains(&target));
            if !known {
                forgotten.push(format!("{name}: {target}"));
            }
        }
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_suite_becomes_arguments_of_cargo() {
        let suite =
            Suite { part: Part::World, name: "x", build: &[], packages: &["a"], targets: &["lib", "world"] };
        let line = suite.cargo().join(" ");
        assert_eq!(
            line,
            "test --no-fail-fast --package a --package fairlead-tests --lib --test world -- --show-output"
        );
    }

    #[test]
    fn tests_that_no_suite_runs_are_found() {
        let metadata = json!({"packages": [
            {"name": "fairlead-core", "targets": [{"kind": ["lib"], "name": "fairlead_core"}]},
            {"name": "fairlead-ebpf", "targets": [{"kind": ["lib"], "name": "fairlead_ebpf"}]},
            {"name": "fairlead-tests", "targets": [
                {"kind": ["lib"], "name": "fairlead_tests"},
                {"kind": ["bin"], "name": "fairlead-udp-echo"},
                {"kind": ["test"], "name": "no-such-suite"},
            ]},
            {"name": "new", "targets": [{"kind": ["lib"], "name": "new"}]},
        ]});
        assert_eq!(forgotten(&metadata), ["fairlead-tests: no-such-suite", "new: lib"]);
    }

    #[test]
    fn every_part_can_be_typed_by_its_name() {
        use clap::ValueEnum;
        for part in Part::value_variants() {
            assert_eq!(Part::from_str(part.name(), false), Ok(*part));
        }
    }
}
