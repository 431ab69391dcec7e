//! Both implementations answer any series of appends and retries alike.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use super::*;

/// What an entry says about where its subject ends.
#[derive(Debug, Clone, Copy)]
enum Expectation {
    Right,
    TooOld,
    FromElsewhere,
}

#[derive(Debug, Clone)]
enum Step {
    /// Entries, each under one of three subjects.
    Append(Vec<(usize, Option<Expectation>)>),
    /// What was tried before, with the same ids and conditions, whatever became of it.
    Again(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let expectation = || {
        let wrong = select(vec![Expectation::TooOld, Expectation::FromElsewhere]);
        option::of(prop_oneof![4 => Just(Expectation::Right), 1 => wrong])
    };
    let append = vec((0..3_usize, expectation()), 1..5).prop_map(Step::Append);
    vec(prop_oneof![3 => append, 2 => any::<Index>().prop_map(Step::Again)], 1..12)
}

/// Both logs, which have seen the same so far.
struct Pair {
    memory: MemoryLog,
    jetstream: JetStreamLog,
    next_id: u64,
}

impl Pair {
    /// Runs `steps` under subjects of their own.
    async fn run(&mut self, steps: Vec<Step>) -> TestCaseResult {
        let subjects = [0, 1, 2].map(|n| format!("lw.log.provider.server.{}-{n}", self.next_id));
        let mut tried: Vec<Vec<Entry>> = Vec::new();
        for step in steps {
            let entries = match step {
                Step::Append(items) => {
                    let mut entries = Vec::new();
                    for (subject, expectation) in items {
                        entries.push(self.entry(&subjects[subject], expectation).await);
                    }
                    entries
                }
                Step::Again(index) if !tried.is_empty() => index.get(&tried).clone(),
                Step::Again(_) => continue,
            };
            let (by_memory, by_jetstream) = future::join(
                self.memory.append_atomically(entries.clone()),
                self.jetstream.append_atomically(entries.clone()),
            )
            .await;
            prop_assert_eq!(&kind(&by_memory), &kind(&by_jetstream), "{:?}: {:?}", entries, by_jetstream);
            tried.push(entries);
        }
        for subject in &subjects {
            let found = [last(&self.memory, subject).await, last(&self.jetstream, subject).await];
            prop_assert_eq!(&found[0], &found[1], "{}", subject);
        }
        Ok(())
    }

    async fn entry(&mut self, subject: &str, expectation: Option<Expectation>) -> Entry {
        self.next_id += 1;
        let end = last(&self.memory, subject).await.map_or(0, |(position, _)| position.0);
        let expected = expectation.map(|expectation| match expectation {
            Expectation::Right => end,
            Expectation::TooOld => end.saturating_sub(1),
            Expectation::FromElsewhere => end + 1_000,
        });
        entry(self.next_id, subject, expected)
    }
}

async fn last(log: &dyn Log, subject: &str) -> Option<(Position, Bytes)> {
    let record = log.last(LogStream::Log, subject).await.expect("an answer");
    record.map(|record| (record.position, record.payload))
}

/// An answer without the words in it.
fn kind(answer: &Result<Position, Error>) -> Result<Position, &'static str> {
    match answer {
        Ok(position) => Ok(*position),
        Err(Error::Conflict { .. }) => Err("conflict"),
        Err(Error::Refused(_)) => Err("refused"),
        Err(Error::Unavailable(_)) => Err("unavailable"),
        Err(Error::Disconnected) => Err("disconnected"),
    }
}

#[test]
fn any_series_of_appends_and_retries_is_answered_alike() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let nats = runtime.block_on(nats::NatsServer::start());
    let jetstream = runtime.block_on(jetstream_log(&nats));
    let pair = std::cell::RefCell::new(Pair { memory: memory_log(), jetstream, next_id: 0 });
    // Each case goes on where the last one ended: the server is started once.
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let result =
        TestRunner::new(config).run(&steps(), |steps| runtime.block_on(pair.borrow_mut().run(steps)));
    result.unwrap_or_else(|error| panic!("{error}"));
}
