//! What holds for every event and every history, not only for those somebody thought of. A failure prints the smallest
//! case found, and how to run it again.

mod arbitrary;
mod coverage;
mod decide;
mod envelope;
mod fold;
mod history;
mod index;
mod settings;
