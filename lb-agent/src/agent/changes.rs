//! What the log says when new flows go elsewhere.
#![forbid(unsafe_code)]

use tracing::{info, warn};

use crate::plan::{Plan, ServicePlan, Standing};

/// A line for each service whose new flows go to others in `after` than in `before`, for a reason that people want to know.
pub(super) fn log(before: &Plan, after: &Plan) {
    log_standing(before, after);
    log_zone(before, after);
}

/// One line when new flows begin or cease to stay in the zone.
fn log_zone(before: &Plan, after: &Plan) {
    for (key, now) in &after.services {
        let was = before.services.get(key).is_some_and(|s| s.near.is_some());
        let (service, backends) = (&now.name, now.near.as_ref().map_or(0, |near| near.members.len()));
        match (was, now.near.is_some()) {
            (false, true) => info!(%service, backends, "new flows stay in this zone"),
            (true, false) => info!(%service, "new flows go to every zone"),
            (true, true) | (false, false) => {}
        }
    }
}

/// One line when other backends of a service are to get new flows, for another reason or of another priority.
fn log_standing(before: &Plan, after: &Plan) {
    for (key, now) in &after.services {
        let same = |b: &ServicePlan| (b.standing, b.priority) == (now.standing, now.priority);
        if before.services.get(key).is_some_and(same) {
            continue;
        }
        let (service, backends) = (&now.name, now.recipe.members.len());
        match now.standing {
            Standing::FailOpen if !before.services.contains_key(key) => {
                info!(%service, backends, "new flows go to all backends until the first checks are done");
            }
            Standing::Healthy => {
                info!(%service, backends, priority = now.priority, "new flows go to the healthy backends");
            }
            Standing::BelowFloor => {
                warn!(
                    %service, backends, priority = now.priority,
                    "below min_healthy: new flows go to suspect backends, too"
                );
            }
            Standing::FailOpen => {
                warn!(%service, backends, "fail open: no backend is healthy, new flows go to all of them");
            }
            Standing::Draining => {
                warn!(%service, backends, "every backend that can be reached is draining: new flows go to them");
            }
            Standing::Unresolved => {
                warn!(%service, "no next hop of any backend is known: packets are dropped");
            }
            Standing::Empty => {
                warn!(%service, "no backend: packets are dropped");
            }
        }
    }
}
