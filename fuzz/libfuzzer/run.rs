//! One target under libFuzzer: the one whose name this is built under.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longwatch_fuzz::run(env!("CARGO_BIN_NAME"), data));
