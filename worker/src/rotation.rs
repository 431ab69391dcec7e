//! Where to cut: fragments about every second, segments about every minute.
//!
//! Pure: decides from media time alone and writes nothing. Invariants: a segment begins with a random access picture;
//! a fragment ends only where no picture that is shown earlier is still to come (unless it grows far too long), so that
//! decode times can follow presentation times.

use longwatch_events::id::CameraId;

/// How long pieces are, in milliseconds of media time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of a segment: cut at the first keyframe at or after this.
    pub segment_ms: u32,
    /// Of a fragment: cut at the first frame at or after this, keyframe or not.
    pub fragment_ms: u32,
    /// Bytes at which a fragment is cut whatever its duration.
    pub fragment_bytes: usize,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { segment_ms: 60_000, fragment_ms: 1_000, fragment_bytes: 4 << 20 }
    }
}

/// Samples, pictures and audio together, at which a fragment is cut whatever its duration: far more than any camera
/// sends in a second, and a bound on what tiny samples cost in bookkeeping.
pub const MAX_FRAGMENT_SAMPLES: u32 = 5_000;
/// New parameters begin a new segment at most this often, in milliseconds of media time: a camera that changes them
/// with every keyframe would otherwise have a file each.
pub const MIN_RENEWAL_MS: i64 = 1_000;

/// What the next video frame means for the pieces before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// No keyframe yet: drop the frame.
    Skip,
    /// Close the segment before it, if there is one; the frame begins a new one.
    Segment,
    /// Close the fragment before it; the frame begins a new one in the same segment.
    Fragment,
    /// The frame belongs to the open fragment.
    Append,
}

/// The pieces of one session.
#[derive(Debug, Clone)]
pub struct Rotation {
    lengths: Lengths,
    /// Limit of the segment that is open or comes next; the first one of a session is shorter.
    segment_limit_ms: i64,
    open: Option<Open>,
    renew: bool,
    /// When new parameters last began a segment.
    renewed_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    segment_start_ms: i64,
    fragment_start_ms: i64,
    latest_ms: i64,
    bytes: usize,
    frames: u32,
    beside_frames: u32,
    /// The first fragment of a session is as short as can be: the sooner a keyframe is durable, the sooner a takeover
    /// is done. Two pictures, because only the second tells whether the camera reorders them.
    first_fragment: bool,
}

impl Open {
    const fn samples(&self) -> u32 {
        self.frames.saturating_add(self.beside_frames)
    }
}

/// How long the first segment of a session may be: between a tenth of `segment_ms` and all of it, by camera, so that
/// cameras that start together do not all cut at the same moment ever after.
fn first_segment_ms(segment_ms: u32, camera: CameraId) -> i64 {
    // The low bytes of a UUIDv7 are random (RFC 9562, section 5.7).
    let [.., high, low] = camera.as_uuid().into_bytes();
    let share = i64::from(u16::from_be_bytes([high, low]));
    let tenth = i64::from(segment_ms) / 10;
    tenth + (i64::from(segment_ms) - tenth) * share / i64::from(u16::MAX)
}

impl Rotation {
    /// Begins a session of `camera`.
    pub fn new(lengths: Lengths, camera: CameraId) -> Self {
        Self {
            lengths,
            segment_limit_ms: first_segment_ms(lengths.segment_ms, camera),
            open: None,
            renew: false,
            renewed_ms: None,
        }
    }

    /// From now on only a keyframe is welcome, and it begins a new segment: frames before it were lost.
    pub fn interrupt(&mut self) {
        self.open = None;
    }

    /// The parameter sets changed: the next keyframe begins a new segment, because a segment has one sample entry. If
    /// they changed less than [`MIN_RENEWAL_MS`] before, it is the first keyframe after that time.
    pub fn renew_segment(&mut self) {
        self.renew = true;
    }

    /// Whether a segment is open.
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Decides about the next video frame in decoding order. `media_ms` is its presentation time; `bytes` its size.
    pub fn next(&mut self, media_ms: i64, random_access: bool, bytes: usize) -> Step {
        let step = self.decide(media_ms, random_access);
        match step {
            Step::Skip => return step,
            Step::Segment => {
                if self.open.is_some() {
                    self.segment_limit_ms = i64::from(self.lengths.segment_ms);
                }
                if std::mem::take(&mut self.renew) {
                    self.renewed_ms = Some(media_ms);
                }
                self.open = Some(Open {
                    segment_start_ms: media_ms,
                    fragment_start_ms: media_ms,
                    latest_ms: media_ms,
                    bytes: 0,
                    frames: 0,
                    beside_frames: 0,
                    first_fragment: self.open.is_none(),
                });
            }
            Step::Fragment => {
                if let Some(open) = &mut self.open {
                    *open = Open {
                        fragment_start_ms: media_ms,
                        bytes: 0,
                        frames: 0,
                        beside_frames: 0,
                        first_fragment: false,
                        ..*open
                    };
                }
            }
            Step::Append => {}
        }
        if let Some(open) = &mut self.open {
            open.latest_ms = open.latest_ms.max(media_ms);
            open.bytes = open.bytes.saturating_add(bytes);
            open.frames = open.frames.saturating_add(1);
        }
        step
    }

    /// Counts what accompanies pictures, an audio frame or a document, towards the size of the open fragment; returns whether
    /// there is room for it. Only a picture begins a new fragment, so a camera that sends no more of them is stopped here.
    pub fn count_beside(&mut self, bytes: usize) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.samples() < MAX_FRAGMENT_SAMPLES) else {
            return false;
        };
        open.bytes = open.bytes.saturating_add(bytes);
        open.beside_frames = open.beside_frames.saturating_add(1);
        true
    }

    fn decide(&self, media_ms: i64, random_access: bool) -> Step {
        let Some(open) = self.open else {
            return if random_access { Step::Segment } else { Step::Skip };
        };
        let segment_ms = media_ms.saturating_sub(open.segment_start_ms);
        let may_renew =
            self.renewed_ms.is_none_or(|before| media_ms.saturating_sub(before) >= MIN_RENEWAL_MS);
        if random_access && (self.renew && may_renew || segment_ms >= self.segment_limit_ms) {
            return Step::Segment;
        }
        let fragment_ms = media_ms.saturating_sub(open.fragment_start_ms);
        let limit_ms = i64::from(self.lengths.fragment_ms);
        let in_order = media_ms > open.latest_ms;
        // A keyframe is the better border, so it may come early; but never a fragment per frame of an intra-only camera.
        let due = (open.first_fragment && open.frames >= 2)
            || fragment_ms >= if random_access { limit_ms / 2 } else { limit_ms };
        let overdue = fragment_ms >= limit_ms.saturating_mul(2)
            || open.bytes >= self.lengths.fragment_bytes
            || open.samples() >= MAX_FRAGMENT_SAMPLES;
        if (due && in_order) || overdue { Step::Fragment } else { Step::Append }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::{CountingIds, SystemIds};
    use proptest::prelude::*;

    const LENGTHS: Lengths = Lengths { segment_ms: 10_000, fragment_ms: 1_000, fragment_bytes: 1 << 20 };

    fn camera() -> CameraId {
        CameraId::generate(&CountingIds::default())
    }

    /// Times of all segment and fragment borders of a camera with `gop_ms` between keyframes, 40 ms between frames.
    fn borders(gop_ms: i64, until_ms: i64) -> (Vec<i64>, Vec<i64>) {
        let mut rotation = Rotation::new(LENGTHS, camera());
        let (mut segments, mut fragments) = (Vec::new(), Vec::new());
        for ms in (0..until_ms).step_by(40) {
            match rotation.next(ms, ms % gop_ms == 0, 100) {
                Step::Segment => segments.push(ms),
                Step::Fragment => fragments.push(ms),
                Step::Append => {}
                Step::Skip => panic!("a keyframe came first"),
            }
        }
        (segments, fragments)
    }

    #[test]
    fn nothing_is_recorded_before_a_keyframe() {
        let mut rotation = Rotation::new(LENGTHS, camera());
        assert_eq!(rotation.next(0, false, 1), Step::Skip);
        assert_eq!(rotation.next(40, true, 1), Step::Segment);
        rotation.interrupt();
        assert_eq!(rotation.next(80, false, 1), Step::Skip);
    }

    #[test]
    fn segments_are_cut_at_keyframes_after_a_staggered_first_one() {
        let (segments, _) = borders(2_000, 60_000);
        assert_eq!(segments[0], 0);
        assert!(segments[1] <= 10_000, "{segments:?}");
        assert!(segments.windows(2).skip(1).all(|pair| pair[1] - pair[0] == 10_000), "{segments:?}");
    }

    #[test]
    fn a_long_gop_is_fragmented_by_time() {
        let (_, fragments) = borders(8_000, 8_000);
        assert!(fragments[0] == 80, "the first keyframe is durable at once: {fragments:?}");
        assert!(fragments.windows(2).all(|pair| pair[1] - pair[0] == 1_000), "{fragments:?}");
    }

    #[test]
    fn an_intra_only_camera_does_not_get_a_fragment_per_frame() {
        let (_, fragments) = borders(40, 5_000);
        assert!(fragments.len() <= 11, "{fragments:?}");
    }

    #[test]
    fn a_fragment_ends_where_no_earlier_picture_follows() {
        let mut rotation = Rotation::new(LENGTHS, camera());
        // I0 P3 B1 B2 P6 B4 B5 … at one second per picture: only P pictures may begin a fragment.
        let steps: Vec<_> = [0, 3, 1, 2, 6, 4, 5].map(|s| rotation.next(s * 900, s == 0, 1)).into();
        assert_eq!(steps[2..4], [Step::Append, Step::Append]);
        assert_eq!(steps[4], Step::Fragment);
    }

    #[test]
    fn new_parameters_wait_for_the_next_keyframe() {
        let mut rotation = Rotation::new(LENGTHS, camera());
        rotation.next(0, true, 1);
        rotation.renew_segment();
        assert_ne!(rotation.next(40, false, 1), Step::Segment);
        assert_eq!(rotation.next(80, true, 1), Step::Segment);
        assert_ne!(rotation.next(120, true, 1), Step::Segment);
    }

    #[test]
    fn parameters_that_change_all_the_time_begin_one_segment_a_second() {
        let mut rotation = Rotation::new(LENGTHS, camera());
        let segments = (0..5_000).step_by(40).filter(|ms| {
            rotation.renew_segment();
            rotation.next(*ms, true, 1) == Step::Segment
        });
        assert_eq!(segments.collect::<Vec<_>>(), [0, 1_000, 2_000, 3_000, 4_000]);
    }

    #[test]
    fn a_change_that_had_to_wait_is_not_forgotten() {
        let mut rotation = Rotation::new(LENGTHS, camera());
        rotation.next(0, true, 1);
        rotation.renew_segment();
        assert_eq!(rotation.next(40, true, 1), Step::Segment);
        rotation.renew_segment();
        assert_ne!(rotation.next(80, true, 1), Step::Segment);
        assert_eq!(rotation.next(1_080, true, 1), Step::Segment);
    }

    #[test]
    fn tiny_samples_are_bounded_by_their_number() {
        let mut rotation = Rotation::new(LENGTHS, camera());
        rotation.next(0, true, 1);
        rotation.next(1, false, 1);
        rotation.next(2, false, 1);
        // Given audio without pictures, then what the fragment has room for is taken and no more …
        let taken = (0..2 * MAX_FRAGMENT_SAMPLES).filter(|_| rotation.count_beside(0)).count();
        assert_eq!(taken + 1, MAX_FRAGMENT_SAMPLES as usize);
        // … and the next picture makes room again; so it is with pictures of one moment.
        let cuts = (0..3 * MAX_FRAGMENT_SAMPLES).filter(|_| rotation.next(3, false, 0) == Step::Fragment);
        assert_eq!(cuts.count(), 3);
        assert!(!rotation.count_beside(0), "the third of them is full");
        assert_eq!(rotation.next(3, false, 0), Step::Fragment);
        assert!(rotation.count_beside(0));
    }

    #[test]
    fn cameras_cut_at_different_moments() {
        let firsts: std::collections::BTreeSet<_> =
            (0..100).map(|_| first_segment_ms(60_000, CameraId::generate(&SystemIds))).collect();
        assert!(firsts.len() > 90, "{firsts:?}");
        assert!(firsts.iter().all(|ms| (6_000..=60_000).contains(ms)), "{firsts:?}");
    }

    proptest! {
        /// Whatever comes, in whatever order: segments begin at keyframes, and fragments are bounded in size.
        #[test]
        fn pieces_stay_bounded(frames in proptest::collection::vec((any::<i64>(), any::<bool>(), 0..400_000_usize), 0..200)) {
            let mut rotation = Rotation::new(LENGTHS, camera());
            let mut bytes = 0_usize;
            for (ms, random_access, size) in frames {
                let step = rotation.next(ms, random_access, size);
                match step {
                    Step::Skip => prop_assert!(!random_access),
                    Step::Segment => { prop_assert!(random_access); bytes = size; }
                    Step::Fragment => bytes = size,
                    Step::Append => bytes += size,
                }
                prop_assert!(bytes < LENGTHS.fragment_bytes + 400_000);
            }
        }
    }
}
