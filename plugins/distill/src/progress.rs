//! What is told while training goes on.

use std::time::{Duration, Instant};

use kmr_sdk::{Host, Result};

/// Tells how far training is and how long it will take.
pub struct Progress {
    started: Instant,
    /// Batches that were done before.
    before: usize,
    batches: usize,
}

impl Progress {
    /// Begins after `before` of `batches` batches.
    pub fn new(before: usize, batches: usize) -> Self {
        Self {
            started: Instant::now(),
            before,
            batches,
        }
    }

    /// Tells that `done` batches are done.
    ///
    /// # Errors
    /// If training is to end.
    pub fn tell(&self, host: &Host<'_>, done: usize, place: &str, loss: Option<f64>) -> Result<()> {
        let mut text = place.to_owned();
        if let Some(loss) = loss {
            text += &format!(", loss {loss:.4}");
        }
        if done > self.before {
            let each = self.started.elapsed() / u32::try_from(done - self.before).unwrap_or(u32::MAX);
            let left = each * u32::try_from(self.batches - done).unwrap_or(u32::MAX);
            text += &format!(", {} left", spoken(left));
        }
        host.progress(done as f64 / self.batches as f64, &text)
    }
}

/// A duration for people.
fn spoken(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let spoken = |seconds| spoken(Duration::from_secs(seconds));
        assert_eq!(spoken(59), "59 s");
        assert_eq!(spoken(130), "2 min 10 s");
        assert_eq!(spoken(3700), "1 h 1 min");
    }
}
