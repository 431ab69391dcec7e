//! The way into a bucket of a real S3 server, over HTTP: what is put is there, once, whatever goes wrong on the way.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use longwatch_events::hash::Sha256;
use longwatch_events::time::Timestamp;
use longwatch_testing::s3::{BUCKET, Fault, S3};
use longwatch_worker::archive::s3::{Bucket, Error, Object, PART, Settings};
use tokio::time::Instant;

/// When all video ends.
const END: Timestamp = Timestamp::from_millis(1_795_420_800_000);

struct Given {
    s3: S3,
    folder: tempfile::TempDir,
}

impl Given {
    fn new() -> Self {
        Self { s3: S3::start(), folder: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> Settings {
        Settings {
            bucket: BUCKET.to_owned(),
            prefix: "site/a".to_owned(),
            endpoint: Some(self.s3.endpoint()),
            region: None,
            credentials_file: Some(self.s3.credentials_file()),
            allow_http: true,
            concurrency: 4,
            max_bytes_per_second: None,
            retention_every: None,
        }
    }

    fn bucket(&self) -> Bucket {
        Bucket::open(&self.settings()).unwrap()
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn object(content: &[u8], was_there: bool) -> Object {
    Object { bytes: content.len() as u64, sha256: Sha256::of(content), was_there }
}

/// Bytes that are not all alike.
fn content(bytes: u64, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

/// Puts until it is there.
async fn put(bucket: &Bucket, key: &str, path: &Path) -> Object {
    for _ in 0..100 {
        match bucket.put(key, path, END).await {
            Ok(object) => return object,
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{key}: {error}"),
        }
    }
    panic!("{key} is not there after 100 attempts");
}

#[tokio::test]
async fn a_file_is_put_once_and_found_the_second_time() {
    let given = Given::new();
    let (bucket, bytes) = (given.bucket(), content(300_000, 1));
    let path = given.file("a", &bytes);
    assert_eq!(bucket.put("t/c/d/a.mp4", &path, END).await.unwrap(), object(&bytes, false));
    assert_eq!(bucket.put("t/c/d/a.mp4", &path, END).await.unwrap(), object(&bytes, true));
    let objects = given.s3.objects();
    assert_eq!(objects.keys().collect::<Vec<_>>(), ["site/a/t/c/d/a.mp4"]);
    assert_eq!(objects["site/a/t/c/d/a.mp4"], bytes);
    assert_eq!(given.s3.faults().puts(), 2, "one request is enough for each");
}

#[tokio::test]
async fn what_else_is_there_is_never_overwritten() {
    let given = Given::new();
    let (bucket, bytes) = (given.bucket(), content(1_000, 1));
    let path = given.file("a", &bytes);
    // One that has another size, one that has the same and no metadata, and one that has the same and was put by us.
    given.s3.put("site/a/shorter.mp4", b"other");
    given.s3.put("site/a/other.mp4", &content(1_000, 2));
    bucket.put("ours.mp4", &given.file("b", &content(1_000, 3)), END).await.unwrap();
    let before = given.s3.objects();
    for key in ["shorter.mp4", "other.mp4", "ours.mp4"] {
        let refused = bucket.put(key, &path, END).await.unwrap_err();
        assert!(matches!(refused, Error::Conflict(_)), "{key}: {refused}");
    }
    assert_eq!(given.s3.objects(), before);
    // What somebody else put and is the same is no conflict.
    given.s3.put("site/a/same.mp4", &bytes);
    assert_eq!(bucket.put("same.mp4", &path, END).await.unwrap(), object(&bytes, true));
}

#[tokio::test]
async fn a_large_file_goes_in_parts_and_is_not_overwritten_either() {
    let given = Given::new();
    let (bucket, bytes) = (given.bucket(), content(2 * PART + 5, 1));
    let path = given.file("a", &bytes);
    assert_eq!(bucket.put("c/a.mp4", &path, END).await.unwrap(), object(&bytes, false));
    assert_eq!(given.s3.objects()["site/a/c/a.mp4"], bytes);
    // Begin, three parts, end.
    assert_eq!(given.s3.faults().puts(), 5);
    assert_eq!(bucket.put("c/a.mp4", &path, END).await.unwrap(), object(&bytes, true));
    assert_eq!(given.s3.faults().puts(), 5, "it is found before any part is sent");
    given.s3.put("site/a/c/b.mp4", b"other");
    let refused = bucket.put("c/b.mp4", &path, END).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)), "{refused}");
    assert_eq!(given.s3.objects()["site/a/c/b.mp4"], b"other");
}

/// An object that comes to be while the parts of another one of its name are on their way.
#[tokio::test(flavor = "multi_thread")]
async fn parts_do_not_overwrite_what_came_meanwhile() {
    let given = Given::new();
    let slow = Settings { max_bytes_per_second: Some(PART), ..given.settings() };
    let bucket = Bucket::open(&slow).unwrap();
    let path = given.file("a", &content(PART + 5, 1));
    let put = tokio::spawn(async move { bucket.put("c/a.mp4", &path, END).await });
    let deadline = Instant::now() + Duration::from_secs(30);
    while given.s3.unfinished_uploads() == 0 && given.s3.faults().puts() < 2 {
        assert!(Instant::now() < deadline, "no upload in parts begins");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    given.s3.put("site/a/c/a.mp4", b"other");
    let refused = put.await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)), "{refused}");
    assert_eq!(given.s3.objects()["site/a/c/a.mp4"], b"other");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_each_file_is_there_once_and_whole() {
    for seed in [1, 2, 3] {
        let given = Given::new();
        given.s3.faults().draw(seed, 500);
        let bucket = given.bucket();
        let mut putting = tokio::task::JoinSet::new();
        for n in 0..40_u8 {
            let bytes = content(10_000 + u64::from(n) * 7_000, n);
            let (bucket, path) = (bucket.clone(), given.file(&n.to_string(), &bytes));
            putting.spawn(async move {
                let put = put(&bucket, &format!("t/{n}.mp4"), &path).await;
                assert_eq!(put, object(&bytes, put.was_there), "{n}");
                (format!("site/a/t/{n}.mp4"), bytes)
            });
        }
        let expected: std::collections::BTreeMap<_, _> = putting.join_all().await.into_iter().collect();
        assert!(given.s3.objects() == expected, "seed {seed}: not what was put");
        let met = given.s3.faults().met();
        println!("seed {seed}: {met:?}");
        assert!(Fault::ALL.iter().all(|fault| met.contains_key(fault)), "seed {seed}: {met:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_survives_faults_of_its_parts() {
    let bytes = content(PART + 70_000, 9);
    let mut met = 0;
    for seed in [1, 2, 3] {
        let given = Given::new();
        given.s3.faults().draw(seed, 300);
        let path = given.file("a", &bytes);
        put(&given.bucket(), "t/a.mp4", &path).await;
        assert!(given.s3.objects()["site/a/t/a.mp4"] == bytes, "seed {seed}");
        met += given.s3.faults().met().values().sum::<u64>();
    }
    assert!(met > 3, "hardly anything went wrong: {met}");
}

#[tokio::test]
async fn a_store_that_is_away_refuses_or_is_another_is_told_apart() {
    let given = Given::new();
    let path = given.file("a", b"video");
    given.s3.faults().outage(true);
    let away = given.bucket().put("a.mp4", &path, END).await.unwrap_err();
    assert!(matches!(away, Error::Unavailable(_)), "{away}");
    given.s3.faults().outage(false);
    let put = async |settings: Settings| {
        Bucket::open(&settings).unwrap().put("a.mp4", &path, END).await.unwrap_err()
    };

    let wrong_key = given.file("key", b"access_key_id = 'longwatch'\nsecret_access_key = 'wrong'");
    let refused = put(Settings { credentials_file: Some(wrong_key), ..given.settings() }).await;
    assert!(matches!(&refused, Error::Refused(_)), "{refused}");
    let nobody = put(Settings { endpoint: Some("http://127.0.0.1:1".to_owned()), ..given.settings() }).await;
    assert!(matches!(&nobody, Error::Unavailable(_)), "{nobody}");
    let unread = given.bucket().put("a.mp4", Path::new("/nonexistent/a.mp4"), END).await.unwrap_err();
    assert!(matches!(&unread, Error::File { .. }), "{unread}");
    // Without TLS only if that was said.
    let endpoint = Settings { allow_http: false, ..given.settings() };
    let plain = Bucket::open(&endpoint).unwrap().put("a.mp4", &path, END).await.unwrap_err();
    assert!(plain.to_string().contains("http") && given.s3.objects().is_empty(), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_uploads_together_keep_to_the_rate() {
    let given = Given::new();
    let settings = Settings { max_bytes_per_second: Some(1_000_000), ..given.settings() };
    let bucket = Bucket::open(&settings).unwrap();
    let began = Instant::now();
    let mut putting = tokio::task::JoinSet::new();
    for n in 0..4_u8 {
        let (bucket, path) = (bucket.clone(), given.file(&n.to_string(), &content(500_000, n)));
        putting.spawn(async move { bucket.put(&format!("{n}.mp4"), &path, END).await.unwrap() });
    }
    assert_eq!(putting.join_all().await.len(), 4);
    let took = began.elapsed();
    assert!((Duration::from_millis(1_700)..Duration::from_secs(6)).contains(&took), "{took:?}");
}
