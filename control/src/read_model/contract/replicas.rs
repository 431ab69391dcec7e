//! The contract for several replicas on one database.

use std::sync::Arc;

use futures::future::join_all;
use longwatch_events::hash::Sha256;
use longwatch_events::id::TenantId;
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;

use super::super::rows::Change;
use super::super::{Applied, Batch, ReadModel};
use super::engine::Engine;
use super::recorder::Recorder;
use super::world::{World, batch_of_one, eventful};

/// The log streams that become rows.
const STREAMS: [LogStream; 2] = [LogStream::Log, LogStream::Recordings];

/// Of a whole log stream the records behind `after`, so many of them.
pub(super) fn cut(whole: &Batch, after: Position, records: u64) -> Batch {
    let up_to = Position(after.0 + records).min(whole.up_to);
    let within = |position: Position| position > after && position <= up_to;
    let changes = whole.changes.iter().filter(|(position, _)| within(*position)).cloned().collect();
    Batch { stream: whole.stream, after, up_to, record: None, changes }
}

/// A log, ready to be applied.
struct Folded([Batch; 2]);

impl Folded {
    async fn eventful() -> Self {
        let recorder = Recorder::default();
        eventful(&mut World::new(&recorder)).await;
        Self(STREAMS.map(|stream| recorder.taken(stream)))
    }

    fn end(&self, stream: LogStream) -> Position {
        self.of(stream).up_to
    }

    fn of(&self, stream: LogStream) -> &Batch {
        self.0.iter().find(|batch| batch.stream == stream).unwrap()
    }

    /// The records behind `after`, so many of them.
    fn cut(&self, stream: LogStream, after: Position, records: u64) -> Batch {
        cut(self.of(stream), after, records)
    }

    /// What a single replica makes of it.
    async fn hash_alone(&self, engine: Engine) -> Sha256 {
        let database = engine.database().await;
        let model = database.open().await;
        for stream in STREAMS {
            assert_eq!(model.apply(self.of(stream)).await.unwrap(), Applied::Written);
        }
        let hash = model.content_hash().await.unwrap();
        drop(model);
        database.remove().await;
        hash
    }
}

/// A follower of both log streams: where it knows the rows to be.
struct Replica {
    model: Arc<dyn ReadModel>,
    known: [Position; 2],
}

impl Replica {
    /// One that starts now.
    async fn starting(model: Arc<dyn ReadModel>) -> Self {
        let mut known = [Position::START; 2];
        for (known, stream) in known.iter_mut().zip(STREAMS) {
            *known = model.written(stream).await.unwrap().position;
        }
        Self { model, known }
    }

    /// Applies the next records of a log stream, so many of them.
    async fn step(&mut self, log: &Folded, stream: usize, records: u64) {
        let (known, stream) = (&mut self.known[stream], STREAMS[stream]);
        let batch = log.cut(stream, *known, records);
        if batch.up_to == *known {
            return;
        }
        let applied = self.model.apply(&batch).await.unwrap();
        assert!(matches!(applied, Applied::Written | Applied::Seen), "{applied:?}");
        *known = batch.up_to;
        // What it was told is true.
        assert!(self.model.written(stream).await.unwrap().position >= *known);
    }

    async fn run_to_the_end(&mut self, log: &Folded, records: u64) {
        for (stream, name) in STREAMS.into_iter().enumerate() {
            while self.known[stream] < log.end(name) {
                self.step(log, stream, records).await;
            }
        }
    }
}

pub(super) async fn replicas_that_apply_at_the_same_time_write_what_one_writes(engine: Engine) {
    let log = Arc::new(Folded::eventful().await);
    let alone = log.hash_alone(engine).await;
    let database = engine.database().await;
    let mut tasks = Vec::new();
    for records in [1, 2, 3, 7] {
        let (mut replica, log) = (Replica::starting(database.open().await).await, Arc::clone(&log));
        tasks.push(tokio::spawn(async move { replica.run_to_the_end(&log, records).await }));
    }
    for ended in join_all(tasks).await {
        ended.unwrap();
    }
    assert_eq!(database.open().await.content_hash().await.unwrap(), alone);
}

/// What a replica does next.
#[derive(Debug, Clone)]
enum Step {
    /// It applies the next so many records of this log stream.
    Apply { replica: usize, stream: usize, records: u64 },
    /// It starts again, with what the database says.
    Restart { replica: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let apply = (0..3_usize, 0..2_usize, 1..9_u64).prop_map(|(replica, stream, records)| Step::Apply {
        replica,
        stream,
        records,
    });
    let step = (any::<u8>(), apply).prop_map(|(chance, apply)| match apply {
        Step::Apply { replica, .. } if chance < 16 => Step::Restart { replica },
        Step::Apply { .. } | Step::Restart { .. } => apply,
    });
    vec(step, 1..60)
}

pub(super) async fn however_the_log_is_cut_and_whoever_comes_first_the_rows_are_the_same(engine: Engine) {
    let log = Folded::eventful().await;
    // Keeps the engine's server up between the cases.
    let _another = engine.database().await;
    let alone = log.hash_alone(engine).await;
    let runtime = Handle::current();
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let property = |steps: Vec<Step>| {
        runtime.block_on(interleaved(engine, &log, alone, steps));
        Ok(())
    };
    tokio::task::block_in_place(|| TestRunner::new(config).run(&steps(), property)).unwrap();
}

async fn interleaved(engine: Engine, log: &Folded, alone: Sha256, steps: Vec<Step>) {
    let database = engine.database().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Replica::starting(database.open().await).await);
    }
    for step in steps {
        match step {
            Step::Apply { replica, stream, records } => replicas[replica].step(log, stream, records).await,
            Step::Restart { replica } => {
                let model = Arc::clone(&replicas[replica].model);
                replicas[replica] = Replica::starting(model).await;
            }
        }
    }
    for replica in &mut replicas {
        replica.run_to_the_end(log, 5).await;
        assert_eq!(replica.model.content_hash().await.unwrap(), alone);
    }
    drop(replicas);
    database.remove().await;
}

pub(super) async fn a_replica_that_lags_changes_nothing(engine: Engine) {
    let log = Folded::eventful().await;
    let database = engine.database().await;
    let mut lagging = Replica::starting(database.open().await).await;
    let mut ahead = Replica::starting(database.open().await).await;
    ahead.run_to_the_end(&log, 10).await;
    let hash = ahead.model.content_hash().await.unwrap();
    for (stream, name) in STREAMS.into_iter().enumerate() {
        while lagging.known[stream] < log.end(name) {
            lagging.step(&log, stream, 3).await;
            assert_eq!(lagging.model.content_hash().await.unwrap(), hash);
        }
    }
}

pub(super) async fn a_batch_that_begins_behind_the_rows_is_not_written(engine: Engine) {
    let log = Folded::eventful().await;
    let database = engine.database().await;
    let model = database.open().await;
    let first = log.cut(LogStream::Log, Position::START, 5);
    assert_eq!(model.apply(&first).await.unwrap(), Applied::Written);
    let hash = model.content_hash().await.unwrap();

    let beyond = log.cut(LogStream::Log, Position(6), 3);

    assert_eq!(model.apply(&beyond).await.unwrap(), Applied::Behind { position: Position(5) });
    let of_nothing_yet = batch_of_one(LogStream::Recordings, Position(2), Vec::new());
    assert_eq!(model.apply(&of_nothing_yet).await.unwrap(), Applied::Behind { position: Position::START });
    assert_eq!(model.content_hash().await.unwrap(), hash);
    // And with what is between, it is written.
    assert_eq!(model.apply(&log.cut(LogStream::Log, Position(5), 4)).await.unwrap(), Applied::Written);
    assert_eq!(model.written(LogStream::Log).await.unwrap().position, Position(9));
}

pub(super) async fn replicas_can_open_a_new_database_at_once(engine: Engine) {
    let database = engine.database().await;
    let models = join_all((0..6).map(|_| database.open())).await;
    let batch = batch_of_one(LogStream::Log, Position(1), vec![Change::DeleteTenant(TenantId::DEFAULT)]);
    let applied = join_all(models.iter().map(|model| model.apply(&batch))).await;
    let written = applied.into_iter().map(Result::unwrap).filter(|applied| *applied == Applied::Written);
    assert_eq!(written.count(), 1, "one of them was first");
}
