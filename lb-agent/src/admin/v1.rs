//! `/v1`: the part of the server that changes something.

mod drain;
mod reload;

pub use drain::parse_deadline;

use std::sync::Arc;
use std::time::Duration;

use hyper::{Request, StatusCode};
use tokio::time::timeout;

use super::access::Access;
use super::answer::{Answer, Refused};
use super::command::Refusal;
use super::view::View;

/// Everything below is this server's.
pub(super) const PREFIX: &str = "/v1/";
/// What there is.
const PATHS: &str = "/v1/drain/SERVICE/BACKEND /v1/reload";
/// An answer to a change waits this long for the kernel to have it, so that nobody who got the answer sees another
/// new flow go by what was before. When it takes longer, the answer says so (`pending`).
const SETTLE: Duration = Duration::from_secs(2);

/// Answers a request below [`PREFIX`].
pub(super) async fn respond<B>(request: &Request<B>, access: &Access, view: Arc<View>) -> Answer {
    let answer = async {
        access.admit(request.headers()).await?;
        match request.uri().path() {
            "/v1/reload" => reload::respond(request, view).await,
            _ => drain::respond(request, view).await,
        }
    };
    answer.await.unwrap_or_else(Refused::answer)
}

/// Waits until the kernel has what was decided, or for long enough.
async fn settle(view: &View) {
    let mut published = view.published.clone();
    // Either way the answer says how it is.
    let _ = timeout(SETTLE, published.wait_for(|p| !p.status.dataplane.pending)).await;
}

fn refused(e: &Refusal) -> Refused {
    let status = match e {
        Refusal::Unknown(_) => StatusCode::NOT_FOUND,
        Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refused::new(status, e.to_string())
}
