//! The recording worker of Longwatch: reads cameras, writes segments, reports facts.
//!
//! Pure core: [`rotation`] (where to cut), [`timeline`] (which wall-clock time a frame has), [`ntp`], [`fmp4`] (the bytes of a
//! segment), [`backoff`] and [`retry`] (when to try again), [`archive::layout`] (where a segment lies), [`plan`] (what to
//! start and stop), [`lease`] (whether others may have taken over), [`wish`] (when a camera is wanted recorded),
//! [`retention`] (which segments go), [`uploads`] (which are uploaded next). Thin shell: [`source`] (cameras), [`archive`]
//! (disk), [`camera`] (one task per camera that joins the
//! two), [`bus`] (NATS), [`tick`] (the threads cameras' tasks run on), [`dials`] (who may connect to their camera now), [`descriptors`] (how many files may be open), [`outbox`] (facts on their way to the log), [`media_server`] (recorded video, to whoever may see it), [`agent`] (joins everything).
//!
//! Invariant: recording never waits for control, the log, or another camera.

pub mod agent;
pub mod archive;
pub mod backoff;
pub mod bus;
pub mod camera;
pub mod config;
pub mod descriptors;
pub mod dials;
pub mod durable;
pub mod fmp4;
pub mod frame;
pub mod holds;
pub mod identity;
pub mod lease;
pub mod load;
pub mod media_server;
pub mod ntp;
pub mod outbox;
pub mod plan;
pub mod retention;
pub mod retry;
pub mod rotation;
pub mod scrub;
pub mod source;
pub mod tick;
pub mod timeline;
pub mod uploads;
pub mod uptime;
pub mod wish;
