//! Folders in, models out, and the way back. The folders were made by `fixtures/make.py`.

mod errors;
mod folders;
mod outputs;
mod pruned;
mod round_trip;
