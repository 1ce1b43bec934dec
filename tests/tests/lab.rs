//! The lab itself: links, both families, honest frames, and nothing left behind.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::lab::{CLIENT, LB, Lab, SWITCH, Topology, wait_until};
use lb_tests::packet::world::Family;
use lb_tests::packet::{describe, verify};
use lb_tests::require_root;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

const LIMIT: Duration = Duration::from_secs(5);

/// Sends `bytes` over one connection from the client to every backend and back.
fn exchange(lab: &Lab, bytes: usize) {
    let topology = *lab.topology();
    let sent: Vec<u8> = (0..bytes).map(|i| i.to_le_bytes()[0]).collect();
    for family in Family::BOTH {
        for n in 1..=topology.backends {
            let address = topology.backend(n, family);
            let listener = lab.in_ns(&topology.host_of(n), || TcpListener::bind(address).unwrap()).unwrap();
            let echo = std::thread::spawn(move || {
                let (mut stream, peer) = listener.accept().unwrap();
                let mut buffer = Vec::new();
                stream.read_to_end(&mut buffer).unwrap();
                stream.write_all(&buffer).unwrap();
                peer.ip()
            });
            let received = lab.in_ns(CLIENT, || send_and_receive(address, &sent)).unwrap();
            assert!(received == sent, "{address}");
            assert_eq!(echo.join().unwrap(), topology.client(family));
        }
    }
}

fn send_and_receive(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    received
}

#[test]
fn one_arm_carries_tcp_both_ways() {
    require_root!("one_arm_carries_tcp_both_ways");
    exchange(&Lab::new(Topology::one_arm(2)).unwrap(), 2_000_000);
}

#[test]
fn two_arms_carry_tcp_both_ways() {
    require_root!("two_arms_carry_tcp_both_ways");
    exchange(&Lab::new(Topology::two_arm(2)).unwrap(), 2_000_000);
}

#[test]
fn a_line_carries_tcp_both_ways() {
    require_root!("a_line_carries_tcp_both_ways");
    exchange(&Lab::new(Topology::line(2)).unwrap(), 2_000_000);
}

fn connect(lab: &Lab, address: SocketAddr) -> std::io::Result<()> {
    lab.in_ns(CLIENT, || TcpStream::connect_timeout(&address, Duration::from_millis(300)).map(drop)).unwrap()
}

/// Nobody has the VIP until the balancer does, and then the client's packets to it arrive there.
#[test]
fn the_vip_is_for_the_balancer() {
    require_root!("the_vip_is_for_the_balancer");
    for topology in [Topology::one_arm(1), Topology::two_arm(1)] {
        let lab = Lab::new(topology).unwrap();
        for family in Family::BOTH {
            let vip = topology.vip(family);
            assert!(connect(&lab, vip).is_err(), "nobody answers for {vip}");
            lab.exec(LB, &["ip", "addr", "add", &vip.ip().to_string(), "dev", "eth0"]).unwrap();
            // A new IPv6 address is tentative until the kernel comes to skipping its duplicate detection.
            let mut listener = None;
            wait_until("the address can be used", LIMIT, || {
                listener = lab.in_ns(LB, || TcpListener::bind(vip)).unwrap().ok();
                listener.is_some()
            })
            .unwrap();
            lab.exec(CLIENT, &["ip", "neigh", "flush", "dev", "eth0"]).unwrap();
            wait_until("the VIP answers", LIMIT, || connect(&lab, vip).is_ok()).unwrap();
            drop(listener);
        }
    }
}

/// What XDP on the balancer would see: nothing longer than the MTU, and no partial checksum.
#[test]
fn frames_at_the_balancer_are_as_on_a_wire() {
    require_root!("frames_at_the_balancer_are_as_on_a_wire");
    let lab = Lab::new(Topology::two_arm(1)).unwrap();
    let mut sniffer = lab.in_ns(LB, sniffer).unwrap();
    exchange(&lab, 200_000);
    let mut buffer = vec![0; 1 << 17];
    let mut frames = 0;
    while let Ok(length) = sniffer.read(&mut buffer) {
        let frame = &buffer[..length];
        assert!(length <= 1514, "{length} bytes");
        verify(frame).unwrap_or_else(|e| panic!("{e}: {}", describe(frame)));
        frames += 1;
    }
    assert!(frames > 500, "{frames} frames seen");
}

/// A packet socket on every interface of the caller's namespace.
fn sniffer() -> Socket {
    let all = Protocol::from(i32::from(3u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::from(libc::SOCK_RAW), Some(all)).unwrap();
    socket.set_recv_buffer_size(64 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

#[test]
fn nothing_is_left_behind() {
    require_root!("nothing_is_left_behind");
    let lab = Lab::new(Topology::one_arm(1)).unwrap();
    let names = [CLIENT, LB, SWITCH].map(|host| lab.namespace(host).unwrap().to_owned());
    let pid = lab.spawn(CLIENT, Command::new("sleep").arg("600")).unwrap().keep();
    drop(lab);
    for name in names {
        assert!(!Path::new("/run/netns").join(&name).exists(), "{name} is left");
    }
    wait_until("the process ends", LIMIT, || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    })
    .unwrap();
}

/// Ctrl-C in a program that has a lab.
#[test]
fn nothing_is_left_behind_after_a_signal() {
    require_root!("nothing_is_left_behind_after_a_signal");
    let mut holder = Command::new(env!("CARGO_BIN_EXE_lab-hold"))
        .args(["--arms", "1", "--backends", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let names: Vec<String> =
        lines.map(Result::unwrap).take_while(|line| !line.is_empty()).map(|line| last_word(&line)).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().all(|name| Path::new("/run/netns").join(name).exists()), "{names:?}");
    kill(Pid::from_raw(holder.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(holder.wait().unwrap().code(), Some(130));
    assert!(!names.iter().any(|name| Path::new("/run/netns").join(name).exists()), "{names:?}");
}

fn last_word(line: &str) -> String {
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn code_and_commands_run_in_their_host() {
    require_root!("code_and_commands_run_in_their_host");
    let lab = Lab::new(Topology::one_arm(1)).unwrap();
    let address = lab.topology().client(Family::V4);
    assert!(lab.exec(CLIENT, &["ip", "-o", "addr"]).unwrap().contains(&address.to_string()));
    assert!(lab.in_ns(CLIENT, || can_bind(address)).unwrap());
    assert!(!can_bind(address), "the thread of the test stays outside");
    let error = lab.exec(CLIENT, &["ip", "link", "show", "nothing"]).unwrap_err().to_string();
    assert!(error.contains("nothing") && error.contains("client"), "{error}");
    assert!(lab.exec("nobody", &["true"]).is_err());
}

fn can_bind(address: IpAddr) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}
