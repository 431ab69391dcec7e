use std::fs;

use longwatch_events::fact::{Cause, Gap, Interrupted};
use longwatch_events::id::{BootId, CameraId, CountingIds, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::{SystemClock, Timestamp};
use proptest::prelude::*;

use super::batch::{MAX_BYTES, Reporter};
use super::*;

fn interrupted(n: u64, detail: &str) -> Fact {
    Fact::Interrupted(Interrupted {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::from_uuid(TenantId::DEFAULT.as_uuid()),
        epoch: Epoch(n),
        at: Timestamp::UNIX_EPOCH,
        cause: Cause::Refused,
        detail: detail.to_owned(),
    })
}

fn gap(n: u64) -> Fact {
    Fact::Gap(Gap {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::from_uuid(TenantId::DEFAULT.as_uuid()),
        epoch: Epoch(n),
        start: Timestamp::UNIX_EPOCH,
        end: Timestamp::from_millis(5_000),
        cause: Cause::WorkerRestarted,
    })
}

fn pack(facts: Vec<Fact>) -> Vec<Envelope> {
    let ids = CountingIds::default();
    Reporter {
        server_id: ServerId::generate(&ids),
        boot_id: BootId::generate(&ids),
        clock: &SystemClock,
        ids: &SystemIds,
    }
    .pack(facts)
}

fn one(fact: Fact) -> Envelope {
    pack(vec![fact]).remove(0)
}

fn drain(outbox: &Outbox) -> Vec<Waiting> {
    std::iter::from_fn(|| {
        let next = outbox.first().unwrap()?;
        outbox.done(next.sequence);
        Some(next)
    })
    .collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "unreadable")
        .collect();
    names.sort();
    names
}

#[test]
fn batches_come_out_as_and_in_which_order_they_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path().into()).unwrap();
    let batches: Vec<_> = (0..12).map(|n| one(gap(n))).collect();
    batches.iter().for_each(|batch| outbox.put(batch.clone()).unwrap());
    assert_eq!((outbox.waiting_facts(), outbox.held_facts()), (12, 0));
    let out = drain(&outbox);
    assert!(out.iter().zip(&batches).all(|(out, batch)| out.payload == batch.encode() && out.id == batch.id));
    assert_eq!((out.len(), outbox.waiting_facts(), files(folder.path()).len()), (12, 0, 0));
}

#[test]
fn what_was_sent_but_not_acknowledged_is_sent_again_under_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let (sent, second) = {
        let outbox = Outbox::open(folder.path().into()).unwrap();
        outbox.put(one(gap(1))).unwrap();
        outbox.put(one(gap(2))).unwrap();
        // When the process is killed after sending, before the acknowledgement …
        (outbox.first().unwrap().unwrap(), one(gap(3)))
    };
    let outbox = Outbox::open(folder.path().into()).unwrap();
    outbox.put(second.clone()).unwrap();
    let again = drain(&outbox);
    // … then the same bytes go first, and newer ones behind all that waited.
    assert_eq!(again[0], sent);
    assert_eq!(again.iter().map(|waiting| waiting.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(again[2].id, second.id);
}

#[test]
fn a_torn_file_is_moved_aside_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    {
        let outbox = Outbox::open(folder.path().into()).unwrap();
        (1..=3).for_each(|n| outbox.put(one(gap(n))).unwrap());
    }
    let torn = folder.path().join("00000000000000000002.json");
    let half = fs::read(&torn).unwrap()[..40].to_vec();
    fs::write(&torn, &half).unwrap();
    let outbox = Outbox::open(folder.path().into()).unwrap();
    let sequences: Vec<_> = drain(&outbox).iter().map(|waiting| waiting.sequence).collect();
    assert_eq!(sequences, [1, 3]);
    assert_eq!(fs::read(folder.path().join("unreadable/00000000000000000002.json")).unwrap(), half);
}

#[test]
fn a_file_that_is_torn_while_it_waits_is_moved_aside_too() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path().into()).unwrap();
    (1..=2).for_each(|n| outbox.put(one(gap(n))).unwrap());
    fs::write(folder.path().join("00000000000000000001.json"), b"").unwrap();
    assert_eq!(outbox.first().unwrap().unwrap().sequence, 2);
    assert!(folder.path().join("unreadable/00000000000000000001.json").exists());
}

#[test]
fn what_cannot_be_read_right_now_keeps_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let batches: Vec<_> = (1..=3).map(|n| one(gap(n))).collect();
    let outbox = Outbox::open(folder.path().into()).unwrap();
    batches.iter().for_each(|batch| outbox.put(batch.clone()).unwrap());
    // Given a file that the disk does not give: here a folder stands in its place for a while …
    let (path, elsewhere) =
        (folder.path().join("00000000000000000001.json"), folder.path().join("elsewhere"));
    fs::rename(&path, &elsewhere).unwrap();
    fs::create_dir(&path).unwrap();
    let error = outbox.first().unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("00000000000000000001"), "{error}");
    // … even across a start …
    let outbox = Outbox::open(folder.path().into()).unwrap();
    assert!(outbox.first().is_err());
    assert_eq!(outbox.waiting_facts(), 3);
    // … then nothing overtakes it, and it goes out first when the disk gives it again.
    fs::remove_dir(&path).unwrap();
    fs::rename(&elsewhere, &path).unwrap();
    let ids: Vec<_> = drain(&outbox).iter().map(|waiting| waiting.id).collect();
    assert_eq!(ids, batches.iter().map(|batch| batch.id).collect::<Vec<_>>());
    assert!(!folder.path().join("unreadable").exists());
}

#[test]
fn an_unfinished_file_is_taken_if_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, torn) = (one(gap(1)).encode(), b"{\"specversion\":\"1.0\"".to_vec());
    fs::write(folder.path().join("00000000000000000007.json.tmp"), &whole).unwrap();
    fs::write(folder.path().join("00000000000000000008.json.tmp"), &torn).unwrap();
    fs::write(folder.path().join("notes.txt"), "somebody else's").unwrap();
    let outbox = Outbox::open(folder.path().into()).unwrap();
    assert_eq!(outbox.first().unwrap().unwrap().payload, whole);
    assert_eq!(fs::read(folder.path().join("unreadable/00000000000000000008.json.tmp")).unwrap(), torn);
    // A number that was used is not used again while its file is there.
    outbox.put(one(gap(2))).unwrap();
    assert_eq!(files(folder.path()), ["00000000000000000007.json", "00000000000000000009.json", "notes.txt"]);
}

/// Makes every write fail: where the unfinished file of `sequence` would be, there is a folder.
fn block(folder: &Path, sequence: u64) -> PathBuf {
    let path = folder.join(format!("{sequence:020}.json.tmp"));
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn what_the_disk_refuses_is_held_sent_in_order_and_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path().into()).unwrap();
    let batches: Vec<_> = (1..=3).map(|n| one(gap(n))).collect();
    let blocked = block(folder.path(), 2);
    outbox.put(batches[0].clone()).unwrap();
    assert!(outbox.put(batches[1].clone()).is_err());
    outbox.put(batches[2].clone()).unwrap();
    assert_eq!((outbox.waiting_facts(), outbox.held_facts()), (3, 1));
    outbox.done(outbox.first().unwrap().unwrap().sequence);
    assert_eq!(outbox.first().unwrap().unwrap().payload, batches[1].encode());
    assert!(outbox.write_held().is_err());
    fs::remove_dir(blocked).unwrap();
    outbox.write_held().unwrap();
    assert_eq!((outbox.waiting_facts(), outbox.held_facts()), (2, 0));
    let again = Outbox::open(folder.path().into()).unwrap();
    assert_eq!(drain(&again).iter().map(|w| w.id).collect::<Vec<_>>(), [batches[1].id, batches[2].id]);
}

#[test]
fn only_what_is_said_again_anyway_is_given_up_first() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path().into()).unwrap();
    block(folder.path(), 1);
    block(folder.path(), 2);
    let facts =
        |from: u64| vec![interrupted(from, "a"), gap(from + 1), interrupted(from + 2, "b"), gap(from + 3)];
    for batch in pack(facts(10)).into_iter().chain(pack(facts(20))) {
        assert!(outbox.put(batch).is_err());
    }
    assert_eq!(outbox.shed(8), Shed::default());
    assert_eq!(outbox.shed(5), Shed { passing: 3, lasting: vec![] });
    assert_eq!(outbox.shed(2), Shed { passing: 1, lasting: vec![gap(11), gap(13)] });
    // The first batch is empty now and gone; the second goes out with what is left of it.
    let left = drain(&outbox);
    assert_eq!((left.len(), left[0].sequence, left[0].facts), (1, 2, 2));
}

proptest! {
    // Each case encodes megabytes.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn packing_keeps_all_facts_in_order_in_batches_that_fit(
        sizes in proptest::collection::vec(0..3_000_usize, 0..1_500),
    ) {
        let facts: Vec<_> = sizes.iter().zip(0..).map(|(size, n)| interrupted(n, &"é".repeat(*size))).collect();
        let batches = pack(facts.clone());
        prop_assert!(batches.iter().all(|batch| batch.encode().len() <= MAX_BYTES));
        let epochs: Vec<_> = batches
            .iter()
            .flat_map(|batch| report_in(&batch.encode()).unwrap().1.facts)
            .map(|fact| {
                let Fact::Interrupted(interrupted) = fact else { panic!("{fact:?}") };
                interrupted.epoch.0
            })
            .collect();
        prop_assert_eq!(epochs, (0..facts.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn no_file_is_too_wild(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("00000000000000000001.json"), &content).unwrap();
        let outbox = Outbox::open(folder.path().into()).unwrap();
        prop_assert_eq!(outbox.first().unwrap(), None);
        prop_assert_eq!(fs::read(folder.path().join("unreadable/00000000000000000001.json")).unwrap(), content);
    }
}
