//! Connections that die without a word, while the server is well.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fairlead_tests::control_plane::User;

use super::followed::{Followed, has_web, ours, slice};
use super::one;

/// Passes on what connections say, until they are told to be silent for ever; later ones are not.
struct Between {
    address: SocketAddr,
    /// Connections up to this number are silent.
    silent: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
}

impl Between {
    fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let this = Self { address, silent: Arc::clone(&silent), accepted: Arc::clone(&accepted) };
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else { continue };
                let number = accepted.fetch_add(1, Ordering::SeqCst) + 1;
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let silent = Arc::clone(&silent);
                    thread::spawn(move || pass_on(from, to, || silent.load(Ordering::SeqCst) >= number));
                }
            }
        });
        this
    }

    /// From now on nothing comes through connections that there are.
    fn silence(&self) {
        self.silent.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_silent: impl Fn() -> bool) {
    let mut bytes = [0; 16_384];
    loop {
        match from.read(&mut bytes) {
            // As where a firewall has forgotten the connection: it stays open.
            _ if is_silent() => thread::sleep(Duration::from_secs(300)),
            Ok(0) => break,
            Ok(read) if to.write_all(&bytes[..read]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // It may be closed already.
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn watches_that_died_without_a_word_are_begun_anew() {
    let (_footprint, plane) = one();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    let between = Between::start(plane.servers()[0]);
    let kubeconfig = plane.kubeconfig_at(between.address, &User::admin()).unwrap();
    let file = plane.write_kubeconfig("between.kubeconfig", &kubeconfig).unwrap();
    let mut followed = Followed::by(&plane, &file);
    followed.until_read();
    between.silence();
    plane.apply(&slice("web-1", "web", &["10.1.0.2"])).unwrap();
    followed.until("what was said meanwhile counts", |followed| has_web(followed.said(), &["10.1.0.2"]));
    plane.apply(&slice("web-1", "web", &["10.1.0.3"])).unwrap();
    followed.until("changes are followed", |followed| has_web(followed.said(), &["10.1.0.3"]));
    followed.until_read();
}
