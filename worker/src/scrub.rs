//! Whether stored segments are what was stored: what follows from what the log says should be there and what lies on the
//! disks. PURE.
//!
//! What should be there is what this server reported and did not report as deleted; it comes from the log, for a list that
//! lies beside the video is lost with it. What is not news is not found again: the log also says what was found before.
//!
//! Invariants: what may be under way (a deletion that is begun, a segment that was stored a moment ago, a volume that is
//! away) is never a finding; of several files under one name the best counts; nothing here removes or changes a file.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::archive::KnownSegment;
use longwatch_events::fact::Damage;
use longwatch_events::hash::Sha256;
use longwatch_events::time::Timestamp;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// All of it was read.
    Read {
        /// Its size.
        bytes: u64,
        /// Its hash.
        sha256: Sha256,
    },
    /// The disk did not let all of it be read.
    Unreadable {
        /// Its size.
        bytes: u64,
    },
}

/// A file with the name of a segment of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When it got its name.
    pub named_at: Timestamp,
    /// What it holds; `None`: that could not be told now.
    pub content: Option<Content>,
}

/// What is known of a part of the archive.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What should be there.
    pub known: &'a [KnownSegment],
    /// What is there, by key: on one volume, and by mistake on several.
    pub seen: &'a BTreeMap<String, Vec<Seen>>,
    /// Keys of deletions, and of uploads, that are begun and may not be reported yet.
    pub deleting: &'a BTreeSet<String>,
    /// Every volume is there and was looked at: what was not seen, is not there.
    pub is_whole: bool,
    /// The present.
    pub now: Timestamp,
    /// A file that got its name so long ago, in milliseconds, has been reported if it ever will be.
    pub reported_after_ms: i64,
}

/// News.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A segment is damaged, and was not or not so before.
    Damaged {
        /// Which.
        segment: KnownSegment,
        /// How.
        damage: Damage,
        /// What is there instead.
        content: Option<Content>,
    },
    /// A segment that was damaged is what was stored.
    Healed {
        /// Which.
        segment: KnownSegment,
    },
    /// A file of this server that nobody reported.
    Orphan {
        /// Its key.
        key: String,
        /// What it holds.
        content: Content,
    },
}

impl Finding {
    /// Of which segment.
    pub fn key(&self) -> &str {
        match self {
            Self::Damaged { segment, .. } | Self::Healed { segment } => &segment.key,
            Self::Orphan { key, .. } => key,
        }
    }
}

/// How many segments were examined, and how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Segments that should be there, and of which it could be told how they are.
    pub checked: u64,
    /// Of these, missing ones.
    pub missing: u64,
    /// Of these, those that are corrupt or cannot be read.
    pub corrupt: u64,
    /// Files of this server that nobody had reported.
    pub orphans: u64,
    /// Files that are not this server's segments. They are left alone.
    pub foreign: u64,
}

impl Counts {
    /// Takes in one examined segment.
    fn count(&mut self, damage: Option<Damage>) {
        self.checked += 1;
        match damage {
            None => {}
            Some(Damage::Missing) => self.missing += 1,
            Some(Damage::Corrupt | Damage::Unreadable) => self.corrupt += 1,
        }
    }

    /// Takes in a finding.
    pub fn find(&mut self, finding: &Finding) {
        match finding {
            Finding::Damaged { damage, .. } => self.count(Some(*damage)),
            Finding::Healed { .. } => self.count(None),
            Finding::Orphan { .. } => self.orphans += 1,
        }
    }

    /// Takes in what others counted.
    pub fn add(&mut self, other: Self) {
        self.checked += other.checked;
        self.missing += other.missing;
        self.corrupt += other.corrupt;
        self.orphans += other.orphans;
        self.foreign += other.foreign;
    }
}

/// What follows: how the segments are of which there is no news, and the news. Of each segment at most one finding, in the
/// order of `known`, then orphans by key.
pub fn judge(view: &View<'_>) -> (Counts, Vec<Finding>) {
    let (mut counts, mut findings) = (Counts::default(), Vec::new());
    for segment in view.known.iter().filter(|segment| !view.deleting.contains(&segment.key)) {
        let Some((damage, content)) = state_of(view, segment) else { continue };
        if damage == segment.damage {
            counts.count(damage);
            continue;
        }
        let segment = segment.clone();
        findings.push(match damage {
            Some(damage) => Finding::Damaged { segment, damage, content },
            None => Finding::Healed { segment },
        });
    }
    let known: BTreeSet<&str> = view.known.iter().map(|segment| segment.key.as_str()).collect();
    for (key, files) in view.seen {
        if known.contains(key.as_str()) || view.deleting.contains(key) {
            continue;
        }
        let settled = files.iter().filter(|file| is_settled(view, file.named_at));
        if let Some(content) = settled.filter_map(|file| file.content).min_by_key(rank) {
            findings.push(Finding::Orphan { key: key.clone(), content });
        }
    }
    (counts, findings)
}

/// Whether a file that got its name then has been reported if it ever will be. One from the future tells that the clock was
/// set back, and is as old as one can be.
pub fn is_settled(view: &View<'_>, named_at: Timestamp) -> bool {
    view.now.millis_since(named_at).abs() >= view.reported_after_ms
}

/// What is wrong with a segment, and what is there instead; `None`: it cannot be told now.
fn state_of(view: &View<'_>, segment: &KnownSegment) -> Option<(Option<Damage>, Option<Content>)> {
    let stored = Content::Read { bytes: segment.bytes, sha256: segment.sha256 };
    let files = view.seen.get(&segment.key).map(Vec::as_slice).unwrap_or_default();
    if files.iter().any(|file| file.content == Some(stored)) {
        return Some((None, None));
    }
    // A better copy may lie where it could not be looked.
    if files.iter().any(|file| file.content.is_none()) || !view.is_whole {
        return None;
    }
    let best = files.iter().filter_map(|file| file.content).min_by_key(rank);
    let damage = match best {
        Some(Content::Read { .. }) => Damage::Corrupt,
        Some(Content::Unreadable { .. }) => Damage::Unreadable,
        None => Damage::Missing,
    };
    Some((Some(damage), best))
}

/// What is worth more comes first.
const fn rank(content: &Content) -> u8 {
    match content {
        Content::Read { .. } => 0,
        Content::Unreadable { .. } => 1,
    }
}

#[cfg(test)]
mod tests;
