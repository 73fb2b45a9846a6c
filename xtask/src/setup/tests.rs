//! What is judged from given facts, without looking at this machine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::needs::{Purpose, Remedy, Row, State, judge, looked_for};
use super::{Facts, remedies, table, unmet};
use crate::go::Go;
use crate::testplane::Assets;
use crate::toolchain::{Compiler, Linker};

const ALL: [Purpose; 4] = [Purpose::Bpf, Purpose::Lints, Purpose::World, Purpose::Clusters];

fn compiler(origin: &'static str, llvm: u32) -> Compiler {
    let (bin, source) = (PathBuf::from("/usr/bin"), Some(PathBuf::from("/src")));
    Compiler { origin, bin, release: "1.96.0".into(), llvm, source }
}

fn linker(llvm: Option<u32>) -> Option<Linker> {
    Some(Linker { path: "/bpf-linker".into(), release: "0.13.0".into(), llvm })
}

/// A machine that has everything.
fn complete() -> Facts {
    let options = ["BPF_SYSCALL", "BPF_JIT", "NET_XGRESS", "NET_NS", "VETH", "IPV6", "NF_TABLES"];
    Facts {
        root: true,
        capabilities: u64::MAX,
        kernel: "6.18.44-x".into(),
        kernel_options: Some(options.map(str::to_owned).into()),
        kernel_types: true,
        bpffs: true,
        compilers: vec![compiler("Debian", 22)],
        linker: linker(Some(22)),
        deny: Some("0.20.2".into()),
        clippy: Some("0.1.95".into()),
        go: go("go1.26.8"),
        assets: own(true),
        present: looked_for().collect(),
    }
}

fn go(release: &str) -> Option<Go> {
    Some(Go { program: "/go".into(), release: release.into() })
}

fn own(built: bool) -> Assets {
    Assets::Own { folder: "/cache".into(), kubernetes: "1.36.4".into(), built }
}

fn state<'a>(rows: &'a [Row], what: &str) -> &'a State {
    &rows.iter().find(|row| row.what == what).unwrap_or_else(|| panic!("no row {what}")).state
}

fn package_names(rows: &[Row]) -> Vec<&'static str> {
    let names = remedies(rows).into_iter().filter_map(|remedy| match remedy {
        Remedy::Package(package) => Some(package.name),
        Remedy::Tool(_) | Remedy::Components | Remedy::Mount | Remedy::Testplane => None,
    });
    names.collect()
}

#[test]
fn a_complete_machine_needs_nothing() {
    let rows = judge(&complete(), &ALL);
    assert!(rows.iter().all(|row| row.state == State::Met), "{rows:#?}");
    assert!(unmet(&complete(), &rows).is_ok());
}

#[test]
fn a_bare_debian_gets_everything_and_apt_before_tools() {
    let facts = Facts {
        present: BTreeSet::from(["apt-get", "rustup"]),
        compilers: vec![],
        linker: None,
        deny: None,
        clippy: None,
        bpffs: false,
        go: None,
        assets: own(false),
        ..complete()
    };
    let rows = judge(&facts, &ALL);
    let names = package_names(&rows);
    for name in [
        "rustc-web",
        "cargo-web",
        "rust-web-src",
        "llvm-22-dev",
        "libpolly-22-dev",
        "nginx",
        "iproute2",
        "golang-go",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let remedies = remedies(&rows);
    assert!(remedies.contains(&Remedy::Mount));
    assert!(remedies.contains(&Remedy::Components));
    assert_eq!(remedies.last(), Some(&Remedy::Testplane), "it needs the package");
    assert_eq!(remedies.iter().filter(|remedy| matches!(remedy, Remedy::Tool(_))).count(), 2);
}

#[test]
fn only_what_the_command_needs_is_judged() {
    let facts = Facts { deny: None, bpffs: false, linker: None, ..complete() };
    let whats = |purpose| judge(&facts, &[purpose]).into_iter().map(|row| row.what).collect::<Vec<_>>();
    assert_eq!(whats(Purpose::Bpf), ["BPF compiler", "bpf-linker"]);
    assert_eq!(whats(Purpose::Lints), ["rustfmt and clippy", "cargo-deny"]);
}

#[test]
fn control_planes_that_are_there_need_no_go() {
    for (assets, found) in [
        (own(true), "Kubernetes 1.36.4"),
        (Assets::Given { folder: "/assets".into(), lacking: vec![] }, "/assets"),
    ] {
        let rows = judge(&Facts { go: None, assets, ..complete() }, &[Purpose::Clusters]);
        let [row] = &rows[..] else { panic!("{rows:#?}") };
        assert_eq!((row.found.as_str(), &row.state), (found, &State::Met));
    }
}

#[test]
fn any_go_will_do_and_none_is_installed() {
    let found = |go| judge(&Facts { go, assets: own(false), ..complete() }, &[Purpose::Clusters]);
    assert_eq!(found(go("go1.26.9"))[0].found, "go1.26.9");
    let rows = found(go("go1.19.8"));
    assert_eq!((rows[0].found.as_str(), &rows[0].state), ("go1.19.8, fetches go1.26.8", &State::Met));
    assert_eq!(remedies(&rows), [Remedy::Testplane]);
    let none = Facts { go: None, present: BTreeSet::from(["apt-get"]), assets: own(false), ..complete() };
    assert_eq!(package_names(&judge(&none, &[Purpose::Clusters])), ["golang-go"]);
}

#[test]
fn a_given_folder_that_lacks_something_is_told_by_its_variable() {
    let assets = Assets::Given { folder: "/assets".into(), lacking: vec!["etcd", "kubectl"] };
    let facts = Facts { assets, ..complete() };
    let error = unmet(&facts, &judge(&facts, &[Purpose::Clusters])).unwrap_err().to_string();
    assert!(
        error.contains("KUBEBUILDER_ASSETS: /assets holds no etcd, kubectl: put there what is missing"),
        "{error}"
    );
}

#[test]
fn a_nightly_alone_will_do() {
    let present: BTreeSet<_> = looked_for().filter(|name| !name.contains("rust")).collect();
    let facts = Facts {
        compilers: vec![compiler("rustup nightly", 23)],
        linker: linker(Some(23)),
        present,
        ..complete()
    };
    let rows = judge(&facts, &[Purpose::Bpf]);
    assert!(rows.iter().all(|row| row.state == State::Met), "{rows:#?}");
}

#[test]
fn a_nightly_newer_than_the_llvm_that_apt_has_leads_to_debians_compiler() {
    let present = BTreeSet::from(["apt-get"]);
    let facts =
        Facts { compilers: vec![compiler("rustup nightly", 23)], linker: None, present, ..complete() };
    let names = package_names(&judge(&facts, &[Purpose::Bpf]));
    assert_eq!(names, ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev", "libpolly-22-dev"]);
}

#[test]
fn a_linker_older_than_the_compiler_is_built_again() {
    let facts = Facts { linker: linker(Some(19)), ..complete() };
    let rows = judge(&facts, &[Purpose::Bpf]);
    assert_eq!(state(&rows, "BPF compiler"), &State::Met);
    assert!(matches!(state(&rows, "bpf-linker"), State::Missing(Remedy::Tool(_))));
    assert!(package_names(&rows).is_empty(), "LLVM is there");
}

#[test]
fn without_apt_a_person_is_told_the_other_route() {
    let facts = Facts { compilers: vec![], linker: None, present: BTreeSet::new(), ..complete() };
    let rows = judge(&facts, &[Purpose::Bpf]);
    let error = unmet(&facts, &rows).unwrap_err().to_string();
    assert!(error.contains("rustup toolchain install nightly"), "{error}");
    assert!(error.contains("bpf-linker"), "{error}");
}

#[test]
fn without_root_the_error_holds_the_command_for_root() {
    let present: BTreeSet<_> = looked_for().filter(|name| !matches!(*name, "nginx" | "sudo")).collect();
    let facts = Facts { root: false, bpffs: false, present, ..complete() };
    let error = unmet(&facts, &judge(&facts, &ALL)).unwrap_err().to_string();
    assert!(
        error.contains("\n  apt-get update && apt-get install -y --no-install-recommends nginx && "),
        "{error}"
    );
    assert!(error.contains(" && mount -t bpf bpf /sys/fs/bpf\n"), "{error}");
}

#[test]
fn kernels_are_judged_by_version_and_options() {
    let judged = |kernel: &str| {
        let facts = Facts { kernel: kernel.into(), ..complete() };
        state(&judge(&facts, &[Purpose::World]), "Linux 6.6 or newer") == &State::Met
    };
    assert!(judged("6.6.0") && judged("6.18.44-fc") && judged("7.0-rc1"));
    assert!(!judged("6.1.0-42-amd64") && !judged("5.10") && !judged(""));

    let unread = Facts { kernel_options: None, ..complete() };
    assert_eq!(state(&judge(&unread, &[Purpose::World]), "kernel options"), &State::Unknown);
    let poor = Facts { kernel_options: Some(BTreeSet::from(["VETH".to_owned()])), ..complete() };
    let rows = judge(&poor, &[Purpose::World]);
    let State::Lacking(advice) = state(&rows, "kernel options") else { panic!("{rows:#?}") };
    assert!(advice.contains("CONFIG_NET_XGRESS") && !advice.contains("CONFIG_VETH"), "{advice}");
}

#[test]
fn a_user_is_sent_to_root_and_a_poor_root_to_whoever_made_it() {
    let user = Facts { root: false, capabilities: 0, ..complete() };
    assert_eq!(state(&judge(&user, &[Purpose::World]), "capabilities"), &State::AsRoot);
    let poor = Facts { capabilities: !(1 << 38), ..complete() };
    let rows = judge(&poor, &[Purpose::World]);
    let State::Lacking(advice) = state(&rows, "capabilities") else { panic!("{rows:#?}") };
    assert!(advice.ends_with("CAP_PERFMON"), "{advice}");
}

#[test]
fn the_table_is_aligned() {
    let row =
        |what: &str, found: &str, state| Row { what: what.into(), found: found.into(), why: "why", state };
    let rows = [row("a", "1", State::Met), row("longer", "22", State::Missing(Remedy::Mount))];
    let text = table::render(&rows, &["longer".to_owned()], false);
    assert_eq!(
        text,
        "NEEDED  STATE      FOUND  WHAT FOR\n\
         a       ok         1      why\n\
         longer  installed  22     why\n"
    );
    let coloured = table::render(&rows, &[], true);
    assert!(coloured.contains("a       \x1b[32mok     \x1b[0m  1      why\n"), "{coloured:?}");
}
