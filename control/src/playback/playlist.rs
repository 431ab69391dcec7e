//! What is played, as HLS tells it: RFC 8216 and its second edition (draft-pantos-hls-rfc8216bis), fragmented MP4.
//!
//! Every segment has its own header (`EXT-X-MAP`): whether those of two differ, only the server knows that has them, and a player
//! takes the same one twice. The media of all of them are on one time line, so a player has to begin anew only where the recording
//! does: there stands `EXT-X-DISCONTINUITY`. What is missing stands in `EXT-X-DATERANGE` of the class [`GAP`], with its cause.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, Utc};
use longwatch_events::time::Timestamp;
use m3u8_rs::{ExtTag, MediaPlaylist, MediaPlaylistType, MediaSegment, Start};

use super::cover::Piece;
use crate::read_model::Range;

/// What HLS calls this kind of playlist: fragmented MP4 wants it so (section 7 of the RFC).
const VERSION: usize = 7;
/// The class of what is missing.
pub const GAP: &str = "longwatch.gap";

/// Where the two parts of a piece are given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Its header.
    pub init: String,
    /// Its media.
    pub media: String,
}

/// A stretch of time that is not played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// From when to when.
    pub range: Range,
    /// Why: a word, see `timeline`.
    pub cause: &'static str,
}

/// The playlist of `pieces`, which are at these addresses; a player begins at `from`.
pub fn render(pieces: &[(Piece<'_>, Addresses)], left: &[Left], from: Timestamp) -> String {
    let mut segments = Vec::with_capacity(pieces.len());
    let mut before: Option<&Piece<'_>> = None;
    // They may stand anywhere; the library writes no tags before the first segment.
    let mut tags = left.iter().enumerate().map(|(number, left)| gap(number, left)).collect::<Vec<_>>();
    for (piece, addresses) in pieces {
        // The library has a field for it, and writes that before the discontinuity that it stands behind.
        tags.push(ExtTag { tag: "X-MAP".to_owned(), rest: Some(format!("URI=\"{}\"", addresses.init)) });
        segments.push(MediaSegment {
            uri: addresses.media.clone(),
            duration: length(piece).as_secs_f32(),
            discontinuity: before.is_some_and(|before| !before.goes_on_in(piece)),
            program_date_time: Some(moment(piece.segment.start)),
            unknown_tags: std::mem::take(&mut tags),
            ..MediaSegment::empty()
        });
        before = Some(piece);
    }
    let longest = pieces.iter().map(|(piece, _)| rounded_up(length(piece))).max().unwrap_or(1);
    let playlist = MediaPlaylist {
        version: Some(VERSION),
        target_duration: longest,
        playlist_type: Some(MediaPlaylistType::Vod),
        start: start(pieces, from),
        independent_segments: true,
        segments,
        end_list: true,
        ..MediaPlaylist::default()
    };
    let mut text = Vec::new();
    // Writing to memory does not fail, and what it wrote is text.
    let _: Result<(), _> = playlist.write_to(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Where a player is to begin, if that is not at the beginning.
fn start(pieces: &[(Piece<'_>, Addresses)], from: Timestamp) -> Option<Start> {
    // Time is counted in what is played.
    let mut before = Duration::ZERO;
    for (piece, _) in pieces {
        let into = from.micros_since(piece.segment.start).max(0);
        let into = Duration::from_micros(u64::try_from(into).unwrap_or(0));
        if into < length(piece) {
            let time_offset = (before + into).as_secs_f64();
            let other_attributes = HashMap::new();
            return (time_offset > 0.0).then_some(Start {
                time_offset,
                precise: Some(true),
                other_attributes,
            });
        }
        before += length(piece);
    }
    None
}

fn gap(number: usize, left: &Left) -> ExtTag {
    let (from, to) = (moment(left.range.from), moment(left.range.to));
    let rest = format!(
        "ID=\"gap-{number}\",CLASS=\"{GAP}\",START-DATE=\"{}\",END-DATE=\"{}\",X-CAUSE=\"{}\"",
        from.to_rfc3339(),
        to.to_rfc3339(),
        left.cause
    );
    ExtTag { tag: "X-DATERANGE".to_owned(), rest: Some(rest) }
}

/// The library's calendar reaches further than ours.
fn moment(at: Timestamp) -> DateTime<FixedOffset> {
    DateTime::from_timestamp_micros(at.as_micros()).unwrap_or(DateTime::<Utc>::MAX_UTC).fixed_offset()
}

/// How long a piece lasts; it ends behind its beginning.
fn length(piece: &Piece<'_>) -> Duration {
    Duration::from_micros(u64::try_from(piece.end().micros_since(piece.segment.start)).unwrap_or(0))
}

/// The second edition of the RFC wants no segment longer than this, rounded (section 4.4.3.1).
fn rounded_up(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::ServerId;
    use m3u8_rs::{Playlist, parse_playlist_res};
    use uuid::Uuid;

    use super::super::cover::{cover, tests::segment};
    use super::*;

    const S: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_795_420_800 * S + seconds * S)
    }

    fn addresses(piece: &Piece<'_>) -> Addresses {
        let at = format!("http://rec-1.example.com:8554/media/{}", piece.segment.key);
        Addresses { init: format!("{at}/init.mp4?x=1&y=2"), media: format!("{at}/media.m4s?x=1&y=2") }
    }

    #[test]
    fn a_second_parser_reads_what_was_written() {
        let mut segments = vec![segment(1, 0, 60), segment(1, 60, 120), segment(2, 200, 260)];
        for segment in &mut segments {
            segment.start = segment.start.plus_micros(at(0).as_micros());
            segment.end = segment.end.plus_micros(at(0).as_micros());
        }
        segments[1].end = segments[1].end.plus_micros(-500_000);
        segments[2].server_id = ServerId::from_uuid(Uuid::from_u128(9));
        let range = Range { from: at(70), to: at(300) };
        let pieces: Vec<_> =
            cover(&segments, range).into_iter().map(|piece| (piece, addresses(&piece))).collect();
        let left = [Left { range: Range { from: at(120), to: at(200) }, cause: "server_lost" }];
        let text = render(&pieces, &left, at(70));

        let Ok(Playlist::MediaPlaylist(read)) = parse_playlist_res(text.as_bytes()) else { panic!("{text}") };
        assert_eq!((read.version, read.end_list, read.target_duration), (Some(7), true, 60), "{text}");
        assert_eq!(read.playlist_type, Some(MediaPlaylistType::Vod));
        let [one, two] = &read.segments[..] else { panic!("{text}") };
        assert_eq!((one.duration, two.duration), (59.5, 60.0));
        assert_eq!((one.discontinuity, two.discontinuity), (false, true));
        assert_eq!(one.uri, pieces[0].1.media);
        assert_eq!(two.map.as_ref().unwrap().uri, pieces[1].1.init);
        let begins = two.program_date_time.unwrap().timestamp_micros();
        assert_eq!(begins, at(200).as_micros());
        assert_eq!(read.start.as_ref().map(|start| start.time_offset), Some(10.0), "{text}");
        let order = ["#EXT-X-DISCONTINUITY", "#EXT-X-PROGRAM-DATE-TIME", "#EXT-X-MAP", "#EXTINF"];
        let behind = text.split_once("#EXT-X-DISCONTINUITY").unwrap().1;
        let places = order[1..].iter().map(|tag| behind.find(tag));
        assert!(places.is_sorted(), "{text}");
        let gap = "#EXT-X-DATERANGE:ID=\"gap-0\",CLASS=\"longwatch.gap\",START-DATE=\"2026-11-23T08:02:00+00:00\",\
                   END-DATE=\"2026-11-23T08:03:20+00:00\",X-CAUSE=\"server_lost\"";
        assert!(text.lines().any(|line| line == gap), "{text}");
    }

    #[test]
    fn who_begins_at_the_beginning_is_not_told_where() {
        let segments = [segment(1, 0, 60)];
        let range = Range { from: Timestamp::from_micros(0), to: Timestamp::from_micros(S) };
        let pieces: Vec<_> =
            cover(&segments, range).into_iter().map(|piece| (piece, addresses(&piece))).collect();
        let text = render(&pieces, &[], range.from);
        assert!(!text.contains("EXT-X-START") && !text.contains("DISCONTINUITY"), "{text}");
    }
}
