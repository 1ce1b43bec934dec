//! What the data path says in its own words, to the byte: SYNs that are sent on to another backend, and RSTs.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a panic here is how a test fails")]

use lb_agent::dataplane::Counters;
use lb_agent::model::HealthState;
use lb_common::reason::Reason;
use lb_tests::harness::{
    BACKEND_NEXT, CLIENT_NEXT, FRONT, Flow, Harness, World, drops, passes, reset, resets, sends,
};
use lb_tests::packet::TcpOption::{
    MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
};
use lb_tests::packet::world::{BACKENDS, CLIENT, Endpoint, Family, VIP};
use lb_tests::packet::{Packet, TcpOption, describe, tcp, verify};
use lb_tests::require_data_path;

/// Sequence number of the client's SYN.
const ISN: u32 = CLIENT_NEXT - 1;
/// The tag of the client's packets, and those of each backend's, where there are tags.
const CLIENT_TAG: u16 = 5;
const BACKEND_TAGS: [&[u16]; 3] = [&[], &[30], &[30, 40]];

/// A balancer whose wires may have tags: none, one and two before the three backends.
struct Wires {
    lb: Harness,
    tagged: bool,
    family: Family,
    client: Endpoint,
}

impl Wires {
    /// Each combination of family and tags.
    fn each(change: impl Fn(&mut World), test: impl Fn(&mut Self)) {
        for tagged in [false, true] {
            let mut world = World::default();
            if tagged {
                BACKENDS.into_iter().zip(BACKEND_TAGS).for_each(|(b, tags)| world.add_hop(b, FRONT, tags));
            }
            change(&mut world);
            let mut wires = Self { lb: Harness::new(world), tagged, family: Family::V4, client: CLIENT };
            for family in Family::BOTH {
                wires.family = family;
                test(&mut wires);
            }
        }
    }

    /// A packet between the balancer and the client, with its tags.
    fn outside(&self, packet: Packet) -> Packet {
        if self.tagged { packet.vlan(CLIENT_TAG) } else { packet }
    }

    /// A packet between the balancer and a backend, with its tags.
    fn inside(&self, packet: Packet, backend: Endpoint) -> Packet {
        let tags =
            BACKENDS.into_iter().zip(BACKEND_TAGS).find(|(b, _)| *b == backend).map_or(&[][..], |b| b.1);
        tags.iter().filter(|_| self.tagged).fold(packet, |packet, tag| packet.vlan(*tag))
    }

    fn client_sends(&self, packet: &Packet) -> Packet {
        self.outside(packet.clone().from(self.client).to(VIP))
    }

    fn client_gets(&self, packet: &Packet) -> Packet {
        self.outside(packet.clone().from(VIP).to(self.client))
    }

    fn backend_sends(&self, packet: &Packet, flow: Flow) -> Packet {
        self.inside(packet.clone().from(flow.backend).to(flow.snat), flow.backend)
    }

    fn backend_gets(&self, packet: &Packet, flow: Flow) -> Packet {
        self.inside(packet.clone().from(flow.snat).to(flow.backend), flow.backend)
    }

    /// Sends the SYN of a client that has not been here before, which must leave exactly rewritten.
    #[track_caller]
    fn open(&mut self, syn: &Packet) -> Flow {
        self.client.port += 1;
        self.open_again(syn)
    }

    /// The same of a client that has.
    #[track_caller]
    fn open_again(&mut self, syn: &Packet) -> Flow {
        let came = self.client_sends(syn);
        let flow = self.lb.learn(self.client, &came);
        let leaves = self.backend_gets(syn, flow).forwarded();
        self.lb.check("SYN", &came, &sends(leaves));
        flow
    }

    /// Checks a packet from the client that is forwarded to the flow's backend.
    #[track_caller]
    fn up(&mut self, about: &str, packet: &Packet, flow: Flow) {
        let (came, leaves) = (self.client_sends(packet), self.backend_gets(packet, flow).forwarded());
        self.lb.check(about, &came, &sends(leaves));
    }

    /// Checks a packet from the flow's backend that is forwarded to the client.
    #[track_caller]
    fn down(&mut self, about: &str, packet: &Packet, flow: Flow) {
        let (came, leaves) = (self.backend_sends(packet, flow), self.client_gets(packet).forwarded());
        self.lb.check(about, &came, &sends(leaves));
    }

    /// Sends the backend's refusal, which must leave as this SYN to another backend, from the same port. Gives the flow as it
    /// is then.
    #[track_caller]
    fn moves(&mut self, refusal: &Packet, syn: &Packet, flow: Flow) -> Flow {
        let before = self.retried();
        let ran = self.lb.run(&self.backend_sends(refusal, flow).build());
        let to = BACKENDS.into_iter().find(|b| b.mac == ran.frame[..6]);
        let Some(backend) = to.filter(|b| *b != flow.backend) else {
            panic!("{:?} to no other backend: {}", ran.action, describe(&ran.frame))
        };
        let moved = Flow { backend, ..flow };
        let wanted = self.backend_gets(syn, moved).build();
        assert_eq!(describe(&ran.frame), describe(&wanted));
        assert_eq!(ran.frame, wanted);
        verify(&ran.frame).unwrap();
        assert_eq!(self.retried(), before + 1);
        moved
    }

    fn retried(&self) -> u64 {
        self.lb.dataplane().counters().reasons().unwrap()[Reason::SynRetried as usize]
    }

    /// A refusal as a Linux host sends it.
    fn refusal(&self) -> Packet {
        ours(tcp(self.family).rst().seq(0).ack(ISN + 1).window(0))
    }

    fn health(&mut self, backend: Endpoint, state: HealthState) {
        let address = backend.socket(self.family);
        self.lb.change(|world| {
            world.health.iter_mut().filter(|(key, _)| key.address == address).for_each(|(_, s)| *s = state);
        });
    }
}

/// A packet that begins at a host: not to be fragmented, and without a number.
fn ours(packet: Packet) -> Packet {
    match packet.family() {
        Family::V4 => packet.dont_fragment(true).id(0),
        Family::V6 => packet,
    }
}

fn syn(family: Family) -> Packet {
    tcp(family).syn().seq(ISN).window(0xabcd).syn_options()
}

/// What the second SYN has of the first: numbers, window and options.
#[test]
fn a_refused_syn_is_sent_to_another_backend() {
    require_data_path!("a_refused_syn_is_sent_to_another_backend");
    Wires::each(
        |_| {},
        |wires| {
            for padding in [0, 6, 30] {
                let syn = syn(wires.family);
                let first = wires.open(&syn);
                let refusal = wires.refusal().trailer(&vec![0; padding]);
                let second = wires.moves(&refusal, &ours(syn.clone()), first);
                let third = wires.moves(&refusal, &ours(syn), second);
                assert!(third.backend != first.backend, "never the same twice");
                wires.down("the third refusal", &refusal, third);
                wires.down("the third refusal again", &refusal, third);
            }
        },
    );
}

/// Options in any order, and such as are not kept.
#[test]
fn a_syn_keeps_its_options() {
    require_data_path!("a_syn_keeps_its_options");
    let nops = |n: usize| vec![Noop; n];
    let all = |mss, scale: &[TcpOption]| {
        [&[MaximumSegmentSize(mss), SelectiveAcknowledgementPermitted][..], &nops(10), scale].concat()
    };
    let none = Vec::new();
    let windows =
        vec![MaximumSegmentSize(1440), Noop, WindowScale(8), Noop, Noop, SelectiveAcknowledgementPermitted];
    let macos = vec![
        MaximumSegmentSize(1460),
        Noop,
        WindowScale(6),
        Noop,
        Noop,
        Timestamp(7, 0),
        SelectiveAcknowledgementPermitted,
    ];
    let macos_out = vec![
        MaximumSegmentSize(1460),
        SelectiveAcknowledgementPermitted,
        Timestamp(7, 0),
        Noop,
        WindowScale(6),
    ];
    let rows = [
        (none, nops(20)),
        (windows, all(1440, &[Noop, WindowScale(8)])),
        (vec![MaximumSegmentSize(536)], [vec![MaximumSegmentSize(536)], nops(16)].concat()),
        (macos, macos_out),
    ];
    Wires::each(
        |_| {},
        |wires| {
            for (came, leaves) in &rows {
                let bare = tcp(wires.family).syn().seq(ISN).window(1);
                let flow = wires.open(&bare.clone().tcp_options(came));
                let refusal = wires.refusal();
                wires.moves(&refusal, &ours(bare.tcp_options(leaves)), flow);
            }
        },
    );
}

#[test]
fn a_refusal_reaches_the_client_when_there_is_nobody_else() {
    require_data_path!("a_refusal_reaches_the_client_when_there_is_nobody_else");
    let no_retries = |world: &mut World| world.services.iter_mut().for_each(|s| s.policy.retries = 0);
    let one_backend = |world: &mut World| world.services.iter_mut().for_each(|s| s.backends.truncate(1));
    for change in [no_retries as fn(&mut World), one_backend] {
        Wires::each(change, |wires| {
            let flow = wires.open(&syn(wires.family));
            let refusal = wires.refusal();
            wires.down("a refusal", &refusal, flow);
        });
    }
}

/// A forged refusal, or one of another SYN, changes nothing; the right one does, after it.
#[test]
fn a_refusal_of_another_syn_only_passes() {
    require_data_path!("a_refusal_of_another_syn_only_passes");
    Wires::each(
        |_| {},
        |wires| {
            let syn = syn(wires.family);
            let flow = wires.open(&syn);
            for ack in [ISN, ISN + 2, 0] {
                let wrong = wires.refusal().ack(ack);
                wires.down("another SYN's", &wrong, flow);
            }
            let refusal = wires.refusal();
            wires.moves(&refusal, &ours(syn.clone()), flow);
        },
    );
}

/// The second backend completes the handshake, and the first is out of it.
#[test]
fn a_moved_flow_is_a_flow() {
    require_data_path!("a_moved_flow_is_a_flow");
    Wires::each(
        |_| {},
        |wires| {
            let family = wires.family;
            let first = wires.open(&syn(family));
            let refusal = wires.refusal();
            let second = wires.moves(&refusal, &ours(syn(family)), first);
            let answer = tcp(family).syn().seq(BACKEND_NEXT - 1).ack(CLIENT_NEXT).syn_options();
            let late = wires.backend_sends(&answer.clone().seq(77), first);
            wires.lb.check("the first one's answer, late", &late, &passes(Reason::NoService));
            wires.down("the second one's answer", &answer, second);
            wires.lb.check("the first one's answer, later", &late, &passes(Reason::NoService));
            wires.up("ACK", &tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT), second);
            wires.up(
                "a request",
                &tcp(family).psh().seq(CLIENT_NEXT).ack(BACKEND_NEXT).payload(b"GET /"),
                second,
            );
            wires.down(
                "its answer",
                &tcp(family).seq(BACKEND_NEXT).ack(CLIENT_NEXT + 5).payload(b"200"),
                second,
            );
            let reset = wires.backend_sends(&refusal, first);
            wires.lb.check("the first one's RST", &reset, &passes(Reason::NoService));
            wires.up("FIN", &tcp(family).fin().seq(CLIENT_NEXT + 5).ack(BACKEND_NEXT + 3), second);
            wires.down("FIN", &tcp(family).fin().seq(BACKEND_NEXT + 3).ack(CLIENT_NEXT + 6), second);
        },
    );
}

/// A packet of no flow, and its RST's sequence number, or else what the RST acknowledges.
type Row = (&'static str, fn(Family) -> Packet, Result<u32, u32>);

/// RFC 9293 §3.10.7.1: the number that it acknowledges, or else the acknowledgement of all that is in it.
#[test]
fn packets_of_no_flow_are_answered_as_a_host_would() {
    require_data_path!("packets_of_no_flow_are_answered_as_a_host_would");
    let bare = |family, ack| tcp(family).rst().seq(0).ack(ack).window(0);
    let rows: [Row; 8] = [
        ("data", |f| tcp(f).psh().seq(9).ack(70).payload(b"0123456789"), Ok(70)),
        ("a full segment", |f| tcp(f).seq(9).ack(71).payload(&[0; 1440]), Ok(71)),
        ("a jumbo segment", |f| tcp(f).seq(9).ack(72).payload(&[0; 3300]), Ok(72)),
        ("FIN", |f| tcp(f).fin().seq(9).ack(u32::MAX), Ok(u32::MAX)),
        ("SYN+ACK", |f| tcp(f).syn().seq(9).ack(73).syn_options(), Ok(73)),
        ("PSH without ACK", |f| tcp(f).psh().seq(9).payload(b"odd"), Err(12)),
        ("FIN without ACK", |f| tcp(f).fin().seq(u32::MAX).payload(b"x"), Err(1)),
        ("ACK behind options", |f| tcp(f).ack(74).tcp_options(&[Timestamp(1, 2)]), Ok(74)),
    ];
    Wires::each(
        |_| {},
        |wires| {
            for (about, packet, numbers) in &rows {
                let packet = packet(wires.family);
                let answer = match numbers {
                    Ok(seq) => reset(wires.family, *seq),
                    Err(ack) => ours(bare(wires.family, *ack)),
                };
                let came = wires.client_sends(&packet);
                let (shorter, least) = (came.build().len(), wires.client_gets(&answer).build().len());
                let answer = wires.client_gets(&answer);
                let answer = if shorter >= 60 && least < 60 { answer.pad_to(60) } else { answer };
                wires.lb.check(about, &came, &resets(Reason::FlowUnknown, answer));
            }
            let stray = tcp(wires.family).rst().seq(9);
            for stray in [stray.clone(), stray.ack(70)] {
                let came = wires.client_sends(&stray);
                wires.lb.check("RST", &came, &drops(Reason::StrayReset));
            }
        },
    );
}

/// A client of a dead backend is told at its next packet, each time; what the backend had on the way still arrives.
#[test]
fn flows_of_a_dead_backend_are_reset() {
    require_data_path!("flows_of_a_dead_backend_are_reset");
    Wires::each(
        |_| {},
        |wires| {
            let family = wires.family;
            let flow = wires.open(&syn(family));
            wires.down("SYN+ACK", &tcp(family).syn().seq(BACKEND_NEXT - 1).ack(CLIENT_NEXT), flow);
            wires.up("ACK", &tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT), flow);
            wires.health(flow.backend, HealthState::Dead);
            wires.down("a last word", &tcp(family).seq(BACKEND_NEXT).ack(CLIENT_NEXT).payload(b"x"), flow);
            let data = tcp(family).seq(CLIENT_NEXT).ack(BACKEND_NEXT + 1).payload(b"?");
            let (data, told) =
                (wires.client_sends(&data), wires.client_gets(&reset(family, BACKEND_NEXT + 1)));
            for about in ["data", "data again"] {
                wires.lb.check(about, &data, &resets(Reason::BackendDead, told.clone()));
            }
            wires.down("after that", &tcp(family).seq(BACKEND_NEXT + 1).ack(CLIENT_NEXT), flow);
            let stray = wires.client_sends(&tcp(family).rst().seq(CLIENT_NEXT));
            wires.lb.check("RST", &stray, &drops(Reason::StrayReset));
            let again = wires.open_again(&syn(family));
            assert!(again.backend != flow.backend && again.snat == flow.snat, "{again:?} after {flow:?}");
        },
    );
}

/// A client whose SYN went to a backend that was lost within that second has not been told of anything: its SYN opens a flow.
/// So does one from a port whose last connection was to that backend.
#[test]
fn a_syn_to_a_lost_backend_begins_anew() {
    require_data_path!("a_syn_to_a_lost_backend_begins_anew");
    Wires::each(
        |_| {},
        |wires| {
            for removed in [false, true] {
                for retries in [0, 2] {
                    for established in [false, true] {
                        lose_and_begin_anew(wires, removed, retries, established);
                    }
                }
            }
        },
    );
}

#[track_caller]
fn lose_and_begin_anew(wires: &mut Wires, removed: bool, retries: u8, established: bool) {
    let family = wires.family;
    let mut services = Vec::new();
    wires.lb.change(|world| {
        services.clone_from(&world.services);
        world.services.iter_mut().for_each(|s| s.policy.retries = retries);
    });
    let flow = wires.open(&syn(family));
    if established {
        wires.down("SYN+ACK", &tcp(family).syn().seq(9).ack(CLIENT_NEXT), flow);
        wires.up("ACK", &tcp(family).seq(CLIENT_NEXT).ack(10), flow);
    }
    let address = flow.backend.socket(family);
    if removed {
        wires.lb.change(|w| w.services.iter_mut().for_each(|s| s.backends.retain(|b| b.address != address)));
    } else {
        wires.health(flow.backend, HealthState::Dead);
    }
    let again = wires.open_again(&syn(family));
    assert!(again.backend != flow.backend, "{again:?}");
    wires.down("SYN+ACK", &tcp(family).syn().seq(99).ack(CLIENT_NEXT), again);
    wires.up("ACK", &tcp(family).seq(CLIENT_NEXT).ack(100), again);
    wires.health(flow.backend, HealthState::Healthy);
    wires.lb.change(|world| world.services = services);
}
