//! Small networks of the kinds that people train, as their exporters write them.
#![allow(dead_code, reason = "every user takes a part of it")]

mod builder;
mod language;
mod recurrent;
mod transformers;
mod vision;

pub use builder::Feed;
use kmr_model::Model;

/// A network.
pub struct Network {
    pub name: &'static str,
    pub model: Model,
    pub feeds: Vec<Feed>,
    /// How many groups with more than one unit there are.
    pub groups: usize,
}

/// All of them.
pub fn networks() -> Vec<Network> {
    let all = [
        vision::networks(),
        recurrent::networks(),
        transformers::networks(),
        language::networks(),
    ];
    all.into_iter().flatten().collect()
}
