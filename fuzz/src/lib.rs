//! Every parser of Longwatch that reads what others wrote, as a function of bytes.
//!
//! A target takes any bytes, reads them, and panics if what it made of them is wrong: not only must nothing in them crash
//! a program, what is read must also hold what the reader promises. `tests/corpus.rs` feeds the stored corpus and
//! mutations of it on the stable toolchain, for as long as `make test` can spare; `libfuzzer/` does the same under
//! cargo-fuzz for as long as somebody likes.

mod events;
mod media;
pub mod mutate;
mod network;
mod time;

/// Something that reads bytes.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder in `corpus/`.
pub const TARGETS: [(&str, Target); 13] = [
    ("assignment", events::assignment),
    ("camera_address", network::camera_address),
    ("camera_greeting", network::camera_greeting),
    ("event", events::event),
    ("fragmenter", media::fragmenter),
    ("media_times", time::media_times),
    ("mp4_file", media::mp4_file),
    ("nal_units", media::nal_units),
    ("rtsp_request", network::rtsp_request),
    ("segment_boxes", media::segment_boxes),
    ("segment_name", network::segment_name),
    ("snapshot", events::snapshot),
    ("worker_config", network::worker_config),
];

/// Runs the target of that name, if there is one.
pub fn run(name: &str, data: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(target, _)| *target == name) {
        target(data);
    }
}
