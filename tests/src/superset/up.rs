//! Making the stand, or what is missing of it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::down::end;
use super::place::Place;
use super::stand::Stand;
use super::state::State;
use super::venv::Venv;
use super::{MOST_REPLICAS, REPLICAS};
use crate::lab::Lab;
use crate::proof::progress;

/// Brings the stand up with so many replicas. What runs already stays as it is.
///
/// # Errors
/// What could not be installed, made or started. What was started until then stays, for a look and the next attempt.
pub fn up(place: &Place, replicas: u8) -> Result<Stand> {
    ensure!(
        (REPLICAS..=MOST_REPLICAS).contains(&replicas),
        "{replicas} replicas: the stand has {REPLICAS} to {MOST_REPLICAS}"
    );
    let begun = Instant::now();
    let mut stand = match Stand::find(place)? {
        Some(stand) if stand.replicas() == replicas => stand,
        _ => Stand::make(place, replicas)?,
    };
    stand.ensure()?;
    progress(&format!("the stand is up ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(stand)
}

impl Stand {
    /// The stand that was made before; `None` when there is none, or its lab is gone.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn find(place: &Place) -> Result<Option<Self>> {
        let Some(state) = State::load(place)? else { return Ok(None) };
        let Ok(lab) = Lab::enter(Self::network(), &state.namespaces) else { return Ok(None) };
        Ok(Some(Self { lab, place: place.clone(), venv: Venv::ensure(place)?, state }))
    }

    /// An empty lab, instead of what may be there.
    fn make(place: &Place, replicas: u8) -> Result<Self> {
        end(place)?;
        let venv = Venv::ensure(place)?;
        let network = Self::network();
        let namespaces = Lab::new(network).context("make the lab")?.keep();
        let state = State { namespaces, replicas, ..State::default() };
        state.save(place)?;
        let lab = Lab::enter(network, &state.namespaces)?;
        Ok(Self { lab, place: place.clone(), venv, state })
    }

    /// Starts what does not run, undoes what a scenario may have done, and waits until users are served.
    ///
    /// # Errors
    /// What does not start.
    pub fn ensure(&mut self) -> Result<()> {
        self.ensure_databases()?;
        self.ensure_metadata()?;
        self.ensure_replicas(self.state.replicas)?;
        self.ensure_tiers()?;
        self.ensure_agent()?;
        self.ensure_content()
    }
}
