//! The wrapper around a program, see `bench/ebpf/src/bin/bench-wrap.rs`.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramError, ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use lb_tests::packet::world::Family;

use crate::abi::{MAX_REPLIES, MODE_CLIENT, MODE_FIXED, MODE_REPLY, RESTORED, Reply, Script};
use crate::machine;

/// Larger than any frame that is measured, and what a tag or a header more would make of it.
const ROOM: usize = 512;
/// How often a run is repeated that a signal has interrupted.
const TRIES: usize = 8;

#[expect(unsafe_code, reason = "the one promise to aya about each map value")]
mod pod {
    use super::{Pod, Reply, Script};

    // SAFETY: `repr(C)`, plain integers and arrays of them, and no padding (the sizes are asserted where they are
    // declared).
    unsafe impl Pod for Script {}
    // SAFETY: as above.
    unsafe impl Pod for Reply {}
}

/// What is done with a frame before each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is restored.
    Fixed,
    /// And becomes one of 2^`bits` flows, from `first`, over a number of services.
    Client { bits: u32, first: u32, services: u32 },
    /// And becomes the next of the replies.
    Reply,
}

/// A program of its own for each measured program.
pub(super) struct Wrapper {
    ebpf: Ebpf,
    script: Array<MapData, Script>,
    replies: Array<MapData, Reply>,
    /// The array of programs empties itself when its last handle is closed.
    _targets: ProgramArray<MapData>,
    /// Whether the measured program takes frames of several buffers; a tail call is refused otherwise.
    frags: bool,
}

/// What one run did.
pub(super) struct Outcome {
    /// An `xdp_action`.
    pub(super) verdict: u32,
    /// The frame afterwards.
    pub(super) frame: Vec<u8>,
}

impl Wrapper {
    /// Around a program, or around nothing.
    pub(super) fn new(target: Option<&ProgramFd>) -> Result<Self> {
        let object = machine::object("bench-wrap.o")?;
        let with = |frags| Self::load(&object, frags, target);
        with(true).or_else(|first| with(false).map_err(|_| first))
    }

    fn load(object: &[u8], frags: bool, target: Option<&ProgramFd>) -> Result<Self> {
        let mut ebpf = Ebpf::load(object).context("bench-wrap.o")?;
        for name in ["v4", "v6", "bare", "done"] {
            load(&mut ebpf, &with_suffix(name, frags))?;
        }
        let mut targets =
            ProgramArray::try_from(ebpf.take_map("TARGET").context("bench-wrap.o: no map TARGET")?)?;
        let nothing = xdp(&ebpf, &with_suffix("done", frags))?.fd()?.try_clone()?;
        targets.set(0, target.unwrap_or(&nothing), 0).context("tail call of the measured program")?;
        let script = Array::try_from(ebpf.take_map("SCRIPT").context("bench-wrap.o: no map SCRIPT")?)?;
        let replies = Array::try_from(ebpf.take_map("REPLIES").context("bench-wrap.o: no map REPLIES")?)?;
        Ok(Self { ebpf, script, replies, _targets: targets, frags })
    }

    /// One run over a frame that is not touched before.
    pub(super) fn once(&self, frame: &[u8]) -> Result<Outcome> {
        self.run(&with_suffix("bare", self.frags), frame, 1)
    }

    /// Says what the following runs do.
    pub(super) fn set_script(&mut self, frame: &[u8], mode: Mode, next: u64) -> Result<()> {
        let mut script =
            Script { next, flow_bits: 0, first: 0, services: 1, mode: MODE_FIXED, frame: [0; RESTORED] };
        for (to, from) in script.frame.iter_mut().zip(frame) {
            *to = *from;
        }
        match mode {
            Mode::Fixed => {}
            Mode::Client { bits, first, services } => {
                script = Script { mode: MODE_CLIENT, flow_bits: bits, first, services, ..script };
            }
            Mode::Reply => script.mode = MODE_REPLY,
        }
        self.script.set(0, script, 0).context("map SCRIPT")
    }

    /// The replies, over and over.
    pub(super) fn set_replies(&mut self, replies: &[Reply]) -> Result<()> {
        for (index, reply) in (0..MAX_REPLIES).zip(replies.iter().cycle()) {
            self.replies.set(index, reply, 0).context("map REPLIES")?;
        }
        Ok(())
    }

    /// CPU time of that many runs, and the last verdict.
    pub(super) fn measure(&self, family: Family, frame: &[u8], runs: u32) -> Result<(Duration, u32)> {
        let name = with_suffix(if family == Family::V4 { "v4" } else { "v6" }, self.frags);
        let start = machine::cpu_time()?;
        let outcome = self.run(&name, frame, runs)?;
        Ok((machine::cpu_time()?.saturating_sub(start), outcome.verdict))
    }

    fn run(&self, name: &str, frame: &[u8], runs: u32) -> Result<Outcome> {
        let program = xdp(&self.ebpf, name)?;
        let mut out = vec![0; ROOM];
        for _ in 0..TRIES {
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                repeat: runs,
                ..TestRunOptions::new()
            };
            match program.test_run(options) {
                Ok(result) => {
                    out.truncate(result.data_size_out as usize);
                    return Ok(Outcome { verdict: result.return_value, frame: out });
                }
                Err(e) if is_interrupted(&e) => {}
                Err(e) => return Err(anyhow!(e)).with_context(|| format!("program {name}: test run")),
            }
        }
        bail!("program {name}: test run: interrupted again and again")
    }
}

fn with_suffix(name: &str, frags: bool) -> String {
    if frags { format!("{name}_frags") } else { name.to_owned() }
}

fn is_interrupted(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(e) = error else { return false };
    e.io_error.kind() == std::io::ErrorKind::Interrupted
}

/// Loads an XDP program of an object.
pub(super) fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("program {name}: load"))
}

/// An XDP program of an object.
pub(super) fn xdp<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    Ok(ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}
