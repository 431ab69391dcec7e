//! A camera that plays: the library's frames as ours, and its metadata beside them.

use std::collections::VecDeque;
use std::future::pending;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use longwatch_events::fact::Cause;
use retina::client::{Demuxed, Stream};
use retina::codec::{CodecItem, VideoFrame as RetinaPicture};
use retina::rtcp::ReceivedCompoundPacket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::metadata::{self, Told};
use super::streams::{Chosen, audio_duration, audio_track, metadata_track, others, video_track};
use super::{Camera, failure};
use crate::frame::{
    Arrival, AudioFrame, Beside, Document, SenderReport, Tracks, VideoFrame, is_random_access,
};
use crate::source::placing::{Placing, Tie};
use crate::source::tunnel::Tunnel;
use crate::source::{Failure, Received, Session};
use crate::timeline::steady::SteadyClock;

/// Documents that wait between two looks at them; more wait in the camera.
const DOCUMENTS: usize = 8;

/// A camera that plays.
pub struct RtspSession {
    camera: Arc<Camera>,
    demuxed: Demuxed,
    video: usize,
    audio: Option<usize>,
    metadata: Option<Metadata>,
    /// What was told last.
    tracks: Option<Arc<Tracks>>,
    queued: VecDeque<Received>,
    /// The newest report, until the first picture gives it a meaning.
    early_report: Option<SenderReport>,
    opened: Instant,
    steady: SteadyClock,
    picture_due: Instant,
    /// What its connection goes through.
    _tunnel: Option<Tunnel>,
}

/// A session of the video whose last picture came so soon after metadata was asked for may have failed because of that.
const SUSPICIOUS: Duration = Duration::from_secs(5);
/// How often in a row that may be before metadata is not asked for any more.
const COINCIDENCES: u32 = 2;
/// The session behind one that has lasted so long without it asks for it again.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// What is had of a camera's metadata, over a connection of its own.
struct Metadata {
    stream: usize,
    told: mpsc::Receiver<Told>,
    task: JoinHandle<()>,
    /// It is had, or nothing says yet that it is not.
    is_had: bool,
    /// When it was last asked for.
    asked: Instant,
    placing: Placing,
}

impl RtspSession {
    /// A session that plays `streams`. Must be called within a runtime.
    pub(super) fn new(
        camera: Arc<Camera>,
        demuxed: Demuxed,
        streams: &Chosen,
        tunnel: Option<Tunnel>,
    ) -> Self {
        let now = Instant::now();
        let rate = demuxed.streams().get(streams.video).map(Stream::clock_rate_hz).and_then(NonZeroU32::new);
        let may_be_asked =
            !*camera.single_session.borrow() && camera.coincidences.load(Ordering::Relaxed) < COINCIDENCES;
        let offered = streams.metadata.filter(|_| may_be_asked);
        let metadata = offered.zip(rate).map(|(stream, rate)| {
            let (to, told) = mpsc::channel(DOCUMENTS);
            Metadata {
                stream,
                told,
                task: tokio::spawn(metadata::follow(Arc::clone(&camera), now, to)),
                is_had: !camera.without_metadata.load(Ordering::Relaxed),
                asked: now,
                placing: Placing::new(rate),
            }
        });
        Self {
            demuxed,
            video: streams.video,
            audio: streams.audio,
            metadata,
            tracks: None,
            queued: VecDeque::new(),
            early_report: None,
            opened: now,
            steady: SteadyClock::new(camera.clock.now(), 0),
            picture_due: now + camera.timeouts.frame,
            camera,
            _tunnel: tunnel,
        }
    }

    fn stalled(&self) -> Failure {
        let what = if self.tracks.is_some() { "no picture" } else { "no picture with its parameter sets" };
        Failure::new(Cause::Stalled, format!("{what} for {} ms", self.camera.timeouts.frame.as_millis()))
    }

    fn current_tracks(&self) -> Option<Tracks> {
        let streams = self.demuxed.streams();
        let video = video_track(streams.get(self.video)?)?;
        let audio = self.audio.and_then(|index| streams.get(index)).and_then(audio_track);
        let had = self.metadata.as_ref().filter(|metadata| metadata.is_had).map(|metadata| metadata.stream);
        let metadata = had.and_then(|index| streams.get(index)).and_then(metadata_track);
        let recorded = [Some(self.video), audio.as_ref().and(self.audio), metadata.as_ref().and(had)];
        let not_recorded = others(streams, &recorded);
        Some(Tracks { video, audio, metadata, not_recorded })
    }

    /// Tells the tracks, if they are others than those that were told.
    fn tell_tracks(&mut self) {
        if let Some(tracks) = self.current_tracks().filter(|tracks| self.tracks.as_deref() != Some(tracks)) {
            let tracks = Arc::new(tracks);
            self.tracks = Some(Arc::clone(&tracks));
            self.queued.push_back(Received::Tracks(tracks));
            self.queued.extend(self.early_report.take().map(Received::Report));
        }
    }

    /// What is taken now was received now, as near as can be told.
    fn arrival(&mut self) -> Arrival {
        let monotonic_us = metadata::since(self.opened);
        Arrival { at: self.steady.read(self.camera.clock.now(), monotonic_us), monotonic_us }
    }

    fn take_report(&mut self, packet: &ReceivedCompoundPacket) {
        if packet.stream_id() != self.video {
            return;
        }
        let Some(Tie { time, ntp }) = metadata::tie(packet) else { return };
        if let Some(metadata) = &mut self.metadata {
            metadata.placing.video_report(Tie { time, ntp });
        }
        let report = SenderReport { media_time: time, ntp, arrival: self.arrival() };
        if self.tracks.is_some() {
            self.queued.push_back(Received::Report(report));
        } else {
            self.early_report = Some(report);
        }
    }

    fn take_picture(&mut self, frame: RetinaPicture) {
        if self.tracks.is_none() || frame.has_new_parameters() {
            self.tell_tracks();
        }
        let Some(codec) = self.tracks.as_ref().map(|tracks| tracks.video.codec) else {
            return;
        };
        let arrival = self.arrival();
        self.picture_due = Instant::now() + self.camera.timeouts.frame;
        let media_time = frame.timestamp().elapsed();
        if let Some(metadata) = &mut self.metadata {
            metadata.placing.picture(media_time, arrival.monotonic_us);
        }
        let random_access = is_random_access(codec, frame.data());
        let data = frame.into_data().into();
        self.queued.push_back(Received::Video(VideoFrame { data, media_time, random_access, arrival }));
    }

    fn take_audio(&mut self, frame: &retina::codec::AudioFrame) {
        // Before the first picture nobody knows where it belongs.
        if self.tracks.is_some() && Some(frame.stream_id()) == self.audio {
            let Some(stream) = self.demuxed.streams().get(frame.stream_id()) else { return };
            let Some(duration) = audio_duration(stream, frame) else {
                tracing::debug!(bytes = frame.data().len(), "camera sent sound that is none");
                return;
            };
            let data = Bytes::copy_from_slice(frame.data());
            let (media_time, arrival) = (frame.timestamp().elapsed(), self.arrival());
            let frame = AudioFrame { data, media_time, duration, arrival };
            self.queued.push_back(Received::Beside(Beside::Audio(frame)));
        }
    }

    /// The session failed. There are cameras of one session that end it when somebody wants another: such a one is recorded without
    /// its metadata, rather than not.
    fn suspect_metadata(&self) {
        let coincidences = &self.camera.coincidences;
        let Some(metadata) = &self.metadata else {
            if self.opened.elapsed() >= FORGOTTEN {
                coincidences.store(0, Ordering::Relaxed);
            }
            return;
        };
        // A camera may go silent without ending the session: what counts is when its last picture came, not when that was noticed.
        let alive = self.picture_due - self.camera.timeouts.frame;
        if alive.saturating_duration_since(metadata.asked) >= SUSPICIOUS {
            coincidences.store(0, Ordering::Relaxed);
        } else if coincidences.fetch_add(1, Ordering::Relaxed) + 1 == COINCIDENCES {
            tracing::warn!("camera fails whenever its metadata is asked for: it is recorded without");
        }
    }

    fn take_told(&mut self, told: Told) {
        let Some(metadata) = &mut self.metadata else { return };
        let had = match told {
            Told::Asked => {
                metadata.asked = Instant::now();
                return;
            }
            Told::Playing => {
                metadata.placing.metadata_anew();
                true
            }
            Told::Lost(Failure { cause, detail }) => {
                if metadata.is_had {
                    tracing::warn!(%cause, detail, "camera is recorded without its metadata");
                }
                false
            }
            Told::Report(tie) => return metadata.placing.metadata_report(tie),
            Told::Document { document, rate, arrived_us } => {
                let media_time = metadata.placing.place(document.time, rate, arrived_us);
                // Before the first picture nobody knows where it belongs.
                if let Some(media_time) = media_time.filter(|_| self.tracks.is_some()) {
                    let document = Document { data: document.data, media_time, arrival: self.arrival() };
                    self.queued.push_back(Received::Beside(Beside::Metadata(document)));
                }
                return;
            }
        };
        metadata.is_had = had;
        self.camera.without_metadata.store(!had, Ordering::Relaxed);
        if self.tracks.is_some() {
            self.tell_tracks();
        }
    }
}

/// What comes next of the metadata; waits for ever if there is none.
async fn next_told(metadata: &mut Option<Metadata>) -> Told {
    match metadata {
        Some(Metadata { told, .. }) => match told.recv().await {
            Some(told) => told,
            None => pending().await,
        },
        None => pending().await,
    }
}

impl Session for RtspSession {
    async fn next(&mut self) -> Result<Received, Failure> {
        let next = self.receive().await;
        if next.is_err() {
            self.suspect_metadata();
        }
        next
    }

    async fn close(self) {
        let Self { demuxed, camera, metadata, _tunnel, .. } = self;
        // Dropping it sends TEARDOWN in the background.
        drop(demuxed);
        let goodbyes = async {
            if let Some(Metadata { told, task, .. }) = metadata {
                drop(told);
                let _ = task.await;
            }
            camera.group.await_teardown().await
        };
        let _ = timeout(camera.timeouts.teardown, goodbyes).await;
    }
}

impl RtspSession {
    async fn receive(&mut self) -> Result<Received, Failure> {
        loop {
            if let Some(received) = self.queued.pop_front() {
                return Ok(received);
            }
            let item = tokio::select! {
                // Which picture a document comes with is known once that is taken.
                biased;
                item = timeout_at(self.picture_due, self.demuxed.next()) => item.map_err(|_| self.stalled())?,
                told = next_told(&mut self.metadata) => {
                    self.take_told(told);
                    continue;
                }
            };
            match item {
                None => return Err(Failure::new(Cause::Closed, "the camera closed the connection")),
                Some(Err(e)) => return Err(failure(&self.camera.redactor, &e)),
                Some(Ok(CodecItem::VideoFrame(frame))) => self.take_picture(frame),
                Some(Ok(CodecItem::AudioFrame(frame))) => self.take_audio(&frame),
                Some(Ok(CodecItem::Rtcp(packet))) => self.take_report(&packet),
                // The library may add kinds.
                Some(Ok(_)) => {}
            }
            // Sound without pictures is a stall as well.
            if self.queued.is_empty() && Instant::now() >= self.picture_due {
                return Err(self.stalled());
            }
        }
    }
}
