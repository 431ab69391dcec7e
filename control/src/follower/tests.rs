//! What followers do with logs and databases that are not as they should be, and beside other replicas.

use std::collections::BTreeSet;
use std::sync::Arc;

use longwatch_events::id::{EventId, ServerId, SystemIds};
use longwatch_events::log::Log as _;
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::settings::Capacity;
use longwatch_events::subject;
use longwatch_events::time::{Clock as _, ManualClock};

use super::*;
use crate::decide::command::Command;
use crate::decide::placement::{self, Evidence, Inputs, Scope};
use crate::read_model::{CameraFilter, Page};
use crate::service::CommandError;
use crate::testing::TestControl;

fn rename(control: &TestControl, name: &str) -> Command {
    let expected = control.service.state().tenant(TenantId::DEFAULT).unwrap().version;
    Command::ChangeTenant { tenant_id: TenantId::DEFAULT, expected, name: name.into() }
}

#[tokio::test]
async fn a_report_that_cannot_be_read_stops_nobody_and_is_set_aside() {
    let control = TestControl::start().await;
    let server_id = ServerId::generate(&SystemIds);
    let newer = r#"{"specversion":"1.0","id":"01935700-0000-7000-8004-000000000001","source":"/server/x",
        "type":"longwatch.recording.reported.v2","time":"2026-11-23T08:00:00Z","actor":"x","data":{}}"#;
    for payload in [newer, "no JSON"] {
        let subject = subject::recording(server_id);
        control.append_raw(LogStream::Recordings, subject, payload.to_owned()).await;
    }
    control.until_progress(|progress| progress.recordings == Position(2)).await;
    assert_eq!(control.service.halted(), None);
    control.execute(rename(&control, "renamed")).await;
}

#[tokio::test]
async fn behind_poison_nothing_is_written() {
    let control = TestControl::start().await;
    control.append_raw(LogStream::Log, "lw.log.provider.server.x".to_owned(), "poison".to_owned()).await;
    halted(&control).await;
    let end = control.log.end(LogStream::Log).await.unwrap();
    let refused =
        control.service.execute("test", EventId::generate(&SystemIds), rename(&control, "renamed")).await;
    assert!(matches!(refused, Err(CommandError::Halted(why)) if why.contains("position 2")));
    assert_eq!(control.log.end(LogStream::Log).await.unwrap(), end);
    assert!(!control.service.health().ready);
}

#[tokio::test]
async fn on_a_new_connection_nothing_is_decided_until_it_is_known_where_the_log_ends() {
    let control = TestControl::start().await;
    control.execute(rename(&control, "renamed")).await;
    let end = control.log.end(LogStream::Log).await.unwrap();
    let execute = async |name: &str| {
        let command = rename(&control, name);
        let looking = async {
            sleep(Duration::from_millis(50)).await;
            check_ends(&control.service).await;
        };
        let executing = control.service.execute("test", EventId::generate(&SystemIds), command);
        let mut executing = std::pin::pin!(executing);
        tokio::select! {
            done = &mut executing => panic!("nobody looked, and yet: {done:?}"),
            () = looking => {}
        }
        executing.await
    };
    // Given the same log, then it goes on; ...
    control.log.set_back(LogStream::Log, end);
    let position = execute("again").await.unwrap();
    assert_eq!(position, end.next());
    // ... given one that was set back, then nothing is written to it, although the condition would hold.
    control.log.set_back(LogStream::Log, end);
    let refused = execute("never").await;
    assert!(matches!(refused, Err(CommandError::Halted(why)) if why.contains("rolled back")));
    assert_eq!(control.log.end(LogStream::Log).await.unwrap(), end);
}

/// Why it halted; it must.
async fn halted(control: &TestControl) -> String {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(why) = control.service.halted() {
            return why;
        }
        assert!(tokio::time::Instant::now() < deadline, "it goes on");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Where the log ends once there is nothing left to plan.
async fn planned(control: &TestControl) -> Position {
    let asked = control.log.end(LogStream::Log).await.unwrap();
    let (now, evidence, lose) = (control.service.log_now(), Evidence::new(), BTreeSet::new());
    let is_planned = |state: &State| {
        let inputs = Inputs { state, now, evidence: &evidence, lose: &lose, scope: Scope::All };
        placement::plan(&inputs).entries.is_empty()
    };
    control.until(|state| state.position >= asked && is_planned(state)).await;
    let end = control.log.end(LogStream::Log).await.unwrap();
    control.service.folded(end).await.unwrap();
    end
}

async fn add_cameras(control: &TestControl, urls: impl Iterator<Item = u32>) {
    for n in urls {
        control.add_camera(&format!("rtsp://h/{n}")).await;
    }
}

#[tokio::test]
async fn replicas_share_a_read_model_and_each_finds_there_what_it_has_folded() {
    let first = TestControl::start().await;
    first.add_server("a", Capacity::default()).await;
    let second = first.replica().await;
    second.until_progress(|progress| progress.caught_up).await;

    tokio::join!(add_cameras(&first, 0..20), add_cameras(&second, 20..40));

    let end = planned(&first).await;
    for replica in [&first, &second] {
        replica.service.folded(end).await.unwrap();
        assert_eq!(replica.service.halted(), None);
        let cameras = replica.service.state().cameras().count();
        let page = Page { after: None, limit: 100 };
        let model = replica.service.read_model();
        let rows = model.cameras(TenantId::DEFAULT, CameraFilter::default(), page).await.unwrap();
        assert_eq!((cameras, rows.items.len()), (40, 40));
    }
    // And it is what one alone makes of the log.
    let alone = TestControl::on(first.log.clone(), first.clock.clone()).await;
    alone.service.folded(end).await.unwrap();
    let hash = alone.service.read_model().content_hash().await.unwrap();
    assert_eq!(first.service.read_model().content_hash().await.unwrap(), hash);
}

#[tokio::test]
async fn a_database_that_is_set_back_is_written_anew_while_everything_goes_on() {
    let control = TestControl::start().await;
    let server_id = control.add_server("a", Capacity::default()).await;
    add_cameras(&control, 0..3).await;
    let report = |fact: &str| (subject::recording(server_id), fact.to_owned());
    for _ in 0..3 {
        let (subject, payload) = report("not readable, which is a row as well");
        control.append_raw(LogStream::Recordings, subject, payload).await;
    }
    control.until_progress(|progress| progress.recordings == Position(3)).await;

    control.lose_rows().await;
    control.execute(rename(&control, "renamed")).await;
    let (subject, payload) = report("one more");
    control.append_raw(LogStream::Recordings, subject, payload).await;

    control.until_progress(|progress| progress.recordings == Position(4)).await;
    let end = planned(&control).await;
    assert_eq!(control.service.halted(), None);
    assert!(control.service.health().ready);
    let anew = TestControl::on(control.log.clone(), control.clock.clone()).await;
    anew.until_progress(|progress| progress.recordings == Position(4) && progress.log == end).await;
    assert_eq!(
        control.service.read_model().content_hash().await.unwrap(),
        anew.service.read_model().content_hash().await.unwrap()
    );
}

#[tokio::test]
async fn a_log_that_was_rolled_back_or_replaced_halts() {
    let first = TestControl::start().await;
    let clock = first.clock.clone();
    for n in 0..3 {
        first.execute(rename(&first, &n.to_string())).await;
    }
    let folder = first.into_folder();
    let empty = MemoryLog::new(clock.clone());
    let second = TestControl::with_rows_of(folder, empty, clock.clone()).await;
    assert!(halted(&second).await.contains("LOG ends at position 0, but"));

    // A log of another system, as long as the first.
    let folder = second.into_folder();
    let later = Arc::new(ManualClock::starting_at(clock.now().plus_millis(60_000)));
    let log = MemoryLog::new(later.clone());
    let another = TestControl::on(log.clone(), later.clone()).await;
    another.until_progress(|progress| progress.caught_up).await;
    let data_key = another.service.new_data_key(TenantId::DEFAULT).unwrap();
    let tenant_id = TenantId::DEFAULT;
    another.execute(Command::CreateTenant { tenant_id, name: "Another".into(), data_key }).await;
    for n in 0..5 {
        another.execute(rename(&another, &n.to_string())).await;
    }
    let third = TestControl::with_rows_of(folder, log, later).await;
    assert!(halted(&third).await.contains("at position 4 of LOG stands another record"));
}

#[tokio::test]
async fn a_log_that_was_rolled_back_and_has_grown_since_halts_whoever_knew_the_old_one() {
    let old = TestControl::start().await;
    old.execute(rename(&old, "lost")).await;
    let report = |text: &str| {
        (LogStream::Recordings, subject::recording(ServerId::generate(&SystemIds)), text.to_owned())
    };
    let (stream, subject, payload) = report("lost, too");
    old.append_raw(stream, subject, payload).await;
    old.until_progress(|progress| progress.recordings == Position(1)).await;
    let (log, clock) = (old.log.clone(), old.clock.clone());
    // Given a log that is rolled back, and then grows past where it had been, by one who knows nothing of that.
    log.set_back(LogStream::Log, Position(1));
    let new = TestControl::on(log.clone(), clock.clone()).await;
    new.until_progress(|progress| progress.caught_up).await;
    for n in 0..3 {
        new.execute(rename(&new, &n.to_string())).await;
    }
    // Then whoever was there halts when it looks, although the log is long enough and goes on where it had stopped; ...
    check_ends(&old.service).await;
    assert!(halted(&old).await.contains("at position 2 of LOG stands another record"));
    check_ends(&new.service).await;
    assert_eq!(new.service.halted(), None);
    // ... and whoever comes to its rows.
    let restarted = TestControl::with_rows_of(old.into_folder(), log.clone(), clock.clone()).await;
    let why = halted(&restarted).await;
    assert!(
        why.contains("stands another record") && why.contains("remove the read model's database"),
        "{why}"
    );
    assert!(!restarted.service.knows_the_end());

    // The same of RECORDINGS, which workers write.
    log.set_back(LogStream::Recordings, Position::START);
    for _ in 0..2 {
        let (stream, subject, payload) = report("another");
        new.append_raw(stream, subject, payload).await;
    }
    check_ends(&new.service).await;
    assert!(halted(&new).await.contains("at position 1 of RECORDINGS stands another record"));
    let restarted = TestControl::with_rows_of(new.into_folder(), log, clock).await;
    assert!(halted(&restarted).await.contains("of RECORDINGS stands another record"));
}
