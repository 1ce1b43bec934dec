//! Running the packet path's program over a frame in memory, without any interface.

use aya::programs::{TestRun, TestRunOptions};

use super::error::failure;
use super::{EbpfDataplane, LB};
use crate::dataplane::DataplaneError;

/// Room for tags that the program may add to a frame, in bytes, and to spare.
const GROWTH: usize = 64;

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What it told the kernel to do: `XDP_ABORTED`, `XDP_DROP`, `XDP_PASS`, `XDP_TX` or `XDP_REDIRECT`, from 0.
    pub verdict: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl EbpfDataplane {
    /// How many instructions the verifier looked at to accept a program; `None` when the kernel (before 5.16) does not say
    /// or there is no such program.
    #[must_use]
    pub fn verified_instructions(&self, program: &str) -> Option<u32> {
        self.ebpf.program(program)?.info().ok()?.verified_instruction_count()
    }

    /// Runs the program once, as if the frame had come in by loopback (interface index 1). Nothing is sent, but
    /// everything is written and counted as for any other packet.
    ///
    /// # Errors
    /// When the kernel does not run it, as for a frame of less than 14 bytes.
    pub fn trial(&self, frame: &[u8]) -> Result<Trial, DataplaneError> {
        let what = || format!("program {LB}: run over {} bytes", frame.len());
        let mut out = vec![0; frame.len() + GROWTH];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let run = self.program(LB)?.test_run(options).map_err(|e| failure(what(), &e))?;
        out.truncate(usize::try_from(run.data_size_out).unwrap_or(usize::MAX));
        Ok(Trial { verdict: run.return_value, frame: out })
    }
}
