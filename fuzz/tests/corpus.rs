//! Feeds every target its stored corpus and mutations of it.
//!
//! The mutations are the same at every run: a failure names the seed, and `FUZZ_SEED=… FUZZ_ROUNDS=…` repeats or prolongs it.
//! `UPDATE_CORPUS=1` writes the seeds that are made here; what a fuzzer found later is put beside them by hand.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that fails says why")]

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use bytes::Bytes;
use longwatch_events::fact::Codec;
use longwatch_events::time::Timestamp;
use longwatch_fuzz::mutate::mutate;
use longwatch_fuzz::{TARGETS, Target, run};
use longwatch_loadtest::camera::clip::embedded;
use longwatch_loadtest::nal::Standard;
use longwatch_loadtest::sei::{self, FrameNumber};
use longwatch_worker::fmp4::metadata::{self, Packing};
use longwatch_worker::fmp4::{Muxer, init};
use longwatch_worker::frame::{
    Arrival, AudioFrame, AudioTrack, Document, MetadataTrack, Tracks, VideoFrame, VideoTrack,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Mutations of each target: some seconds for all of them together.
const ROUNDS: u64 = 3_000;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The stored corpus of a target. Events have more: the golden samples, which nobody copies.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut folders = vec![folder().join("corpus").join(target)];
    if matches!(target, "event" | "assignment") {
        folders.push(folder().join("../schemas/events/golden"));
    }
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let mut paths: Vec<_> = files.map(|file| file.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_target_stands_its_corpus_and_what_is_made_of_it() {
    let (first, rounds) = (from_env("FUZZ_SEED", 0), from_env("FUZZ_ROUNDS", ROUNDS));
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "corpus/{name} is empty: UPDATE_CORPUS=1 writes what is made here");
        corpus.iter().for_each(|data| target(data));
        for seed in first..first + rounds {
            stand(name, target, &corpus, seed);
        }
    }
}

fn stand(name: &str, target: Target, corpus: &[Vec<u8>], seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let pick = |random: &mut StdRng| &corpus[random.random_range(0..corpus.len())];
    let mut data = pick(&mut random).clone();
    let other = pick(&mut random);
    mutate(&mut data, other, &mut random);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&data))) {
        let path = std::env::temp_dir().join(format!("longwatch-fuzz-{name}-{seed}"));
        fs::write(&path, &data).unwrap();
        eprintln!("{name}: FUZZ_SEED={seed} FUZZ_ROUNDS=1; the bytes are in {}", path.display());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_folder_of_the_corpus_has_its_target_and_every_target_its_program() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folders = fs::read_dir(folder().join("corpus")).unwrap().flatten();
    let folders: BTreeSet<String> = folders.map(|it| it.file_name().into_string().unwrap()).collect();
    assert_eq!(folders, targets);
    let manifest = fs::read_to_string(folder().join("libfuzzer/Cargo.toml")).unwrap();
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "libfuzzer/Cargo.toml lacks {target}");
    }
    // And a name that is none runs nothing.
    run("nobody", b"");
}

/// The seeds that can be made.
#[test]
fn the_seeds_stand_in_the_corpus() {
    for (target, name, bytes) in seeds() {
        let path = folder().join("corpus").join(target).join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let stored = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(stored == bytes, "{} is not what is made here; UPDATE_CORPUS=1 writes it", path.display());
    }
}

/// Target, name, bytes.
type Seed = (&'static str, &'static str, Vec<u8>);
/// The same as text.
type Text = (&'static str, &'static str, &'static str);

fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> =
        TEXTS.iter().map(|(target, name, text)| (*target, *name, text.as_bytes().to_vec())).collect();
    // The beginnings of clips: their boxes without their samples, and some samples.
    for (name, clip) in
        [("small", embedded::SMALL), ("bframes", embedded::BFRAMES), ("open-gop", embedded::H265_OPEN_GOP)]
    {
        seeds.push(("mp4_file", name, clip[..8_192].to_vec()));
    }
    let fragments = include_bytes!("../../loadtest/testdata/recorded-by-ffmpeg.mp4");
    seeds.push(("mp4_file", "fragments", fragments[..12_288].to_vec()));
    seeds.push(("segment_boxes", "fragments", fragments[..4_096].to_vec()));
    seeds.push(("segment_boxes", "ours", segment()));
    for (name, standard) in [("h264", Standard::H264), ("h265", Standard::H265)] {
        let mut nal = sei::encode(standard, FrameNumber { camera: 7, frame: 77 });
        seeds.push(("nal_units", name, nal.clone()));
        let mut sample = u32::try_from(nal.len()).unwrap().to_be_bytes().to_vec();
        sample.append(&mut nal);
        seeds.push(("nal_units", if name == "h264" { "sample" } else { "sample-h265" }, sample));
    }
    // Pictures 40 ms apart with sound between, cut now and then; and times of the same.
    let frames = (0..200_u32).flat_map(|n| {
        let kind = if n % 25 == 24 {
            135
        } else if n % 3 == 2 {
            4
        } else if n % 25 == 0 {
            128
        } else {
            1
        };
        let time = (n * 3_600).to_be_bytes();
        [kind, time[1], time[2], time[3], 9]
    });
    seeds.push(("fragmenter", "pictures-and-sound", frames.collect()));
    // The same with documents.
    let frames = (0..200_u32).flat_map(|n| {
        let kind = [128, 6, 1, 4, 1, 6, 6, 135][n as usize % 8];
        let time = (n * 1_800).to_be_bytes();
        [kind, time[1], time[2], time[3], 30]
    });
    seeds.push(("fragmenter", "pictures-and-metadata", frames.collect()));
    let times = (0..200_u64).flat_map(|n| {
        let mut step = (n * 3_600).to_be_bytes().to_vec();
        step.extend([4, 0, if n % 50 == 49 { 255 } else { 0 }, if n % 25 == 0 { 200 } else { 9 }]);
        step
    });
    seeds.push(("media_times", "pictures-and-reports", times.collect()));
    seeds
}

/// A segment of two fragments, as it is written.
fn segment() -> Vec<u8> {
    let scale = |hz| NonZeroU32::new(hz).unwrap();
    let video = VideoTrack {
        codec: Codec::H264,
        timescale: scale(90_000),
        sample_entry: Bytes::from_static(b"\0\0\0\x08avc1"),
        width: 320,
        height: 180,
    };
    let sample_entry = init::g711_sample_entry(Codec::Pcma, 1, scale(8_000)).unwrap().into();
    let audio = Some(AudioTrack { codec: Codec::Pcma, timescale: scale(8_000), sample_entry });
    let metadata = Some(MetadataTrack { sample_entry: metadata::sample_entry(Packing::Xml) });
    let tracks = Tracks { video, audio, metadata, not_recorded: Vec::new() };
    let at = Timestamp::from_millis(1_795_420_800_000);
    let (arrival, mut muxer) = (Arrival { at, monotonic_us: 0 }, Muxer::new(&tracks));
    let mut file = init::header(&tracks, at);
    for n in 0..4 {
        let data = Bytes::from_static(b"\0\0\0\x02\x65\x88");
        muxer.push_video(&VideoFrame { data, media_time: n * 3_600, random_access: n == 0, arrival });
        let (data, duration) = (Bytes::from_static(&[0xd5; 16]), scale(16));
        muxer.push_audio(&AudioFrame { data, media_time: n * 16, duration, arrival });
        let data = Bytes::from_static(b"<tt:MetadataStream/>");
        muxer.push_document(&Document { data, media_time: n * 3_600 + 9, arrival });
        if n % 2 == 1 {
            let fragment = muxer.finish_fragment(None).unwrap().unwrap();
            file.extend_from_slice(&fragment.head);
            fragment.samples.iter().for_each(|sample| file.extend_from_slice(sample));
        }
    }
    file
}

/// Seeds that are text.
const TEXTS: &[Text] = &[
    ("camera_address", "plain", "rtsp://10.0.0.7:554/stream1?profile=main"),
    ("camera_address", "credentials", "rtsp://user:pa%40ss@[fe80::1]:8554/s"),
    ("camera_address", "tls", "rtsps://camera.example/"),
    ("camera_greeting", "welcome", "RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 0"),
    (
        "camera_greeting",
        "elsewhere",
        "RTSP/1.0 302 Moved Temporarily\r\nCSeq: 1\r\nLocation: rtsp://10.0.0.8:554/x",
    ),
    (
        "camera_greeting",
        "challenges",
        "RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm=\"x, y\"\r\n\
         WWW-Authenticate: Digest realm=\"x\", nonce=\"y\", algorithm=SHA-256, qop=\"auth\"",
    ),
    (
        "camera_greeting",
        "description",
        "RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: 55\r\n\r\n\
         m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\nxxxxxxx",
    ),
    ("assignment", "source", r#"{"url":"rtsp://10.0.0.7/","username":"u","password":"p"}"#),
    ("event", "none", "{}"),
    (
        "segment_name",
        "stored",
        "00000000-0000-7000-8000-000000000001/01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d/2026-11-23/08-00-00.123Z_7_01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7e.mp4",
    ),
    (
        "segment_name",
        "open",
        "00000000-0000-7000-8000-000000000001/01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d/2026-11-23/08-00-00.123Z_7_01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7e.mp4.part",
    ),
    (
        "worker_config",
        "all",
        "nats = ['nats://a:4222', 'tls://b:4222']\nname = 'w1'\narchive = '/a'\njoin_key_file = '/k'\ncapacity = 7\n\
         label = ['zone=north', 'rack=2']\nrtsp_allow = ['10.0.0.0/8', 'fd00::/8']\nrtsp_allow_basic = false\n\
         segment_ms = 5000\nlog_format = 'json'\nlog_filter = 'info'\n",
    ),
    ("worker_config", "least", "nats = 'nats://a'\nname = 'w'\narchive = '/a'\njoin_key_file = '/k'\n"),
    ("snapshot", "none", "{\"format\":1}\n{}"),
    (
        "rtsp_request",
        "setup",
        "SETUP rtsp://h:554/cam/1/trackID=0 RTSP/1.0\r\nCSeq: 3\r\nTransport: RTP/AVP/TCP;unicast;interleaved=2-3\r\n\
         Authorization: Digest username=\"u\", realm=\"r\", nonce=\"n\", uri=\"/\", response=\"0\"\r\n\r\n",
    ),
    (
        "rtsp_request",
        "packet",
        "$\u{1}\u{0}\u{3}abcOPTIONS * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 2\r\n\r\nhi",
    ),
];
