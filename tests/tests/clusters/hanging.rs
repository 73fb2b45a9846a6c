//! An API server that is there and says nothing.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::{note, notes, one};

#[test]
fn requests_to_a_paused_server_hang_until_it_goes_on() {
    let (_footprint, plane) = one();
    note(&plane, "kept");
    plane.pause().unwrap();
    TcpStream::connect(plane.servers()[0]).unwrap();
    let began = Instant::now();
    let error = plane.kubectl(&["--request-timeout=2s", "get", "--raw=/readyz"]).unwrap_err();
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}: {error:#}");
    let error = format!("{error:#}");
    assert!(error.contains("imeout") || error.contains("deadline exceeded"), "{error}");

    thread::scope(|scope| {
        let waiting = scope.spawn(|| plane.kubectl(&["get", "--raw=/readyz"]));
        thread::sleep(Duration::from_secs(1));
        assert!(!waiting.is_finished());
        plane.resume().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), "ok");
    });
    assert_eq!(notes(&plane), ["kept"]);
}

#[test]
fn a_paused_server_can_be_stopped() {
    let (_footprint, plane) = one();
    note(&plane, "kept");
    plane.pause().unwrap();
    plane.stop().unwrap();
    plane.start_again().unwrap();
    assert_eq!(notes(&plane), ["kept"]);
}
