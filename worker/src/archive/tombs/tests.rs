use super::*;
use longwatch_events::fact::DeletionReason;
use longwatch_events::id::{CameraId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::Timestamp;

fn volume() -> VolumeId {
    "01935700-0000-7000-8009-000000000001".parse().unwrap()
}

fn open(path: &Path) -> Tombs {
    Tombs::open(path, volume()).unwrap()
}

fn intention(number: i64) -> Intention {
    let start = Timestamp::from_millis(1_795_420_800_000 + number);
    let camera_id = CameraId::generate(&SystemIds);
    let (server, tenant_id) = ("01935700-0000-7000-8002-000000000001", TenantId::DEFAULT);
    let fact = SegmentDeleted {
        tenant_id,
        camera_id,
        epoch: Epoch(u64::MAX),
        key: format!("{tenant_id}/{camera_id}/2026-11-23/08-00-00.123Z_{}_{server}.mp4", u64::MAX),
        start,
        end: start.plus_millis(60_000),
        bytes: u64::MAX,
        at: start,
        reason: DeletionReason::CameraBytes,
        before_min_age: true,
        store_id: None,
        recorded_by: None,
    };
    Intention { volume: volume(), fact }
}

#[test]
fn what_is_begun_is_found_by_the_next_start_until_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deletions");
    let (first, second) = (intention(1), intention(2));
    let mut tombs = open(&path);
    assert_eq!(tombs.begun(), []);
    tombs.begin(std::slice::from_ref(&first)).unwrap();
    tombs.begin(std::slice::from_ref(&second)).unwrap();
    let size = fs::metadata(&path).unwrap().len();
    let mut tombs = open(&path);
    assert_eq!(tombs.begun(), [first.clone(), second.clone()]);
    tombs.forget(|intention| *intention == first);
    assert_eq!(open(&path).begun().len(), 2, "in memory only");
    tombs.tidy().unwrap();
    assert_eq!(open(&path).begun(), [second]);
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
}

#[test]
fn a_torn_record_leaves_what_was_begun_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deletions");
    let first = intention(1);
    let mut tombs = open(&path);
    tombs.begin(std::slice::from_ref(&first)).unwrap();
    let before = fs::read(&path).unwrap();
    tombs.begin(&[intention(2)]).unwrap();
    let after = fs::read(&path).unwrap();
    // Whatever part of the second record did not reach the disk, the first one is there.
    let changed: Vec<_> = (0..after.len()).filter(|at| before[*at] != after[*at]).collect();
    for cut in changed.iter().step_by(37) {
        let torn = [&after[..*cut], &before[*cut..]].concat();
        fs::write(&path, torn).unwrap();
        assert_eq!(open(&path).begun(), std::slice::from_ref(&first), "cut at {cut}");
    }
}

#[test]
fn as_many_fit_as_are_promised() {
    let folder = tempfile::tempdir().unwrap();
    let mut tombs = open(&folder.path().join("deletions"));
    let most: Vec<_> = (0..400).map(intention).collect();
    assert_eq!(tombs.room(), most.len());
    tombs.begin(&most).unwrap();
    assert_eq!(tombs.room(), 0);
    assert!(tombs.begin(&[intention(1)]).is_err());
    assert_eq!(tombs.begun().len(), MAX);
}

#[test]
fn a_file_that_is_gone_already_counts_as_removed_and_one_that_cannot_go_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(intention).collect();
    let path = |n: usize| folder.path().join(&all[n].fact.key);
    for n in 0..2 {
        fs::create_dir_all(path(n).parent().unwrap()).unwrap();
    }
    fs::write(path(0), "video").unwrap();
    // A folder cannot be unlinked.
    fs::create_dir(path(1)).unwrap();
    let (gone, failed) = remove(&all, |_| Some(folder.path()));
    assert_eq!(gone, [&all[0], &all[2]]);
    assert_eq!(failed.iter().map(|(intention, _)| *intention).collect::<Vec<_>>(), [&all[1]]);
    assert!(!path(0).exists());
    let (gone, failed) = remove(&all[..1], |_| None);
    assert_eq!((gone.len(), failed.len()), (0, 1));
}

/// As its key says it.
fn as_named(mut intention: Intention) -> Intention {
    intention.fact.start = SegmentName::parse(&intention.fact.key).unwrap().start;
    intention
}

const FULL: Allocate = |_| Err(ErrorKind::StorageFull.into());

fn open_on_a_full_disk(path: &Path) -> Tombs {
    Tombs::open_with(path, volume(), FULL).unwrap()
}

/// An archive with the segments of these, of so many bytes each.
fn archive(intentions: &[Intention], bytes: usize) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(".longwatch")).unwrap();
    for intention in intentions {
        let path = root.path().join(&intention.fact.key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![7; bytes]).unwrap();
    }
    root
}

#[test]
fn where_there_is_no_room_the_first_that_goes_makes_it() {
    for bytes in [100_000_usize, 3_000_000] {
        let all: Vec<_> = (0..3).map(intention).collect();
        let root = archive(&all, bytes);
        let path = root.path().join(".longwatch/deletions");
        let mut tombs = open_on_a_full_disk(&path);
        assert!(!tombs.is_made() && !path.exists(), "it holds no room that somebody else needs");
        assert_eq!(tombs.begin(&all).unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(root.path().join(&all[0].fact.key).exists(), "nothing goes without its note");

        tombs.make_of(root.path(), &all[0]).unwrap();

        assert!(tombs.is_made() && !root.path().join(&all[0].fact.key).exists());
        assert_eq!(tombs.begun(), &all[..1]);
        assert!(
            fs::metadata(&path).unwrap().len() <= bytes.min(2 * ROOM) as u64,
            "it takes no more than there was"
        );
        // From then on it is as any other.
        tombs.begin(&all[1..]).unwrap();
        assert_eq!(tombs.shown().among([all[2].fact.key.as_str()]).len(), 1);
        let mut tombs = open_on_a_full_disk(&path);
        assert_eq!(tombs.begun(), all);
        tombs.forget(|intention| *intention != all[1]);
        tombs.tidy().unwrap();
        assert_eq!(open_on_a_full_disk(&path).begun(), &all[1..2]);
        assert!(tombs.make_of(root.path(), &all[1]).is_err(), "once");
        // As many as are promised fit.
        let most: Vec<_> = (10..).map(intention).take(tombs.room()).collect();
        assert!(most.len() >= 70);
        tombs.begin(&most).unwrap();
    }
}

#[test]
fn wherever_it_ends_the_next_start_makes_the_list_and_knows_what_was_begun() {
    let (segment, other) = (as_named(intention(1)), as_named(intention(2)));
    let root = archive(std::slice::from_ref(&segment), 50_000);
    let path = root.path().join(".longwatch/deletions");
    let note = path.with_file_name(note_of(&segment.fact));
    // It was moved, and some of it was overwritten.
    fs::rename(root.path().join(&segment.fact.key), &note).unwrap();
    fs::File::options().write(true).open(&note).unwrap().write_all_at(b"half a record", 0).unwrap();
    let tombs = open_on_a_full_disk(&path);
    assert_eq!(
        (tombs.begun(), tombs.is_made(), note.exists()),
        (std::slice::from_ref(&segment), true, false)
    );
    assert_eq!(open_on_a_full_disk(&path).begun(), std::slice::from_ref(&segment));
    // Where there is a list already it goes there.
    let note = path.with_file_name(note_of(&other.fact));
    fs::write(&note, "the rest").unwrap();
    let tombs = open(&path);
    assert_eq!((tombs.begun(), note.exists()), (&[segment.clone(), other.clone()][..], false));
    // One that is too small for a list is gone all the same, and told.
    fs::remove_file(&path).unwrap();
    fs::write(&note, "small").unwrap();
    let tombs = open_on_a_full_disk(&path);
    assert_eq!((tombs.begun(), tombs.is_made(), note.exists()), (&[other][..], false, false));
    // A list whose making came to no end is made anew.
    fs::write(&path, vec![0; 9_000]).unwrap();
    assert!(open(&path).is_made());
    assert_eq!(fs::metadata(&path).unwrap().len(), 2 * ROOM as u64);
}

#[test]
fn a_name_says_all_that_will_be_told() {
    for (number, reason) in (0..).zip(["age", "camera_bytes", "tenant_bytes", "volume_full"]) {
        let mut fact = as_named(intention(number)).fact;
        fact.reason = serde_json::from_value(reason.into()).unwrap();
        fact.before_min_age = number % 2 == 0;
        let name = note_of(&fact);
        assert!(name.len() <= 255, "a name has a limit: {}", name.len());
        assert_eq!(fact_of(&name), Some(fact));
    }
    for other in ["deletions", "deletions~", "deletions~a~b~c~d.mp4~1~2~3~age~0", "scrub.json"] {
        assert_eq!(fact_of(other), None, "{other}");
    }
}
