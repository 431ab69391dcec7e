//! Who gets something, and who does not.

use reqwest::Method;
use reqwest::header::{ACCESS_CONTROL_ALLOW_HEADERS, ALLOW, RETRY_AFTER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn an_address_that_is_not_as_it_was_signed_gives_nothing() {
    let given = Given::new();
    let address = given.address(Part::Media);
    let other_camera = CameraId::generate(&SystemIds).to_string();
    let before_the_end = Ticket { until: Some(START.plus_millis(1)), ..given.ticket(Part::Media) };
    for changed in [
        address.replace(&given.name.camera_id.to_string(), &other_camera),
        address.replace("media.m4s", "segment.mp4"),
        address.replace("start=1", "start=2"),
        address.replace("expires=1", "expires=2"),
        address.replace("&expires", "&until=1795420800123457&expires"),
        key(1).sign(&before_the_end).replace("&until=1795420800124456", ""),
        address.replace("signature=", "signature=0"),
        format!("{address}&more=1"),
        address.split("&signature").next().unwrap().to_owned(),
        key(2).sign(&given.ticket(Part::Media)),
        "/media/".to_owned(),
    ] {
        assert_ne!(changed, address);
        let (status, detail) = problem(given.answer(&changed).await).await;
        assert_eq!(status, 403, "{changed}: {detail}");
        assert!(detail.contains("not given out for this"), "{detail}");
    }
    assert_eq!(given.answer(&address).await.status(), 200);
    assert_eq!(problem(given.answer("/").await).await.0, 404);
}

#[tokio::test]
async fn an_address_holds_until_it_expires() {
    let given = Given::new();
    let address = given.address(Part::File);
    given.clock.advance_millis(89_000);
    assert_eq!(given.answer(&address).await.status(), 200);
    given.clock.advance_millis(1_000);
    let (status, detail) = problem(given.answer(&address).await).await;
    assert_eq!(status, 410);
    assert!(detail.contains("expired"), "{detail}");
}

#[tokio::test]
async fn before_the_key_is_known_everybody_is_asked_to_come_again() {
    let given = Given::new();
    given.key.send_replace(None);
    let answer = given.answer(&given.address(Part::Init)).await;
    assert_eq!(header(answer.headers(), RETRY_AFTER), "2");
    assert_eq!(problem(answer).await.0, 503);
    // And then with the key that counts now.
    given.key.send_replace(Some(key(2)));
    assert_eq!(given.answer(&given.address(Part::Init)).await.status(), 403);
    given.key.send_replace(Some(key(1)));
    assert_eq!(given.answer(&given.address(Part::Init)).await.status(), 200);
}

/// The answer to a request for exactly this.
async fn raw(given: &Given, address: &str) -> String {
    let host = given.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(host).await.unwrap();
    let request = format!("GET {address} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn what_is_not_here_is_said_to_be_gone() {
    let given = Given::new();
    let signed = |key_of: &str| key(1).sign(&Ticket { key: key_of.to_owned(), ..given.ticket(Part::File) });
    // Given files of other names beside it, then even with a signature there is no way to them.
    std::fs::write(given.folder.path().join("secret"), "secret").unwrap();
    let part = format!("{}.part", given.name.key());
    std::fs::write(given.folder.path().join(&part), "open").unwrap();
    let around = format!("{}/../../../../secret", given.name.key());
    for other in ["secret", "../secret", "/etc/passwd", "", ".", &part, &around] {
        // As it is: a client of a browser's kind would not send it.
        let answer = raw(&given, &signed(other)).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{other}: {answer}");
        assert!(answer.contains("this segment is not here any more"), "{other}: {answer}");
    }
    assert_eq!(given.answer(&signed(&given.name.key())).await.status(), 200);
    std::fs::remove_file(given.path()).unwrap();
    for part in [Part::Init, Part::Media, Part::File] {
        let (status, detail) = problem(given.answer(&given.address(part)).await).await;
        assert_eq!((status, detail.as_str()), (404, "this segment is not here any more"));
    }
}

#[tokio::test]
async fn a_page_of_any_origin_may_ask_and_nobody_may_do_anything_else() {
    let given = Given::new();
    let ask = async |method: Method| {
        let url = format!("{}{}", given.url, given.address(Part::File));
        given.viewer.request(method, url).header("origin", "https://a.example").send().await.unwrap()
    };
    let preflight = ask(Method::OPTIONS).await;
    assert_eq!(preflight.status(), 204);
    assert_eq!(header(preflight.headers(), ACCESS_CONTROL_ALLOW_HEADERS), "range");
    let video = ask(Method::GET).await;
    for (name, expected) in [
        ("access-control-allow-origin", "*"),
        ("access-control-expose-headers", "content-length, content-range"),
    ] {
        let name = HeaderName::from_static(name);
        assert_eq!(header(preflight.headers(), name.clone()), expected);
        assert_eq!(header(video.headers(), name), expected);
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let refused = ask(method).await;
        assert_eq!(header(refused.headers(), ALLOW), "GET, OPTIONS");
        assert_eq!(problem(refused).await.0, 405);
    }
    assert_eq!(ask(Method::HEAD).await.status(), 405);
    assert_eq!(std::fs::read(given.path()).unwrap(), given.file);
}
