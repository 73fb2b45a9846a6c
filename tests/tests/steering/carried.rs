//! Connections while the receiver's tables of flows are replaced: their endpoint may be the one that speaks next.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fairlead_abi::{FlowEntry, FlowKey, FlowState};
use fairlead_tests::world::{Agent, Federation, HTTP_PORT, PINS, Plan, Pod};
use nix::sys::signal::Signal;

use crate::served::{PATIENCE, Served, wait};
use crate::upgrade::restart;

/// Idle connections to each VIP.
const IDLE: usize = 8;
/// What a download is made of: its bytes count up to here, again and again.
const PERIOD: u8 = 251;

/// A server in a pod's place. What a client sends first decides: `i`, it says the same and is silent from then on; `d`, it
/// sends without an end. A probe sends nothing.
struct Speaker {
    silent: Arc<Mutex<Vec<TcpStream>>>,
}

impl Speaker {
    fn replace(pod: &Pod) -> Self {
        pod.kill().unwrap();
        let silent = Arc::new(Mutex::new(Vec::new()));
        for address in pod.addresses() {
            let bind = || Ok(TcpListener::bind(SocketAddr::new(address, HTTP_PORT))?);
            let listener = pod.namespace.run(bind).unwrap();
            let silent = Arc::clone(&silent);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let silent = Arc::clone(&silent);
                    thread::spawn(move || serve(stream.unwrap(), &silent));
                }
            });
        }
        Self { silent }
    }

    /// Says something to all that it was silent to.
    fn speak(&self) {
        for stream in &mut *self.silent.lock().unwrap() {
            stream.write_all(b"s").unwrap();
        }
    }
}

fn serve(mut stream: TcpStream, silent: &Mutex<Vec<TcpStream>>) {
    let mut first = [0];
    match stream.read(&mut first) {
        Ok(1) if first == *b"i" => {
            stream.set_nodelay(true).unwrap();
            // Known before the client hears of it.
            silent.lock().unwrap().push(stream.try_clone().unwrap());
            stream.write_all(b"i").unwrap();
        }
        Ok(1) => {
            let pattern: Vec<u8> = (0..PERIOD).collect::<Vec<_>>().repeat(64);
            while stream.write_all(&pattern).is_ok() {}
        }
        _ => {}
    }
}

/// A download that is read as it comes, at a pace that leaves the server something to send all the time.
struct Download {
    read: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    reader: JoinHandle<Result<(), String>>,
}

impl Download {
    fn start(mut stream: TcpStream) -> Self {
        stream.write_all(b"d").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (read, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (Arc::clone(&read), Arc::clone(&ended));
        let reader = thread::spawn(move || {
            let (mut buffer, mut next) = (vec![0; 16 * 1024], 0);
            while !end.load(Ordering::Relaxed) {
                let count = stream.read(&mut buffer).map_err(|error| format!("broken: {error}"))?;
                if count == 0 {
                    return Err("closed".to_owned());
                }
                for &byte in &buffer[..count] {
                    if byte != next {
                        return Err(format!("{byte} where {next} should be"));
                    }
                    next = (next + 1) % PERIOD;
                }
                counter.fetch_add(count as u64, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        Self { read, ended, reader }
    }

    fn wait_for_more(&self) {
        let before = self.read.load(Ordering::Relaxed);
        let goes_on = || self.read.load(Ordering::Relaxed) > before + 1_000_000;
        wait("more of a download", || goes_on() || self.reader.is_finished());
    }

    fn end(self) -> Result<(), String> {
        self.ended.store(true, Ordering::Relaxed);
        self.reader.join().unwrap()
    }
}

/// A pod's connections: idle ones, and a download over each IP version.
struct Connections {
    served: Served,
    speaker: Speaker,
    idle: Vec<TcpStream>,
    downloads: Vec<Download>,
}

impl Connections {
    fn open() -> Self {
        let plan = Plan::default().region("us-central1", &["a"], 1);
        let served = Served::build(&plan, &Federation::default());
        served.wait_until_served();
        let speaker = Speaker::replace(&served.world.pods()[0]);
        let (mut idle, mut downloads) = (Vec::new(), Vec::new());
        for &vip in &served.service.vips {
            for _ in 0..IDLE {
                let mut stream = connect(&served, vip);
                say(&mut stream);
                idle.push(stream);
            }
            downloads.push(Download::start(connect(&served, vip)));
        }
        Self { served, speaker, idle, downloads }
    }

    fn node(&self) -> &Agent {
        self.served.node(0)
    }

    /// What the receiver knows of the idle ones.
    fn known(&self) -> BTreeMap<FlowKey, FlowEntry> {
        let clients: Vec<_> = self.idle.iter().map(|stream| stream.local_addr().unwrap()).collect();
        let is_ours = |key: &FlowKey| {
            let port = u16::from_be_bytes(key.client_port);
            clients.iter().any(|client| key.client == client.ip().into() && port == client.port())
        };
        self.node().flows().unwrap().into_iter().filter(|(key, _)| is_ours(key)).collect()
    }

    /// Restarts the node's agent; `change` is done in between. No packet tells the new tables of the idle connections, and
    /// yet they know them as before; then the server is the first to speak.
    fn outlive(&mut self, change: impl Fn(&Agent)) {
        let before = self.known();
        assert_eq!(before.len(), self.idle.len());
        assert!(before.values().all(|flow| flow.state == FlowState::Established as u8));
        restart(self.node(), || change(self.node()));
        assert_eq!(self.known(), before, "{}", self.node().process().log());
        self.speaker.speak();
        for stream in &mut self.idle {
            hear(stream);
        }
        self.downloads.iter().for_each(Download::wait_for_more);
    }

    fn close(self) {
        for download in self.downloads {
            assert_eq!(download.end(), Ok(()), "a download is broken");
        }
    }
}

fn connect(served: &Served, vip: IpAddr) -> TcpStream {
    let address = SocketAddr::new(vip, served.service.http_port);
    let connect = || Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?);
    served.client().namespace.run(connect).unwrap()
}

/// The client speaks, and the server answers.
fn say(stream: &mut TcpStream) {
    stream.write_all(b"i").unwrap();
    hear(stream);
}

fn hear(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = stream.read_exact(&mut [0]).map_err(|error| error.kind());
    assert_eq!(heard, Ok::<(), ErrorKind>(()), "a connection is broken: {stream:?}");
}

/// Sets a capacity in an agent's configuration.
fn set(agent: &Agent, capacity: &str, entries: u32) {
    let text = fs::read_to_string(agent.configuration()).unwrap();
    let start = text.find(&format!("  {capacity}: ")).unwrap();
    let end = start + text[start..].find('\n').unwrap();
    let changed = format!("{}  {capacity}: {entries}{}", &text[..start], &text[end..]);
    fs::write(agent.configuration(), changed).unwrap();
}

/// The tables become another version's; links hold on to them meanwhile.
fn rename(agent: &Agent, version: &str) {
    let pins = Path::new(PINS).join(agent.instance());
    fs::rename(pins.join("v4"), pins.join(version)).unwrap();
}

#[test]
fn connections_outlive_larger_and_smaller_tables_of_flows() {
    let mut connections = Connections::open();
    connections.outlive(|agent| set(agent, "flows", 32_768));
    connections.outlive(|agent| set(agent, "halfOpen", 1024));
    connections.outlive(|agent| {
        set(agent, "flows", 2048);
        set(agent, "halfOpen", 8192);
    });
    connections.close();
}

#[test]
fn connections_outlive_another_version_of_the_tables() {
    let mut connections = Connections::open();
    connections.outlive(|agent| rename(agent, "v0"));
    connections.outlive(|agent| {
        rename(agent, "v5");
        set(agent, "flows", 32_768);
        set(agent, "halfOpen", 8192);
    });
    connections.close();
}

#[test]
fn connections_outlive_an_agent_that_ends_between_switching_and_settling() {
    let mut connections = Connections::open();
    let node = connections.node();
    let configuration = fs::read_to_string(node.configuration()).unwrap();
    node.process().signal(Signal::SIGTERM).unwrap();
    assert_eq!(node.process().wait(PATIENCE).unwrap().code(), Some(0));
    // The first interface is switched, the second ends the agent.
    let two = configuration.replace("interfaces: [eth0]", "interfaces: [eth0, eth9]");
    assert_ne!(two, configuration);
    fs::write(node.configuration(), two).unwrap();
    set(node, "flows", 32_768);
    node.process().start_again().unwrap();
    assert_eq!(node.process().wait(PATIENCE).unwrap().code(), Some(1));
    // By now only the tables that were built beside the pinned ones are in use.
    for &vip in &connections.served.service.vips {
        let mut stream = connect(&connections.served, vip);
        say(&mut stream);
        connections.idle.push(stream);
    }
    let node = connections.node();
    fs::write(node.configuration(), configuration).unwrap();
    set(node, "flows", 65_536);
    node.process().start_again().unwrap();
    node.wait_until_ready(PATIENCE).unwrap();
    assert_eq!(connections.known().len(), connections.idle.len());
    connections.speaker.speak();
    connections.idle.iter_mut().for_each(hear);
    // The same where it ends when only the new ones are left.
    connections.outlive(|agent| rename(agent, "v4-switched"));
    connections.close();
}

#[test]
fn what_is_not_carried_over_is_told_and_found_again_by_its_client() {
    let mut connections = Connections::open();
    let node = connections.node();
    restart(node, || set(node, "flows", 4));
    let log = node.process().log();
    assert!(log.contains("the new table is too small for all flows"), "{log}");
    assert!(log.contains("flows carried over"), "{log}");
    connections.idle.iter_mut().for_each(|stream| stream.write_all(b"i").unwrap());
    wait("flows of all", || connections.known().len() == connections.idle.len());
    connections.speaker.speak();
    connections.idle.iter_mut().for_each(hear);

    let node = connections.node();
    restart(node, || {
        rename(node, "v0");
        let layout = Path::new(PINS).join(node.instance()).join("v0/FLOWS_LAYOUT");
        fs::remove_file(&layout).unwrap();
        symlink("another", &layout).unwrap();
    });
    let log = node.process().log();
    assert!(log.contains("flows are not carried over, for another version made them"), "{log}");
    connections.idle.iter_mut().for_each(|stream| stream.write_all(b"i").unwrap());
    wait("flows of all", || connections.known().len() == connections.idle.len());
    connections.speaker.speak();
    connections.idle.iter_mut().for_each(hear);
}
