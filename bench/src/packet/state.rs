//! Brings a program into the state of a stage, by frames.

use anyhow::{Result, ensure};
use lb_agent::dataplane::Tables;

use super::frames::{self, Shape};
use super::measure::mode;
use super::stage::{Fill, Stage};
use super::subject::{Loaded, Subject};
use super::wrapper::Wrapper;
use crate::abi::{MAX_REPLIES, Reply, shuffle};

/// `enum xdp_action` of the kernel.
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// A program with full tables, in its wrapper.
pub(super) struct State {
    pub(super) wrapper: Wrapper,
    /// Where the first reply comes from and goes to, and the SYN of a flow as it left; `None` when the program
    /// forwards by other means than NAT.
    pub(super) first_reply: Option<(Reply, Vec<u8>)>,
    /// The program.
    pub(super) loaded: Loaded,
}

impl State {
    /// Loads the program anew and gives it the flows of the stage.
    pub(super) fn set(stage: &Stage, tables: &Tables, subject: &mut Subject) -> Result<Self> {
        let loaded = subject.load(stage, tables)?;
        let wrapper = Wrapper::new(loaded.program.as_ref())?;
        let mut state = Self { wrapper, first_reply: None, loaded };
        if state.loaded.program.is_none() {
            // Any reply will do for a program that does nothing.
            state.first_reply = Some((Reply::default(), frames::from_client(Shape::Syn, stage.family)));
            return Ok(state);
        }
        match stage.fill {
            Fill::Nothing => {}
            Fill::Embryonic => {
                let frame = frames::from_client(Shape::Syn, stage.family);
                let runs = stage.slots() * 2;
                state.wrapper.set_script(&frame, mode(stage, Shape::Syn), subject.spend(runs))?;
                state.wrapper.measure(stage.family, &frame, runs)?;
            }
            Fill::Established(bits) => state.establish(stage, bits, subject)?,
        }
        Ok(state)
    }

    /// Opens flows: SYN, SYN and ACK, ACK.
    fn establish(&mut self, stage: &Stage, bits: u32, subject: &Subject) -> Result<()> {
        let family = stage.family;
        let [syn, ack] = [Shape::Syn, Shape::Ack].map(|shape| frames::from_client(shape, family));
        let of_flow = |frame: &[u8], flow| {
            let mut frame = frame.to_vec();
            frames::set_flow(&mut frame, family, flow, stage.services, bits);
            frame
        };
        let mut sample: Option<(Vec<u8>, Vec<u8>)> = None;
        let mut replies = Vec::new();
        for flow in 0..1u32 << bits {
            let frame = of_flow(&syn, flow);
            let out = self.wrapper.once(&frame)?;
            if !is_sent(out.verdict) || !is_nat(&frame, &out.frame) {
                ensure!(!subject.is_ours(), "flow {flow}: the SYN got verdict {}", out.verdict);
                continue;
            }
            let reply = frames::answer_to(family, &out.frame);
            let (answer, _) = sample.get_or_insert_with(|| (frames::syn_ack(family, &out.frame), out.frame));
            let mut answer = answer.clone();
            frames::set_reply(&mut answer, family, &reply);
            for frame in [answer, of_flow(&ack, flow)] {
                let verdict = self.wrapper.once(&frame)?.verdict;
                ensure!(
                    !subject.is_ours() || is_sent(verdict),
                    "flow {flow}: handshake got verdict {verdict}"
                );
            }
            replies.push(reply);
        }
        let order = (0..MAX_REPLIES.min(1 << bits)).map(|run| shuffle(run, bits));
        let replies: Option<Vec<Reply>> = order.map(|flow| replies.get(flow as usize).copied()).collect();
        if let (Some(replies), Some((_, forwarded))) = (replies, sample) {
            self.wrapper.set_replies(&replies)?;
            self.first_reply = replies.first().map(|reply| (*reply, forwarded));
        }
        Ok(())
    }
}

/// Whether a frame was sent out.
pub(super) const fn is_sent(verdict: u32) -> bool {
    matches!(verdict, XDP_TX | XDP_REDIRECT)
}

/// Whether only the headers differ, as after NAT; an encapsulated packet is longer.
fn is_nat(before: &[u8], after: &[u8]) -> bool {
    before.len() == after.len() && before.get(12..14) == after.get(12..14) && before != after
}
