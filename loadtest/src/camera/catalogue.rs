//! Which camera a path names, and how it behaves. Pure.
//!
//! | path | camera | number in the SEI |
//! |---|---|---|
//! | `/cam/N` | the clips given, or 1080p25 H.264 with AAC | N |
//! | `/h265/N` `/small/N` `/auth/N` `/bframes/N` | the other built-in clips; `auth` wants a password | 1, 2, 3, 4 million + N |
//! | `/silent/N` | as `/cam/N`, without audio | 5 million + N |
//! | `/sha256/N` `/basic/N` | as `/auth/N`, with other schemes of authentication | 6, 7 million + N |
//! | `/redirect/N` | sends to `/small/N` | 8 million + N |
//! | `/odd/NAME/N` | can be recorded, but is odd, see [`Oddity`] | 10 million per name and on + N |
//! | `/hostile/NAME` or `/hostile/NAME/M`, M up to 999 | misbehaves, see [`Behaviour`] | 9 million + 1,000 per name + M |
//!
//! N is 1 to the number of cameras served.

use std::path::PathBuf;
use std::sync::Arc;

use crate::camera::clip::{self, Clip, embedded};
use crate::camera::digest::{Credentials, Scheme};
use crate::camera::feed::Feed;
use crate::camera::oddity::Oddity;

/// Everything a server can show.
#[derive(Debug)]
pub struct Catalogue {
    count: u32,
    digest: Option<Credentials>,
    main: Vec<Arc<Clip>>,
    silent: Vec<Arc<Clip>>,
    h265: Arc<Clip>,
    small: Arc<Clip>,
    bframes: Arc<Clip>,
    odd: Vec<Arc<Clip>>,
}

/// A camera that was asked for.
#[derive(Debug, Clone)]
pub struct Camera {
    /// What it sends.
    pub feed: Arc<Feed>,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// Whose password it wants.
    pub credentials: Option<Credentials>,
    /// How it wants it.
    pub scheme: Scheme,
}

/// How a camera behaves. The text is its name in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// As a camera should.
    Good,
    /// `401`: refuses every password.
    Refuse,
    /// `404`: says that it is not there.
    NotFound,
    /// `hang`: takes the connection and never answers.
    Hang,
    /// `hang-after-play`: answers, keepalives too, but sends no packet.
    HangAfterPlay,
    /// `stall`: 3 s of video, then nothing, but it answers keepalives.
    Stall,
    /// `garbage`: answers each request with random bytes.
    Garbage,
    /// `garbage-after-play`: sends random bytes where packets should be.
    GarbageAfterPlay,
    /// `close`: closes the connection on the first request.
    Close,
    /// `close-after-5s`: closes it 5 s after PLAY.
    CloseAfter5s,
    /// `cut`: closes it 3 s after PLAY, in the middle of a packet.
    Cut,
    /// `stale`: keeps a session for a minute that was not torn down, and plays for nobody else meanwhile.
    Stale,
    /// `audio-only`: offers nothing but sound.
    AudioOnly,
    /// `broken-sdp`: describes itself by text that is no SDP.
    BrokenSdp,
    /// `redirect-loop`: sends everybody to itself.
    RedirectLoop,
    /// `redirect-out`: sends everybody to `[::1]`.
    RedirectOut,
    /// `redirect-http`: sends everybody to a web server.
    RedirectHttp,
    /// Sends everybody to `/small/N`; not among the hostile ones.
    Redirect,
}

const HOSTILE: [(&str, Behaviour); 16] = [
    ("401", Behaviour::Refuse),
    ("404", Behaviour::NotFound),
    ("hang", Behaviour::Hang),
    ("hang-after-play", Behaviour::HangAfterPlay),
    ("stall", Behaviour::Stall),
    ("garbage", Behaviour::Garbage),
    ("garbage-after-play", Behaviour::GarbageAfterPlay),
    ("close", Behaviour::Close),
    ("close-after-5s", Behaviour::CloseAfter5s),
    ("cut", Behaviour::Cut),
    ("stale", Behaviour::Stale),
    ("audio-only", Behaviour::AudioOnly),
    ("broken-sdp", Behaviour::BrokenSdp),
    ("redirect-loop", Behaviour::RedirectLoop),
    ("redirect-out", Behaviour::RedirectOut),
    ("redirect-http", Behaviour::RedirectHttp),
];
const HOSTILE_COPIES: u32 = 999;
const MILLION: u32 = 1_000_000;

impl Catalogue {
    /// `count` (1 to 999,999) cameras showing `clips` in turn, or the built-in one if there are none. With `digest`
    /// every camera wants that password; without, only `/auth/N` wants one, `user:pass`.
    ///
    /// # Errors
    /// A clip that cannot be used.
    pub fn load(count: u32, clips: &[PathBuf], digest: Option<Credentials>) -> Result<Self, clip::Error> {
        let built_in = |name, bytes| Clip::from_mp4(name, bytes).map(Arc::new);
        let main = || -> Result<Vec<Clip>, clip::Error> {
            match clips {
                [] => Ok(vec![Clip::from_mp4("h264", embedded::H264)?]),
                clips => clips.iter().map(|path| Clip::open(path)).collect(),
            }
        };
        let silent = main()?.into_iter().map(|clip| Arc::new(clip.without_audio())).collect();
        Ok(Self {
            count,
            digest,
            main: main()?.into_iter().map(Arc::new).collect(),
            silent,
            h265: built_in("h265", embedded::H265)?,
            small: built_in("small", embedded::SMALL)?,
            bframes: built_in("bframes", embedded::BFRAMES)?,
            odd: Oddity::ALL.iter().map(|(_, oddity)| oddity.clip()).collect::<Result<_, _>>()?,
        })
    }

    /// The camera at `path`, such as `/cam/1`.
    pub fn find(&self, path: &str) -> Option<Camera> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let (family, name, copy) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() {
            return None;
        }
        if family == "hostile" {
            return self.hostile(name, copy);
        }
        if family == "odd" {
            return self.odd(name, number(copy?, self.count)?);
        }
        let number = number(name, self.count).filter(|_| copy.is_none())?;
        let index = number - 1;
        let (clip, family) = match family {
            "cam" => (in_turn(&self.main, index), 0),
            "h265" => (&self.h265, 1),
            "small" => (&self.small, 2),
            "auth" => (in_turn(&self.main, index), 3),
            "bframes" => (&self.bframes, 4),
            "silent" => (in_turn(&self.silent, index), 5),
            "sha256" => (&self.small, 6),
            "basic" => (&self.small, 7),
            "redirect" => (&self.small, 8),
            _ => return None,
        };
        let (locked, scheme) = match family {
            3 => (true, Scheme::Md5),
            6 => (true, Scheme::Sha256),
            7 => (true, Scheme::Basic),
            _ => (false, Scheme::Md5),
        };
        let fallback = locked.then(|| Credentials::new("user", "pass"));
        Some(Camera {
            feed: Arc::new(Feed::new(family * MILLION + number, index, Arc::clone(clip))),
            behaviour: if family == 8 { Behaviour::Redirect } else { Behaviour::Good },
            credentials: self.digest.clone().or(fallback),
            scheme,
        })
    }

    fn odd(&self, name: &str, number: u32) -> Option<Camera> {
        let mut kinds = (10_u32..).zip(Oddity::ALL).zip(&self.odd);
        let ((kind, (_, oddity)), clip) = kinds.find(|((_, (odd, _)), _)| *odd == name)?;
        let feed = Feed::new(kind * MILLION + number, number - 1, Arc::clone(clip));
        Some(Camera {
            feed: Arc::new(feed.with_traits(oddity.traits())),
            behaviour: Behaviour::Good,
            credentials: self.digest.clone(),
            scheme: Scheme::Md5,
        })
    }

    fn hostile(&self, name: &str, copy: Option<&str>) -> Option<Camera> {
        let (kind, (_, behaviour)) = (0_u32..).zip(HOSTILE).find(|(_, (hostile, _))| *hostile == name)?;
        let copy = copy.map_or(Some(0), |copy| number(copy, HOSTILE_COPIES))?;
        let number = 9 * MILLION + kind * (HOSTILE_COPIES + 1) + copy;
        Some(Camera {
            feed: Arc::new(Feed::new(number, copy, Arc::clone(&self.small))),
            behaviour,
            credentials: None,
            scheme: Scheme::Md5,
        })
    }

    /// Cameras served.
    pub fn count(&self) -> u32 {
        self.count
    }
}

fn in_turn(clips: &[Arc<Clip>], index: u32) -> &Arc<Clip> {
    &clips[usize::try_from(index).unwrap_or(0) % clips.len()]
}

/// A number from 1 to `most`, written plainly (no sign, no leading zero: one path per camera).
fn number(text: &str, most: u32) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text && (1..=most).contains(&number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn paths_name_cameras_with_numbers_of_their_own() {
        let catalogue = Catalogue::load(3, &[], None).unwrap();
        let mut paths: Vec<String> = HOSTILE.iter().map(|(name, _)| format!("/hostile/{name}")).collect();
        paths.push("/hostile/stall/2".to_owned());
        paths.extend(Oddity::ALL.map(|(name, _)| format!("/odd/{name}/1")));
        paths.push("/odd/pcmu/3".to_owned());
        for family in ["cam", "h265", "small", "auth", "bframes", "silent", "sha256", "basic", "redirect"] {
            paths.extend((1..=3).map(|number| format!("/{family}/{number}")));
        }
        let numbers: BTreeSet<u32> =
            paths.iter().map(|path| catalogue.find(path).expect(path).feed.number()).collect();
        assert_eq!(numbers.len(), paths.len());
        assert!(numbers.contains(&1));
    }

    #[test]
    fn other_paths_name_nothing() {
        let catalogue = Catalogue::load(3, &[], None).unwrap();
        for path in [
            "",
            "/",
            "/cam",
            "/cam/0",
            "/cam/4",
            "/cam/01",
            "/cam/+1",
            "/cam/1/2",
            "/x/1",
            "/hostile/x",
            "/odd/pcmu",
            "/odd/x/1",
        ] {
            assert!(catalogue.find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn passwords_are_wanted_where_they_should_be() {
        let open = Catalogue::load(1, &[], None).unwrap();
        assert!(open.find("/cam/1").unwrap().credentials.is_none());
        assert!(open.find("/auth/1").unwrap().credentials.is_some());
        let closed = Catalogue::load(1, &[], Some(Credentials::new("a", "b"))).unwrap();
        assert!(closed.find("/cam/1").unwrap().credentials.is_some());
    }
}
