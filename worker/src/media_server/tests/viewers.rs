//! Many viewers, and viewers that do nothing.

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;

const SHORT: Duration = Duration::from_millis(300);

fn limits(connections: usize) -> Limits {
    let (request, standstill) = (Duration::from_secs(20), Duration::from_secs(20));
    Limits { connections, refusals: 8, request, standstill, ..Limits::with(None) }
}

/// A connection on which this address is asked for, and nothing is read.
async fn stand_still(given: &Given, part: Part) -> TcpStream {
    let host = given.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(host).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nhost: {host}\r\n\r\n", given.address(part));
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

/// Asks on a connection of its own until this is the answer.
async fn until_answered(given: &Given, expected: u16) -> Response {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let request = given.get(&given.address(Part::Init)).header("connection", "close");
        if let Ok(answer) = request.send().await
            && answer.status().as_u16() == expected
        {
            return answer;
        }
        assert!(Instant::now() < deadline, "never answered {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn viewers_get_a_share_of_the_files_that_may_be_open() {
    let of = |descriptors| {
        let Limits { connections, refusals, .. } = Limits::with(descriptors);
        (connections, refusals)
    };
    assert_eq!(of(None), (512, 32));
    assert_eq!(of(Some(u64::MAX)), (512, 32));
    assert_eq!(of(Some(4_095)), (511, 31));
    assert_eq!(of(Some(1_024)), (128, 8));
    assert_eq!(of(Some(64)), (8, 4));
    assert_eq!(of(Some(0)), (1, 4));
}

#[tokio::test]
async fn who_comes_when_there_are_enough_is_told_to_come_again() {
    let given = Given::serving(segment(1_000), limits(1), None);
    // Given one whose connection is kept …
    let mut first = stand_still(&given, Part::Init).await;
    first.read_exact(&mut [0; 12]).await.unwrap();
    // … then the next one has no place, until the first one is gone.
    let refused = until_answered(&given, 503).await;
    assert_eq!(refused.headers()["retry-after"], "2");
    assert!(problem(refused).await.1.contains("as many viewers as it can serve"));
    drop(first);
    until_answered(&given, 200).await;
}

#[tokio::test]
async fn a_viewer_that_takes_nothing_any_more_is_let_go() {
    // Given more than the system holds for a connection …
    let limits = Limits { standstill: SHORT, ..limits(1) };
    let given = Given::serving(segment(400_000), limits, None);
    let mut still = stand_still(&given, Part::File).await;
    still.read_exact(&mut [0; 12]).await.unwrap();
    // … then its place is free without it going, and it does not get everything.
    until_answered(&given, 200).await;
    let mut got = Vec::new();
    let _ = still.read_to_end(&mut got).await;
    assert!(got.len() < given.file.len(), "{} of {}", got.len(), given.file.len());
}

#[tokio::test]
async fn a_viewer_that_says_nothing_is_let_go() {
    let given = Given::serving(segment(1_000), Limits { request: SHORT, ..limits(1) }, None);
    for said in ["", "GET /media/ HTTP/1.1\r\nhost: a\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let host = given.url.strip_prefix("http://").unwrap();
        let mut connection = TcpStream::connect(host).await.unwrap();
        connection.write_all(said.as_bytes()).await.unwrap();
        // It ends, before the request and after an answer.
        let mut got = Vec::new();
        let ended = connection.read_to_end(&mut got);
        tokio::time::timeout(DEADLINE, ended).await.expect("it is let go").unwrap();
        until_answered(&given, 200).await;
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let error = Listening::at(&Settings { listen, url: None }).unwrap_err().to_string();
    assert!(error.contains(&listen.to_string()) && error.contains("--media-listen"), "{error}");
}

#[tokio::test]
async fn viewers_are_told_the_address_that_was_given_or_the_real_one() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let here = Listening::at(&Settings { listen, url: None }).unwrap();
    let port = here.listener.local_addr().unwrap().port();
    assert_ne!(port, 0);
    assert_eq!(here.url(), format!("http://127.0.0.1:{port}"));
    let url = Some("https://video.example.com".to_owned());
    assert_eq!(Listening::at(&Settings { listen, url }).unwrap().url(), "https://video.example.com");
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_nobody_who_wants_something_from_another() {
    let given = Given::serving(segment(1_000), Limits { read: SHORT, ..limits(100) }, None);
    // Given a volume on which nothing is opened before somebody writes, and more requests than there are readers …
    let hangs = given.first.path().join(given.name.key());
    std::fs::create_dir_all(hangs.parent().unwrap()).unwrap();
    mknodat(CWD, &hangs, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for _ in 0..3 * READERS {
        assert_eq!(given.answer(&given.address(Part::Init)).await.status(), 200);
    }
    // … then only what is on no other volume is waited for, and not for ever.
    std::fs::remove_file(given.path()).unwrap();
    assert_eq!(problem(given.answer(&given.address(Part::Init)).await).await.0, 503);
    // Once the disk answers again, it is known where nothing is.
    let _answers = std::fs::File::options().read(true).write(true).open(&hangs).unwrap();
    until_answered(&given, 404).await;
}

#[tokio::test]
async fn a_server_that_ends_takes_nobody_with_it() {
    let given = Given::new();
    assert_eq!(given.answer(&given.address(Part::Init)).await.status(), 200);
    let Given { _server: server, viewer, url, .. } = given;
    drop(server);
    let deadline = Instant::now() + DEADLINE;
    while viewer.get(&url).send().await.is_ok() {
        assert!(Instant::now() < deadline, "it still answers");
    }
}
