//! A camera's metadata, over a connection and a session of its own.
//!
//! The RTSP library would take metadata beside the video, but puts documents together without a bound and ends the session when one is
//! not whole. Here it gives packets, and whatever becomes of this session, the video goes on in its own. Also its times are those of the
//! video alone: a camera that tells no beginning for its metadata would take away what ties sound and video together.
//!
//! Invariant: when nobody listens any more, the camera is told goodbye.

use std::num::NonZeroU32;
use std::sync::Arc;

use futures::StreamExt;
use longwatch_events::fact::Cause;
use retina::client::{PacketItem, Playing, Session as RetinaSession};
use retina::rtcp::ReceivedCompoundPacket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::streams::metadata_stream;
use super::{Camera, play_options, setup, within};
use crate::source::Failure;
use crate::source::documents::{Documents, Part, Whole};
use crate::source::placing::Tie;
use crate::source::tunnel::{Passage, Tunnel};

/// How many times as long as the first pause between two tries the longest one is.
const LONGEST_PAUSE: u32 = 20;

/// What becomes of a camera's metadata.
pub(super) enum Told {
    /// The camera is asked for it now.
    Asked,
    /// It plays, from a beginning of its own.
    Playing,
    /// It cannot be had, or not any more; it will be tried again.
    Lost(Failure),
    /// What the camera says of its clocks.
    Report(Tie),
    /// A document, with units of its time in a second and when it arrived by [`since`].
    Document { document: Whole, rate: NonZeroU32, arrived_us: i64 },
}

/// Microseconds since then.
pub(super) fn since(then: Instant) -> i64 {
    i64::try_from(Instant::now().duration_since(then).as_micros()).unwrap_or(i64::MAX)
}

/// What a sender report says of two clocks.
pub(super) fn tie(packet: &ReceivedCompoundPacket) -> Option<Tie> {
    let (time, first) = (packet.rtp_timestamp()?, packet.pkts().next()?);
    let report = first.as_sender_report().ok()??;
    Some(Tie { time: time.elapsed(), ntp: report.ntp_timestamp().0 })
}

/// Has the metadata, again and again, until nobody listens to what becomes of it. Times count from `opened`.
pub(super) async fn follow(camera: Arc<Camera>, opened: Instant, to: mpsc::Sender<Told>) {
    let following = async {
        let mut pause = camera.timeouts.metadata;
        loop {
            let began = Instant::now();
            tell(&to, Told::Asked).await;
            let failure = match camera.open_metadata().await {
                Ok(session) => camera.listen(session, opened, &to).await,
                Err(failure) => failure,
            };
            if began.elapsed() > pause {
                pause = camera.timeouts.metadata;
            }
            tell(&to, Told::Lost(failure)).await;
            sleep(pause).await;
            pause = (pause * 2).min(camera.timeouts.metadata * LONGEST_PAUSE);
        }
    };
    tokio::select! {
        () = following => {}
        () = to.closed() => {}
    }
}

/// Nobody listens any more: then all of it ends soon.
async fn tell(to: &mpsc::Sender<Told>, told: Told) {
    let _ = to.send(told).await;
}

/// A session that plays nothing but metadata.
struct Listening {
    playing: RetinaSession<Playing>,
    rate: NonZeroU32,
    /// What its connection goes through.
    _tunnel: Option<Tunnel>,
}

impl Camera {
    async fn open_metadata(&self) -> Result<Listening, Failure> {
        let described = self.describe_through(Passage::Open);
        let (mut session, tunnel) =
            within(self.timeouts.connect, "answer to a connection and DESCRIBE", described).await?;
        let offered = metadata_stream(session.streams());
        let offered = offered.and_then(|index| session.streams().get(index).map(|stream| (index, stream)));
        let rate = offered.and_then(|(_, stream)| NonZeroU32::new(stream.clock_rate_hz()));
        let Some(((index, _), rate)) = offered.zip(rate) else {
            return Err(Failure::new(Cause::UnsupportedCodec, "the camera offers no metadata any more"));
        };
        let play = async {
            session.setup(index, setup()).await.map_err(|e| self.failure(&e))?;
            session.play(play_options()).await.map_err(|e| self.failure(&e))
        };
        let playing = within(self.timeouts.play, "answer to SETUP and PLAY of metadata", play).await?;
        Ok(Listening { playing, rate, _tunnel: tunnel })
    }

    /// Puts documents together until the session ends; returns why it did.
    async fn listen(&self, mut session: Listening, opened: Instant, to: &mpsc::Sender<Told>) -> Failure {
        tell(to, Told::Playing).await;
        let (mut documents, mut told) = (Documents::default(), None);
        loop {
            let packet = match session.playing.next().await {
                None => {
                    return Failure::new(Cause::Closed, "the camera closed the connection of its metadata");
                }
                Some(Err(e)) => return self.failure(&e),
                Some(Ok(PacketItem::Rtp(packet))) => packet,
                Some(Ok(PacketItem::Rtcp(packet))) => {
                    if let Some(tie) = tie(&packet) {
                        tell(to, Told::Report(tie)).await;
                    }
                    continue;
                }
                // The library may add kinds.
                Some(Ok(_)) => continue,
            };
            let part = Part {
                payload: packet.payload(),
                time: packet.timestamp().elapsed(),
                last: packet.mark(),
                after_loss: packet.loss() > 0,
            };
            let arrived_us = since(opened);
            let (whole, dropped) = documents.take(part, arrived_us);
            for document in whole {
                tell(to, Told::Document { document, rate: session.rate, arrived_us }).await;
            }
            // Once for each kind and session: a camera does it all the time, or never.
            if let Some(why) = dropped.filter(|why| told != Some(*why)) {
                tracing::warn!(%why, "metadata dropped");
                told = Some(why);
            }
        }
    }
}
