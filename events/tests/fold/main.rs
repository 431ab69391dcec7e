//! What the fold makes of a log, example by example. What holds for every history stands in `properties/fold.rs`.

mod given;
mod moves;
mod races;
mod system;
