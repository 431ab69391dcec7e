use longwatch_events::id::TenantId;
use longwatch_events::position::Epoch;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_795_420_800_000);
const REPORTED_AFTER_MS: i64 = 300_000;

fn segment(number: u8, damage: Option<Damage>) -> KnownSegment {
    let start = NOW.plus_millis(i64::from(number) * 60_000 - 86_400_000);
    KnownSegment {
        tenant_id: TenantId::DEFAULT,
        camera_id: "01935700-0000-7000-8003-000000000001".parse().unwrap(),
        epoch: Epoch(3),
        key: format!("key-{number}"),
        start,
        end: start.plus_millis(60_000),
        bytes: 5,
        sha256: Sha256::of(&[number]),
        damage,
    }
}

fn right(number: u8) -> Content {
    Content::Read { bytes: 5, sha256: Sha256::of(&[number]) }
}

const WRONG: Content = Content::Read { bytes: 5, sha256: Sha256([9; 32]) };
const UNREADABLE: Content = Content::Unreadable { bytes: 5 };

/// A file that got its name long ago.
fn old(content: impl Into<Option<Content>>) -> Seen {
    Seen { named_at: NOW.plus_millis(-REPORTED_AFTER_MS), content: content.into() }
}

type Files = BTreeMap<String, Vec<Seen>>;

fn files(files: &[(u8, &[Seen])]) -> Files {
    files.iter().map(|(number, seen)| (format!("key-{number}"), seen.to_vec())).collect()
}

fn judged(known: &[KnownSegment], seen: &Files, deleting: &[&str], is_whole: bool) -> (Counts, Vec<Finding>) {
    let deleting = deleting.iter().map(|key| (*key).to_owned()).collect();
    let reported_after_ms = REPORTED_AFTER_MS;
    judge(&View { known, seen, deleting: &deleting, is_whole, now: NOW, reported_after_ms })
}

fn words(findings: &[Finding]) -> Vec<(&str, &'static str)> {
    let word = |finding: &Finding| match finding {
        Finding::Damaged { damage, .. } => damage.as_str(),
        Finding::Healed { .. } => "healed",
        Finding::Orphan { .. } => "orphan",
    };
    findings.iter().map(|finding| (finding.key(), word(finding))).collect()
}

#[test]
fn each_kind_of_damage_is_told_apart() {
    let known: Vec<_> = (0..4).map(|number| segment(number, None)).collect();
    let seen =
        files(&[(0, &[old(right(0))]), (1, &[old(WRONG)]), (2, &[old(UNREADABLE)]), (7, &[old(right(7))])]);
    let (counts, findings) = judged(&known, &seen, &[], true);
    let expected = [("key-1", "corrupt"), ("key-2", "unreadable"), ("key-3", "missing"), ("key-7", "orphan")];
    assert_eq!(words(&findings), expected);
    assert_eq!(counts, Counts { checked: 1, ..Counts::default() }, "the others are news");
    assert!(
        matches!(findings[0], Finding::Damaged { content: Some(WRONG), .. }),
        "what is there is told, too"
    );
    let mut all = counts;
    findings.iter().for_each(|finding| all.find(finding));
    assert_eq!(all, Counts { checked: 4, missing: 1, corrupt: 2, orphans: 1, foreign: 0 });
}

#[test]
fn what_is_known_already_is_no_news_and_what_is_right_again_is() {
    let known = [
        segment(0, Some(Damage::Missing)),
        segment(1, Some(Damage::Corrupt)),
        segment(2, Some(Damage::Missing)),
        segment(3, Some(Damage::Missing)),
    ];
    let seen = files(&[(1, &[old(WRONG)]), (2, &[old(right(2))]), (3, &[old(WRONG)])]);
    let (counts, findings) = judged(&known, &seen, &[], true);
    assert_eq!(words(&findings), [("key-2", "healed"), ("key-3", "corrupt")]);
    assert_eq!((counts.checked, counts.missing, counts.corrupt), (2, 1, 1), "they count all the same");
}

#[test]
fn what_may_be_under_way_is_no_finding() {
    let known = [segment(0, None), segment(1, None)];
    // A deletion that is begun, of a file that is there, is not, or is known to nobody any more.
    let seen = files(&[(1, &[old(WRONG)]), (5, &[old(right(5))])]);
    assert_eq!(judged(&known, &seen, &["key-0", "key-1", "key-5"], true), (Counts::default(), Vec::new()));
    // A volume that is away may hold it, or the better copy of it.
    assert_eq!(judged(&known, &files(&[(1, &[old(WRONG)])]), &[], false), (Counts::default(), Vec::new()));
    // A file whose content could not be told.
    let seen = files(&[(0, &[old(right(0))]), (1, &[old(WRONG), old(None)])]);
    assert!(judged(&known, &seen, &[], true).1.is_empty());
    // A segment that was stored just now, though it may be reported already.
    let young = Seen { named_at: NOW.plus_millis(1 - REPORTED_AFTER_MS), content: Some(right(6)) };
    let seen = files(&[(0, &[old(right(0))]), (1, &[old(right(1))]), (6, &[young])]);
    assert!(judged(&known, &seen, &[], true).1.is_empty());
}

#[test]
fn of_several_copies_the_best_counts() {
    let known = [segment(0, None), segment(1, None)];
    let seen = files(&[
        (0, &[old(WRONG), old(UNREADABLE), old(right(0))]),
        (1, &[old(UNREADABLE), old(WRONG)]),
        (8, &[old(UNREADABLE), old(right(8))]),
    ]);
    let (_, findings) = judged(&known, &seen, &[], true);
    assert_eq!(words(&findings), [("key-1", "corrupt"), ("key-8", "orphan")]);
    assert!(matches!(findings[1], Finding::Orphan { content, .. } if content == right(8)));
}

#[test]
fn a_file_from_the_future_is_as_old_as_one_can_be() {
    let seen = files(&[(7, &[Seen { named_at: NOW.plus_millis(86_400_000), content: Some(WRONG) }])]);
    assert_eq!(words(&judged(&[], &seen, &[], true).1), [("key-7", "orphan")]);
}

fn any_content(number: u8) -> impl Strategy<Value = Option<Content>> {
    select(vec![None, Some(right(number)), Some(WRONG), Some(UNREADABLE)])
}

/// Of one segment: whether and with what damage it is known, and the files under its name.
fn any_segment(number: u8) -> impl Strategy<Value = (Option<KnownSegment>, Vec<Seen>, bool)> {
    let damage = select(vec![None, Some(Damage::Missing), Some(Damage::Corrupt), Some(Damage::Unreadable)]);
    let known = proptest::option::of(damage.prop_map(move |damage| segment(number, damage)));
    let seen = (0..2 * REPORTED_AFTER_MS, any_content(number))
        .prop_map(|(age_ms, content)| Seen { named_at: NOW.plus_millis(-age_ms), content });
    (known, proptest::collection::vec(seen, 0..3), proptest::bool::weighted(0.2))
}

/// What is true of a segment after a finding of it was told and folded.
fn told(segment: &Option<KnownSegment>, findings: &[Finding], number: u8) -> Option<KnownSegment> {
    let key = format!("key-{number}");
    match findings.iter().find(|finding| finding.key() == key) {
        None => segment.clone(),
        Some(Finding::Damaged { segment, damage, .. }) => {
            Some(KnownSegment { damage: Some(*damage), ..segment.clone() })
        }
        Some(Finding::Healed { segment }) => Some(KnownSegment { damage: None, ..segment.clone() }),
        Some(Finding::Orphan { content: Content::Read { bytes, sha256 }, .. }) => {
            Some(KnownSegment { bytes: *bytes, sha256: *sha256, ..self::segment(number, None) })
        }
        // Nothing can be reported of it.
        Some(Finding::Orphan { content: Content::Unreadable { .. }, .. }) => segment.clone(),
    }
}

proptest! {
    /// An oracle that looks at each segment on its own, and that what was told once is not told again.
    #[test]
    fn every_segment_is_judged_by_its_own_files_and_once(
        segments in (0..12_u8).map(any_segment).collect::<Vec<_>>(), is_whole in any::<bool>(),
    ) {
        let known: Vec<_> = segments.iter().filter_map(|(known, ..)| known.clone()).collect();
        let numbered = || (0..).zip(&segments);
        let seen: Files = numbered()
            .filter(|(_, (_, seen, _))| !seen.is_empty())
            .map(|(number, (_, seen, _))| (format!("key-{number}"), seen.clone()))
            .collect();
        let deleting: Vec<_> =
            numbered().filter(|(_, (.., going))| *going).map(|(number, _)| format!("key-{number}")).collect();
        let deleting: Vec<&str> = deleting.iter().map(String::as_str).collect();

        let (counts, findings) = judged(&known, &seen, &deleting, is_whole);

        for (number, (known, files, is_going)) in (0_u8..).zip(&segments) {
            let of_it: Vec<_> = findings.iter().filter(|f| f.key() == format!("key-{number}")).collect();
            prop_assert!(of_it.len() <= 1);
            let found = of_it.first();
            if *is_going {
                prop_assert_eq!(found, None);
                continue;
            }
            let has = |content: Option<Content>| files.iter().any(|file| file.content == content);
            match (known, found) {
                // Whatever else lies there, a right file is right, and nothing worse is ever said of it.
                (Some(known), found) if has(Some(right(number))) => match known.damage {
                    Some(_) => prop_assert!(matches!(found, Some(Finding::Healed { .. })), "{:?}", found),
                    None => prop_assert_eq!(found, None),
                },
                (Some(_), Some(Finding::Damaged { damage, .. })) => {
                    prop_assert!(is_whole && !has(None));
                    prop_assert_eq!(*damage == Damage::Missing, files.is_empty());
                    prop_assert_eq!(*damage == Damage::Corrupt, has(Some(WRONG)));
                }
                (Some(known), None) => prop_assert!(!is_whole || has(None) || known.damage.is_some()),
                (Some(_), Some(other)) => prop_assert!(false, "{:?}", other),
                (None, Some(Finding::Orphan { .. })) => prop_assert!(!files.is_empty()),
                (None, Some(other)) => prop_assert!(false, "{:?}", other),
                (None, None) => {
                    let reported = |file: &Seen| NOW.millis_since(file.named_at) >= REPORTED_AFTER_MS;
                    prop_assert!(files.iter().all(|file| file.content.is_none() || !reported(file)));
                }
            }
        }
        prop_assert!(counts.checked <= known.len() as u64);

        // When all of it is told and folded, there is no more news, but what nothing could be told of.
        let known: Vec<_> =
            (0..).zip(&segments).filter_map(|(number, (known, ..))| told(known, &findings, number)).collect();
        let (_, again) = judged(&known, &seen, &deleting, is_whole);
        let unreadable = |finding: &Finding| {
            matches!(finding, Finding::Orphan { content: Content::Unreadable { .. }, .. })
        };
        prop_assert!(again.iter().all(unreadable), "{:?}", again);
    }
}
