//! The server over real TCP: segments of our own muxer, in a real folder or object store, and addresses as control signs them.

use std::num::NonZeroU32;
use std::path::Path;

use bytes::Bytes;
use longwatch_events::fact::Codec;
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::media::{Part, Ticket};
use longwatch_events::position::Epoch;
use longwatch_events::time::{ManualClock, Timestamp};
use mp4_atom::{Avc1, Avcc, Encode, Visual};
use reqwest::header::{HeaderMap, HeaderName, RANGE};
use reqwest::{Client, RequestBuilder, Response};
use tempfile::TempDir;

use super::*;
use crate::archive::Archive;
use crate::archive::door::Door;
use crate::archive::layout::SegmentName;
use crate::archive::s3::Bucket;
use crate::fmp4::{Muxer, init};
use crate::frame::{Arrival, AudioFrame, AudioTrack, Tracks, VideoFrame, VideoTrack};

mod addresses;
mod content;
mod viewers;

/// When the segment begins; and now: a minute later.
const START: Timestamp = Timestamp::from_micros(1_795_420_800_123_456);
const NOW: Timestamp = START.plus_millis(60_000);
/// Seconds in it.
const SECONDS: i64 = 4;
/// Nothing that is waited for takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

fn tracks() -> Tracks {
    let sps = b"\x67\x42\x00\x1e\x95\xa8\x28\x0f\x64";
    let visual = Visual { data_reference_index: 1, width: 640, height: 360, ..Visual::default() };
    let avcc = Avcc::new(sps, b"\x68\xce\x3c\x80").unwrap();
    let entry = Avc1 { visual, avcc, ..Avc1::default() };
    let mut sample_entry = Vec::new();
    entry.encode(&mut sample_entry).unwrap();
    let rate = NonZeroU32::new(8_000).unwrap();
    Tracks {
        video: VideoTrack {
            codec: Codec::H264,
            timescale: NonZeroU32::new(90_000).unwrap(),
            sample_entry: sample_entry.into(),
            width: 640,
            height: 360,
        },
        audio: Some(AudioTrack {
            codec: Codec::Pcmu,
            timescale: rate,
            sample_entry: init::g711_sample_entry(Codec::Pcmu, 1, rate).unwrap().into(),
        }),
        metadata: None,
        not_recorded: Vec::new(),
    }
}

/// A segment of [`SECONDS`] fragments, of 25 pictures of so many bytes and one second of sound each.
fn segment(picture_bytes: usize) -> Vec<u8> {
    let (tracks, arrival) = (tracks(), Arrival { at: START, monotonic_us: 0 });
    let (mut muxer, mut file) = (Muxer::new(&tracks), init::header(&tracks, START));
    for second in 0..SECONDS {
        for picture in 0..25 {
            let media_time = second * 90_000 + picture * 3_600;
            let fill = u8::try_from(second * 25 + picture).unwrap();
            let data = Bytes::from(vec![fill; picture_bytes]);
            muxer.push_video(&VideoFrame { data, media_time, random_access: picture == 0, arrival });
        }
        let (data, duration) = (Bytes::from(vec![0xd5; 8_000]), NonZeroU32::new(8_000).unwrap());
        muxer.push_audio(&AudioFrame { data, media_time: second * 8_000, duration, arrival });
        let fragment = muxer.finish_fragment(Some((second + 1) * 90_000)).unwrap().unwrap();
        file.extend_from_slice(&fragment.head);
        fragment.samples.iter().for_each(|sample| file.extend_from_slice(sample));
    }
    file
}

fn key(byte: u8) -> MediaKey {
    MediaKey::from_slice(&[byte; 32]).unwrap()
}

/// A server at work on two volumes; one segment is on the second.
struct Given {
    first: TempDir,
    folder: TempDir,
    name: SegmentName,
    /// What is recorded.
    file: Vec<u8>,
    url: String,
    clock: Arc<ManualClock>,
    key: watch::Sender<Option<MediaKey>>,
    viewer: Client,
    _server: MediaServer,
}

impl Given {
    fn new() -> Self {
        Self::serving(segment(4_000), Limits::with(None), None)
    }

    fn serving(file: Vec<u8>, limits: Limits, bucket: Option<Bucket>) -> Self {
        let (first, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = SegmentName {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::generate(&SystemIds),
            start: START,
            epoch: Epoch(42),
            server_id: ServerId::generate(&SystemIds),
        };
        let path = folder.path().join(name.key());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file).unwrap();
        let clock = Arc::new(ManualClock::starting_at(NOW));
        let (key, key_out) = watch::channel(Some(key(1)));
        let roots: Vec<Arc<Path>> = vec![first.path().into(), folder.path().into()];
        let volumes = roots.iter().map(|root| (Arc::clone(root), Door::default()));
        let archive = Archive::over(volumes, 1).unwrap();
        let stored = Arc::new(Stored { roots, archive, bucket });
        let settings = Settings { listen: "127.0.0.1:0".parse().unwrap(), url: None };
        let listening = Listening::at(&settings).unwrap();
        let url = listening.url().to_owned();
        let means = Means { key: key_out, stored, clock: Arc::clone(&clock) as Arc<dyn Clock> };
        let server = listening.serve_within(limits, means, CancellationToken::new()).unwrap();
        let viewer = Client::builder().timeout(DEADLINE).build().unwrap();
        Self { first, folder, name, file, url, clock, key, viewer, _server: server }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join(self.name.key())
    }

    fn ticket(&self, part: Part) -> Ticket {
        Ticket { key: self.name.key(), part, start: START, until: None, expires: NOW.plus_millis(90_000) }
    }

    fn address(&self, part: Part) -> String {
        key(1).sign(&self.ticket(part))
    }

    fn get(&self, address: &str) -> RequestBuilder {
        self.viewer.get(format!("{}{address}", self.url))
    }

    async fn answer(&self, address: &str) -> Response {
        self.get(address).send().await.unwrap()
    }

    /// Of a part, as one request gets it.
    async fn whole(&self, part: Part) -> Vec<u8> {
        let answer = self.answer(&self.address(part)).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap().to_vec()
    }

    /// Of a part, what these bytes are when they are asked for alone.
    async fn range(&self, part: Part, range: &str) -> Response {
        self.get(&self.address(part)).header(RANGE, range).send().await.unwrap()
    }
}

fn header(headers: &HeaderMap, name: impl Into<HeaderName>) -> &str {
    headers.get(name.into()).map_or("", |value| value.to_str().unwrap())
}

/// What an answer that is a problem says.
async fn problem(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!((&problem["type"], &problem["status"]), (&"about:blank".into(), &status.into()));
    assert!(!problem["title"].as_str().unwrap().is_empty());
    (status, problem["detail"].as_str().unwrap().to_owned())
}
