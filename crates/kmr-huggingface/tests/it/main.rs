//! Folders in, models out, and the way back. The folders were made by `fixtures/make.py`.

mod errors;
mod folders;
mod gguf;
mod integers;
mod outputs;
mod pruned;
mod round_trip;
