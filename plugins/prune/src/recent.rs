//! What was found out about the models that were looked at last.

use std::sync::Arc;

/// Models that are remembered.
const REMEMBERED: usize = 4;

/// What was found out, the latest first; the oldest is forgotten.
pub struct Recent<T>(Vec<Arc<T>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Recent<T> {
    /// What is known of the model that is the `same`.
    pub fn get(&mut self, same: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let at = self.0.iter().position(|known| same(known))?;
        self.0[..=at].rotate_right(1);
        Some(Arc::clone(&self.0[0]))
    }

    /// Remembers what was found out about another model.
    pub fn add(&mut self, found: T) -> Arc<T> {
        let found = Arc::new(found);
        self.0.insert(0, Arc::clone(&found));
        self.0.truncate(REMEMBERED);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_asked_for_longest_ago_is_forgotten() {
        let mut recent = Recent::default();
        for model in 0..REMEMBERED {
            recent.add(model);
        }
        assert_eq!(recent.get(|known| *known == 0).as_deref(), Some(&0));
        recent.add(9);
        assert_eq!(recent.get(|known| *known == 1), None);
        assert_eq!(recent.get(|known| *known == 0).as_deref(), Some(&0));
    }
}
