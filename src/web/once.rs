//! Answers for which much is collected: those who wait for the same get one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::response::Response;
use bytes::Bytes;
use tokio::sync::Semaphore;

/// Makes an answer once for all who asked before it was begun, so none is older than its question. Clones are the same.
#[derive(Clone, Debug)]
pub struct Once(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Who makes one has it.
    turn: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Answers that were begun.
    begun: u64,
    waiting: usize,
    /// The last: its number, what it answers, and itself. It is dropped when nobody waits.
    last: Option<(u64, String, Bytes)>,
}

impl Default for Once {
    fn default() -> Once {
        Once(Arc::new(Shared { turn: Semaphore::new(1), state: Mutex::default() }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits.
struct Asker<'a>(&'a Shared);

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting -= 1;
        if state.waiting == 0 {
            state.last = None;
        }
    }
}

impl Once {
    /// The answer to a question; it is made unless one to the same was begun since this was called.
    ///
    /// # Errors
    /// Those of making it.
    pub async fn share(
        &self,
        question: &str,
        make: impl Future<Output = Result<Bytes, Response>>,
    ) -> Result<Bytes, Response> {
        let asked = {
            let mut state = self.0.lock();
            state.waiting += 1;
            state.begun
        };
        let _asker = Asker(&self.0);
        // It is never closed.
        let _turn = self.0.turn.acquire().await;
        let number = {
            let mut state = self.0.lock();
            if let Some((number, known, answer)) = &state.last
                && *number > asked
                && known == question
            {
                return Ok(answer.clone());
            }
            state.begun += 1;
            state.begun
        };
        let answer = make.await?;
        self.0.lock().last = Some((number, question.to_string(), answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_get_one_that_was_begun_after_they_asked() {
        let (once, made) = (Once::default(), &AtomicU32::new(0));
        let ask = |question: &'static str| {
            once.share(question, async move {
                sleep(Duration::from_secs(1)).await;
                let number = made.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(Bytes::from(format!("{question}{number}")))
            })
        };
        let late = async {
            sleep(Duration::from_millis(500)).await;
            join_all([ask("a"), ask("a"), ask("a")]).await
        };
        let (first, late) = tokio::join!(ask("a"), late);
        assert_eq!(first.expect("an answer"), "a1");
        assert!(late.into_iter().all(|answer| answer.expect("an answer") == "a2"));
        // Another question has an answer of its own, and nothing is kept.
        assert_eq!(ask("b").await.expect("an answer"), "b3");
        assert_eq!(ask("b").await.expect("an answer"), "b4");
        assert!(once.0.lock().last.is_none());
    }
}
