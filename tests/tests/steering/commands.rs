//! What the commands print, for people and for programs, with an agent and without, and what they say to wrong input.

use std::fs;
use std::process::Command;

use fairlead_tests::world::{Agent, Condition, Federation, Plan, Process, own_program};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::served::{PATIENCE, Served, wait};

/// What is asked; `explain` has its flow.
const QUESTIONS: [&[&str]; 8] = [
    &["status"],
    &["services"],
    &["backends"],
    &["backends", "shop/web"],
    &["explain", "192.0.2.1:40000", "203.0.113.1:80"],
    &["plan"],
    &["counters"],
    &["flows"],
];

fn text(agent: &Agent, question: &[&str]) -> String {
    let configuration = agent.configuration().display().to_string();
    agent.fairlead(&[question, &["--config", &configuration]].concat()).unwrap()
}

/// The lines of a table, their columns parted by one space.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_command_answers_people_and_programs_with_and_without_an_agent() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let pid = agent.process().pid().unwrap();
    wait("the agent's state on disk", || agent.ask(&["status"]).unwrap()["ready"] == true);
    assert_answers(agent, true);
    let status = lines(&text(agent, &["status"]));
    assert!(
        status[0].starts_with(&format!("agent running, pid {pid}, version 0.1.0, its state is ")),
        "{status:?}"
    );
    for line in [
        &format!("node {}, gateway, group us-central1", agent.host()),
        "ready yes",
        "eth0 native attached",
        "us-central1-a 1 read",
    ] {
        assert!(status.iter().any(|have| have == line), "{line} is not in {status:#?}");
    }

    agent.process().kill().unwrap();
    assert_answers(agent, false);
    let status = lines(&text(agent, &["status"]));
    assert!(status[0].starts_with("agent not running; forwarding goes on without it"), "{status:?}");
    let services = text(agent, &["services"]);
    assert!(services.ends_with("; no agent runs\n"), "{services}");

    // Numbers are the maps' own; names and reasons were the agent's.
    fs::remove_file(agent.configuration().with_file_name("state").join("status.json")).unwrap();
    let explained = agent.ask(QUESTIONS[4]).unwrap();
    assert_eq!((&explained["state_age_seconds"], &explained["backend"]["pod"]), (&Value::Null, &Value::Null));
    assert!(explained["backend"]["address"].as_str().unwrap().starts_with("198.18.1."), "{explained:#}");
    assert!(text(agent, QUESTIONS[4]).contains("names and reasons are not known; no agent runs"));
}

fn assert_answers(agent: &Agent, running: bool) {
    for question in QUESTIONS {
        let document = agent.ask(question).unwrap();
        let told = document.get("agent_running").or_else(|| document["agent"].get("running"));
        // A plan is what an agent that started now would do: whether one runs is nothing to it.
        assert!(told == Some(&json!(running)) || question == ["plan"], "{question:?}: {document:#}");
        let text = text(agent, question);
        assert!(text.ends_with('\n') && !text.contains('\x1b'), "{question:?}: {text}");
    }
    let services = agent.ask(&["services"]).unwrap();
    let ports: Vec<_> =
        services["services"].as_array().unwrap().iter().map(|service| &service["taking"]).collect();
    assert_eq!(ports, [2; 4], "{services:#}");
    let services = lines(&text(agent, &["services"])).join("\n");
    for vip in ["203.0.113.1 80/tcp", "203.0.113.1 7/udp", "2001:db8:f::1 80/tcp", "2001:db8:f::1 7/udp"] {
        assert!(services.contains(vip), "{vip} is not in {services}");
    }
    let backends = text(agent, &["backends", "shop/web"]);
    let explained = text(agent, QUESTIONS[4]);
    for pod in ["pod-us-central1-a-1", "pod-us-central1-a-2"] {
        assert!(backends.contains(pod), "{pod} is not in {backends}");
        assert!(explained.contains(pod), "{pod} is not in {explained}");
    }
    assert!(text(agent, &["plan"]).starts_with("nothing would change\n"));
}

#[test]
fn wrong_input_is_told_and_fails() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let configuration = agent.configuration().display().to_string();
    let text = fs::read_to_string(agent.configuration()).unwrap();
    let nobodys = format!("{configuration}.nobodys.yaml");
    fs::write(&nobodys, text.replace(agent.instance(), "nobodys")).unwrap();
    let spoilt = format!("{configuration}.spoilt.yaml");
    fs::write(&spoilt, text.replace("seed:", "sead:")).unwrap();
    let own = ["--config", &configuration];
    let rows: [(&[&str], i32, &str); 11] = [
        (&["backends", "shop/nothing"], 1, "shop/nothing"),
        (&["explain", "192.0.2.1:40000", "203.0.113.99:80"], 1, "203.0.113.99"),
        (&["explain", "192.0.2.1:40000", "203.0.113.1:81"], 1, "81"),
        (&["explain", "192.0.2.1:40000", "[2001:db8:f::1]:80"], 1, "are of different IP versions"),
        (&["explain", "192.0.2.256", "203.0.113.1:80"], 2, "192.0.2.256"),
        (&["explain", "192.0.2.1:99999", "203.0.113.1:80"], 2, "192.0.2.1:99999"),
        (&["explain", "192.0.2.1"], 2, "VIP[:PORT][/udp]"),
        (&["stauts"], 2, "stauts"),
        (&["status", "--config", &nobodys], 1, "no tables of instance nobodys"),
        (&["plan", "--config", &spoilt], 1, "sead"),
        (&["status", "--config", "/nonexistent.yaml"], 1, "/nonexistent.yaml"),
    ];
    for (arguments, code, words) in rows {
        let all =
            if arguments.contains(&"--config") { arguments.to_vec() } else { [arguments, &own].concat() };
        let error = format!("{:#}", agent.fairlead(&all).unwrap_err());
        assert!(
            error.contains(&format!("exit status: {code}: ")) && error.contains(words),
            "{arguments:?}: {error}"
        );
    }
    // Programs get a document all the same.
    for (vip, drop) in [("203.0.113.1:81", json!("port_not_served")), ("203.0.113.99:80", Value::Null)] {
        let told = agent.ask_in_vain(&["explain", "192.0.2.1:40000", vip]).unwrap();
        assert_eq!((&told["drop"]["reason"], &told["service"]), (&drop, &Value::Null), "{told:#}");
        assert!(told["not_steered"].as_str().unwrap().contains(&vip[..11]), "{told:#}");
    }
}

#[test]
fn a_configuration_that_does_not_hold_keeps_only_a_plan_from_an_answer() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let text = fs::read_to_string(agent.configuration()).unwrap();
    let whole = agent.ask(&["explain", "192.0.2.1:40000", "203.0.113.1:80"]).unwrap();
    assert!(whole["backend"]["pod"].is_string(), "{whole:#}");
    for (spoilt, words) in [(text.replace("seed:", "sead:"), "sead"), (format!("{text}}}{{ [\n"), "not YAML")]
    {
        fs::write(agent.configuration(), spoilt).unwrap();
        for question in QUESTIONS.iter().filter(|question| question[0] != "plan") {
            agent.ask(question).unwrap();
        }
        let status = agent.ask(&["status"]).unwrap();
        assert!(status["configuration"].as_str().unwrap().contains(words), "{status:#}");
        assert_eq!((&status["node"], &status["agent"]["running"]), (&json!(agent.host()), &json!(true)));
        let told = agent.ask(&["explain", "192.0.2.1:40000", "203.0.113.1:80"]).unwrap();
        assert_eq!((&told["slot"], &told["backend"]["pod"]), (&whole["slot"], &whole["backend"]["pod"]));
        assert!(agent.ask(&["plan"]).is_err());
    }
}

#[test]
fn counters_are_watched_until_ctrl_c() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let configuration = agent.configuration().display().to_string();
    let printed = agent.configuration().with_file_name("watched");
    let watch = Process::start(
        "fairlead counters",
        served.world.namespace(agent.host()).unwrap(),
        &own_program("fairlead", "FAIRLEAD_BIN").unwrap(),
        &["counters", "--watch", "-o", "json", "--config", &configuration],
        &printed,
    )
    .unwrap();
    let lines = || fs::read_to_string(&printed).unwrap().lines().count();
    wait("a first reading", || lines() > 0);
    let asked = served.answering().len();
    assert_eq!(asked, 2);
    let first = lines();
    wait("more readings", || lines() > first);
    watch.signal(Signal::SIGINT).unwrap();
    let ended = watch.wait(PATIENCE).unwrap();
    assert!(ended.success(), "Ctrl-C is how it is meant to end: {ended}");
    let text = fs::read_to_string(&printed).unwrap();
    let readings: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let connections = |reading: &Value| {
        let services = reading["services"].as_array().unwrap().iter();
        services.map(|service| service["connections"].as_u64().unwrap()).sum::<u64>()
    };
    assert!(connections(&readings[first]) >= connections(&readings[0]) + 120, "{text}");
    assert_eq!(readings[0]["seconds"], Value::Null);
    assert!((0.9..20.0).contains(&readings[1]["seconds"].as_f64().unwrap()), "{text}");
}

fn fairlead(arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = own_program("fairlead", "FAIRLEAD_BIN").unwrap();
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_configuration_is_checked_and_described() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.example.yaml");
    let (code, checked, error) = fairlead(&["config", "check", example]);
    assert_eq!((code, &*error), (Some(0), ""));
    let (problems, missing) = checked.split_once('\n').unwrap();
    assert_eq!(problems, format!("{example}: no problem"));
    for what in ["clusters[0].kubeconfig: ", "clusters[2].manifests: the directory "] {
        let is_told = |line: &str| line.starts_with(&format!("not on this machine: {what}"));
        assert!(missing.lines().any(is_told), "{what}: {missing}");
    }
    let text = fs::read_to_string(example).unwrap();
    let spoilt = std::env::temp_dir().join(format!("fairlead-spoilt-{}.yaml", std::process::id()));
    fs::write(&spoilt, text.replace("seed:", "sead:").replace("[gateway, receiver]", "[gatewya]")).unwrap();
    let name = spoilt.display().to_string();
    let (code, problems, error) = fairlead(&["config", "check", &name]);
    let (_, json, _) = fairlead(&["config", "check", &name, "-o", "json"]);
    fs::remove_file(spoilt).unwrap();
    assert_eq!(code, Some(1), "{problems}");
    assert!(error.contains("problems"), "{error}");
    let line = |words: &str| 1 + text.lines().position(|line| line.contains(words)).unwrap();
    for (line, field) in [(line("seed:"), "sead"), (line("roles:"), "node.roles")] {
        let is_told = |told: &str| told.starts_with(&format!("{name}:{line}:")) && told.contains(field);
        assert!(problems.lines().any(is_told), "line {line}, {field}: {problems}");
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["problems"].as_array().unwrap().len(), problems.lines().count());

    let (code, schema, _) = fairlead(&["config", "schema"]);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!((code, &schema["additionalProperties"]), (Some(0), &json!(false)));
    for section in ["node", "clusters", "gateways", "vipPools", "distances", "probes", "capacities", "seed"] {
        assert!(schema["properties"][section].is_object(), "{section} is not in {schema:#}");
    }
}

#[test]
fn bash_completes_commands() {
    let (code, script, _) = fairlead(&["completion", "bash"]);
    assert_eq!(code, Some(0));
    let said = |words: &str, at: usize| {
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={at}; _fairlead fairlead \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{}]}}\"; \
             echo ${{COMPREPLY[@]}}",
            at - 1
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said("fairlead co", 1), "config counters completion\n");
    assert!(said("fairlead drain ''", 2).ends_with(" pod node cluster zone\n"));
    assert_eq!(said("fairlead drain node n1 --w", 4), "--wait\n");
}

#[test]
fn no_shell_shows_what_is_only_for_readers_of_the_source() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, script, _) = fairlead(&["completion", shell]);
        assert_eq!(code, Some(0), "{shell}");
        assert!(script.contains("explain") && !script.contains("hidden"), "{shell}: {script}");
    }
}

#[test]
fn a_plan_needs_no_tables() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let text = fs::read_to_string(agent.configuration()).unwrap();
    // Beside the agent's own file: paths in it are relative.
    let new = agent.configuration().with_file_name("new.yaml");
    fs::write(&new, text.replace(agent.instance(), "new")).unwrap();
    let plan = ["plan", "--config", &new.display().to_string()];
    let told: Value =
        serde_json::from_str(&agent.fairlead(&[&plan[..], &["-o", "json"]].concat()).unwrap()).unwrap();
    let published = |row: &&Value| {
        row["action"] == "publish service" && row["subject"].as_str().unwrap().ends_with(":80/tcp")
    };
    let actions = told["actions"].as_array().unwrap();
    assert_eq!(actions.iter().filter(published).count(), 2, "in each IP version: {told:#}");
    assert_eq!((&told["installed_fingerprint"], &told["refused"]), (&Value::Null, &Value::Null));
    let told = agent.fairlead(&plan).unwrap();
    assert!(told.contains("note: there are no tables of instance new yet: everything is new."), "{told}");
    assert!(told.contains(&format!("{} actions\n", actions.len())), "{told}");
}

#[test]
fn gateways_of_a_group_steer_alike_however_their_manifests_are_laid_out() {
    let served = Served::build(
        &Plan::default().region("us-central1", &["a", "b"], 3).gateways(2),
        &Federation::default(),
    );
    served.wait_until_served();
    let [one, other] = served.world.gateways_of("us-central1")[..] else { panic!("two gateways") };
    let (one, other) = (served.agents.of(one), served.agents.of(other));
    // The other reads the same objects of one cluster as a single file, in the opposite order.
    let manifests = served.world.manifests("us-central1-a");
    let laid_out = served.world.directory().join("laid-out");
    fs::create_dir(&laid_out).unwrap();
    let lay_out = || {
        let mut files: Vec<_> =
            fs::read_dir(manifests.directory()).unwrap().map(|file| file.unwrap().path()).collect();
        files.retain(|file| !file.file_name().unwrap().to_string_lossy().starts_with('.'));
        files.sort();
        let documents: Vec<_> = files.iter().rev().map(|file| fs::read_to_string(file).unwrap()).collect();
        fs::write(laid_out.join(".new"), documents.join("---\n")).unwrap();
        fs::rename(laid_out.join(".new"), laid_out.join("all.yaml")).unwrap();
    };
    lay_out();
    let text = fs::read_to_string(other.configuration()).unwrap();
    let text = text.replace(&manifests.directory().display().to_string(), &laid_out.display().to_string());
    fs::write(other.configuration(), text).unwrap();
    let fingerprints = || {
        let of = |agent: &Agent| agent.ask(&["status"]).unwrap()["fingerprint"].clone();
        (of(one), of(other))
    };
    let (before, _) = fingerprints();
    manifests.set("pod-us-central1-a-2", Condition::Terminating).unwrap();
    lay_out();
    wait("the same other slots", || {
        let (one, other) = fingerprints();
        one == other && one != before && one["wanted"] == one["installed"]
    });
    // As a new agent makes it, too: histories differ, slots don't.
    other.process().kill().unwrap();
    other.process().start_again().unwrap();
    other.wait_until_ready(PATIENCE).unwrap();
    let (one, other) = fingerprints();
    assert_eq!(one, other);
}
