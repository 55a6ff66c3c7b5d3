//! What routes see, which a reload replaces as a whole: a request is answered with what was there when it came.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::FromRef;

use super::AppState;

/// The state of the routes as it is now. Clones are one.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<Arc<AppState>>>);

impl Live {
    /// The state at the start.
    pub fn new(state: AppState) -> Live {
        Live(Arc::new(RwLock::new(Arc::new(state))))
    }

    /// The state of this moment.
    pub fn now(&self) -> Arc<AppState> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it for all requests that come from now on.
    pub fn replace(&self, state: AppState) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }
}

impl FromRef<Live> for AppState {
    fn from_ref(live: &Live) -> AppState {
        AppState::clone(&live.now())
    }
}
