//! Opus by another name. The RTSP library (retina 0.4) refuses to play a stream of a codec that it does not know, but it has a way to
//! take packets that are one frame each, as packets of Opus are (RFC 7587): the one for G.722. So in the camera's description Opus is
//! called G.722, at a rate that G.722 never has over RTP (RFC 3551, section 4.5.2: always 8,000). Both names have four letters:
//! nothing else of the answer changes.
//!
//! Pure. Invariants: nothing but that name changes, and of nothing but a description; whatever a camera sends, at most [`MOST`]
//! bytes of it are held.

/// What Opus is called (RFC 7587, section 7), with its rate.
const OPUS: &[u8] = b"opus/48000";
/// What it is called instead.
const DISGUISE: &[u8] = b"g722/48000";
/// Bytes of one answer that are held: far more than any description has.
const MOST: usize = 256 << 10;

/// Whether a stream of this name and rate is Opus in disguise.
pub fn is_opus(encoding_name: &str, rate: u32) -> bool {
    encoding_name == "g722" && rate == 48_000
}

/// What is to be done with what a camera has said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Wait for more of it.
    More,
    /// Pass so many bytes on.
    Pass(usize),
    /// Pass all of it on, and all that follows: the camera has described itself, or will not in any way that is known here.
    Done,
}

/// Reads what is said, one answer at a time, and disguises what is described in it.
pub fn step(said: &mut [u8]) -> Step {
    let Some(head) = said.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if said.len() < MOST { Step::More } else { Step::Done };
    };
    let body = head + 4;
    let text = String::from_utf8_lossy(&said[..head]);
    let header = |name: &str| {
        let named =
            |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        text.lines()
            .find(named)
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    if !text.starts_with("RTSP/") {
        return Step::Done;
    }
    let Ok(length) = header("Content-Length").map_or(Ok(0), |length| length.parse::<usize>()) else {
        return Step::Done;
    };
    let Some(end) = body.checked_add(length).filter(|end| *end <= MOST) else { return Step::Done };
    let describes = header("Content-Type").is_some_and(|kind| kind.starts_with("application/sdp"));
    let Some(description) = said.get_mut(body..end) else { return Step::More };
    if !describes {
        return Step::Pass(end);
    }
    disguise(description);
    Step::Done
}

fn disguise(description: &mut [u8]) {
    for at in 0..description.len().saturating_sub(OPUS.len() - 1) {
        let name = &mut description[at..at + OPUS.len()];
        if name.eq_ignore_ascii_case(OPUS) {
            name.copy_from_slice(DISGUISE);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFUSAL: &str = "RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nContent-Length: 10\r\n\r\nopus/48000";
    const HEAD: &str = "RTSP/1.0 200 OK\r\nCSeq: 2\r\ncontent-type: application/sdp\r\nContent-length: ";

    /// What is passed on of what comes in pieces.
    fn pass(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut said, mut passed, mut done) = (Vec::new(), Vec::new(), false);
        for piece in pieces {
            said.extend_from_slice(piece);
            while !done {
                match step(&mut said) {
                    Step::More => break,
                    Step::Pass(bytes) => passed.extend(said.drain(..bytes)),
                    Step::Done => done = true,
                }
            }
            if done {
                passed.append(&mut said);
            }
        }
        passed
    }

    fn described(sdp: &str) -> String {
        format!("{REFUSAL}{HEAD}{}\r\n\r\n{sdp}", sdp.len())
    }

    proptest! {
        #[test]
        fn only_the_description_changes(cuts in proptest::collection::vec(0..400_usize, 0..5)) {
            let behind = "RTSP/1.0 200 OK\r\nCSeq: 3\r\nX: opus/48000\r\n\r\n$\0\0\u{4}opus/48000";
            let sent = described("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 OPUS/48000/2\r\n") + behind;
            let expected = described("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 g722/48000/2\r\n") + behind;
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(sent.len())).collect();
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &sent.as_bytes()[pair[0]..pair[1]]).collect();
            let passed = pass(&pieces);
            prop_assert_eq!(String::from_utf8_lossy(&passed), expected);
        }

        #[test]
        fn nothing_is_lost_and_nothing_makes_it_panic(
            mut said in proptest::collection::vec(any::<u8>(), 0..200),
            text in "RTSP/1.0 200 OK\r\n(Content-(Length|Type): (\\PC{0,12}|[0-9]{1,20}|application/sdp)\r\n){0,3}\r\n\\PC{0,40}",
        ) {
            let length = said.len();
            step(&mut said);
            prop_assert_eq!(said.len(), length);
            let mut text = text.into_bytes();
            if let Step::Pass(bytes) = step(&mut text) {
                prop_assert!((4..=text.len()).contains(&bytes));
            }
        }
    }

    #[test]
    fn what_has_no_end_is_passed_on_as_it_is() {
        assert_eq!(step(&mut vec![b'x'; MOST]), Step::Done);
        for length in ["99999999", "18446744073709551615", "-1", "x"] {
            let mut text = format!("{HEAD}{length}\r\n\r\nopus/48000").into_bytes();
            assert_eq!(step(&mut text), Step::Done, "{length}");
            assert!(text.ends_with(b"opus/48000"));
        }
    }
}
