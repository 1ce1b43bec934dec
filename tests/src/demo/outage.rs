//! The chapters in which a server dies and returns.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::config::server_name;
use super::screen::{Screen, count};
use super::show::{Show, Sight};
use super::stage::Stage;
use super::table::flows_since;
use super::traffic::{BEAT, SHARE, Tally, Traffic};

/// The server that is killed.
const VICTIM: u8 = 2;
/// How long traffic goes before something happens, and after it.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(5);
/// With the demo's configuration a killed server is noticed within 1.4 s; a busy machine may take longer.
const NOTICE: Duration = Duration::from_secs(4);
/// The same for its return.
const RETURN: Duration = Duration::from_secs(10);

/// A server dies under traffic.
pub(super) fn fall(stage: &Stage, screen: &mut Screen) -> Result<()> {
    let victim = server_name(VICTIM);
    screen.heading(&format!("4. The same traffic, and {victim} is killed (SIGKILL)"));
    screen.line("");
    let (kill, noticed, traffic) = kill_under_traffic(stage, screen, &victim)?;
    screen.line("");
    let Some(noticed) = noticed else {
        screen.claim(false, &format!("the balancer noticed within {} s", NOTICE.as_secs()));
        return Ok(());
    };
    judge_notice(stage, screen, &kill, &noticed)?;
    judge_connections(screen, &kill, &noticed, &traffic);
    let now = stage.backend(&victim)?;
    screen.claim(now.state == "dead", &format!("by the checks it is {} now ({})", now.state, now.why));
    let given = now.new_flows.unwrap_or(u64::MAX);
    let given = given.saturating_sub(noticed.backend.new_flows.unwrap_or_default());
    screen.claim(given == 0, &format!("{victim} was given {} of these", count(given)));
    Ok(())
}

fn kill_under_traffic(
    stage: &Stage,
    screen: &mut Screen,
    victim: &str,
) -> Result<(Moments, Option<Sight>, Traffic)> {
    let base = stage.new_flows()?;
    let ((kill, noticed), traffic) = Traffic::during(stage.lab(), stage.target(), |traffic| {
        let mut show = Show::new(stage, screen, traffic, &base);
        show.go_on(BEFORE)?;
        let kill = Moments::now();
        stage.kill_server(VICTIM)?;
        show.event(&format!("{victim} is killed"));
        let noticed = show.until(victim, NOTICE, |b, pending| !pending && !b.in_ring)?;
        if let Some(seen) = &noticed {
            show.event(&format!("the balancer calls it {}", seen.backend.state));
        }
        show.go_on(AFTER)?;
        show.finish()?;
        Ok((kill, noticed))
    })?;
    Ok((kill, noticed, traffic))
}

/// When the agent noticed, by its own clock, and whether status and metrics agree about it.
fn judge_notice(stage: &Stage, screen: &mut Screen, kill: &Moments, noticed: &Sight) -> Result<()> {
    let since = noticed.backend.since.duration_since(kill.wall).unwrap_or_default();
    let unused = (noticed.at - kill.clock).as_millis();
    let up = stage.is_up(&noticed.backend.name)?;
    let text = format!(
        "noticed {} ms after the kill: {} ({}); out of use by {unused} ms",
        since.as_millis(),
        noticed.backend.state,
        noticed.backend.why
    );
    // Refused connections make it suspect before the checks find that it is dead.
    screen.claim(matches!(noticed.backend.state.as_str(), "suspect" | "dead") && !up, &text);
    Ok(())
}

/// What it cost until then, and nothing after it.
fn judge_connections(screen: &mut Screen, kill: &Moments, noticed: &Sight, traffic: &Traffic) {
    // A beat that began before the kill may have seen it, and more so on a busy machine.
    let eve = kill.clock.checked_sub(BEAT * 2).unwrap_or(kill.clock);
    let [before, meanwhile] = [traffic.tally(..eve), traffic.tally(eve..noticed.at)];
    let after = traffic.tally(noticed.at..);
    screen.note(&format!("in the meantime {}", fate(&meanwhile)));
    screen.claim(before.ok > 0 && before.failures() == 0, &format!("before the kill {}", fate(&before)));
    screen.claim(after.ok > 0 && after.failures() == 0, &format!("after it was noticed {}", fate(&after)));
}

fn fate(tally: &Tally) -> String {
    let (failed, attempts) = (count(tally.failures()), count(tally.attempts));
    format!("{failed} of {attempts} new connections failed{}", tally.reasons())
}

/// The server returns under traffic.
pub(super) fn rise(stage: &Stage, screen: &mut Screen) -> Result<()> {
    let victim = server_name(VICTIM);
    screen.heading(&format!("5. The same traffic, and {victim} is started again"));
    screen.line("");
    let (start, healthy, flow, traffic) = start_under_traffic(stage, screen, &victim)?;
    screen.line("");
    let (Some(healthy), Some(flow)) = (healthy, flow) else {
        screen.claim(false, &format!("{victim} takes part again within {} s", RETURN.as_secs()));
        return Ok(());
    };
    let since = healthy.backend.since.duration_since(start.wall).unwrap_or_default().as_millis();
    let up = stage.is_up(&victim)?;
    screen.claim(up, &format!("healthy {since} ms after its start ({})", healthy.backend.why));
    let first = (flow.at - start.clock).as_millis();
    screen.claim(true, &format!("it takes part again: its first new connection came after {first} ms"));
    let again = traffic.tally(flow.at..);
    let share = again.answers_of(&victim) * 100 / again.ok.max(1);
    screen.claim(SHARE.contains(&share), &format!("since then it got its share: {share} %"));
    let all = traffic.tally(..);
    let text = format!("its return cost nobody anything: {}", fate(&all));
    screen.claim(all.ok > 0 && all.failures() == 0, &text);
    Ok(())
}

fn start_under_traffic(
    stage: &Stage,
    screen: &mut Screen,
    victim: &str,
) -> Result<(Moments, Option<Sight>, Option<Sight>, Traffic)> {
    let base = stage.new_flows()?;
    let before = stage.backend(victim)?.new_flows.unwrap_or_default();
    let ((start, healthy, flow), traffic) = Traffic::during(stage.lab(), stage.target(), |traffic| {
        let mut show = Show::new(stage, screen, traffic, &base);
        show.go_on(BEFORE)?;
        let start = Moments::now();
        stage.restart_server(VICTIM)?;
        show.event(&format!("{victim} is started"));
        let healthy = show.until(victim, RETURN, |b, _| b.state == "healthy")?;
        if healthy.is_some() {
            show.event("the balancer calls it healthy");
        }
        let flow = show.until(victim, RETURN, |b, _| flows_since(b, before) > 0)?;
        show.go_on(AFTER)?;
        show.finish()?;
        Ok((start, healthy, flow))
    })?;
    Ok((start, healthy, flow, traffic))
}

/// One moment on both clocks.
struct Moments {
    clock: Instant,
    wall: SystemTime,
}

impl Moments {
    fn now() -> Self {
        Self { clock: Instant::now(), wall: SystemTime::now() }
    }
}
