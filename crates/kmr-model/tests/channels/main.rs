//! Channels are cut where nothing else changes, and refused by name everywhere else.

mod declared;
mod interpreter;
mod laws;
mod networks;
mod refusals;
mod transformers;

#[path = "../silence/mod.rs"]
mod silence;
#[path = "../zoo/mod.rs"]
mod zoo;
