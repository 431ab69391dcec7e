//! Cameras that speak RTSP within TLS: whom the worker believes, and that nothing goes another way.

use longwatch_testing::tls::TlsFront;

use super::*;

/// A camera behind TLS.
struct Hidden {
    camera: Camera,
    front: TlsFront,
}

impl Hidden {
    /// One that follows a script, with a certificate for `name`.
    async fn start(name: &str, script: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let camera = Camera::start(script).await;
        let front = TlsFront::start(camera.address, &[name]).await;
        Self { camera, front }
    }

    fn url(&self) -> String {
        format!("rtsps://{}/stream", self.front.address)
    }

    /// Trust in its certificate, and in what this system trusts.
    fn trust(&self) -> Trust {
        trust_in(&self.front.certificate)
    }

    async fn open(&self, trust: Trust) -> Result<RtspSession, Failure> {
        source_that_trusts(trust, self.url(), &["127.0.0.1/32"], false).open().await
    }
}

/// Handshakes take a while beside other tests.
fn source_that_trusts(trust: Trust, url: String, allowed: &[&str], allows_basic: bool) -> RtspSource {
    within(Duration::from_secs(5), trust, url, allowed, allows_basic)
}

fn trust_in(certificate: &str) -> Trust {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate).unwrap();
    Trust::of_system(Some(file.path())).unwrap()
}

fn welcomes(request: &str) -> Option<String> {
    polite(request, "rtsps://127.0.0.1/stream/", "", VIDEO)
}

fn wants(request: &str, how: &str) -> Option<String> {
    match header(request, "Authorization") {
        "" => answer(request, "401 Unauthorized", &format!("WWW-Authenticate: {how}\r\n"), ""),
        _ => welcomes(request),
    }
}

#[tokio::test]
async fn it_is_opened_and_closed_if_it_is_believed() {
    let hidden = Hidden::start("127.0.0.1", welcomes).await;
    for trust in [Trust::in_anybody(), hidden.trust()] {
        hidden.camera.asked.lock().unwrap().clear();
        hidden.open(trust).await.unwrap().close().await;
        assert!(["DESCRIBE", "SETUP", "PLAY", "TEARDOWN"].iter().all(|step| hidden.camera.was_asked(step)));
    }
    hidden.open(trust_in(&hidden.front.authority)).await.unwrap().close().await;
    // A certificate that was given is believed whatever name stands in it, …
    let renamed = Hidden::start("gate.example", welcomes).await;
    renamed.open(renamed.trust()).await.unwrap().close().await;
    // … one that an authority signed is not.
    let failure = renamed.open(trust_in(&renamed.front.authority)).await.err().unwrap();
    assert!(failure.cause == Cause::NotAllowed && failure.detail.contains("not valid for name"), "{failure}");
}

#[tokio::test]
async fn it_is_told_goodbye_even_if_it_does_not_play() {
    let hidden = Hidden::start("127.0.0.1", |request| match request.split(' ').next() {
        Some("PLAY") => answer(request, "500 Broken", "", ""),
        _ => welcomes(request),
    })
    .await;
    assert!(hidden.open(hidden.trust()).await.is_err());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !hidden.camera.was_asked("TEARDOWN") {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", hidden.camera.asked.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn it_is_not_asked_anything_if_it_is_not_believed() {
    let (hidden, other) =
        (Hidden::start("127.0.0.1", welcomes).await, Hidden::start("127.0.0.1", welcomes).await);
    for trust in [Trust::of_system(None).unwrap(), other.trust()] {
        let failure = hidden.open(trust).await.err().unwrap();
        assert_eq!(failure.cause, Cause::NotAllowed, "{failure}");
        for told in ["certificate", "SHA-256", "--rtsps-ca", "--rtsps-allow-unverified"] {
            assert!(failure.detail.contains(told), "{failure}");
        }
        assert!(hidden.camera.asked.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_speaks_no_tls_is_told() {
    let plain = Camera::start(welcomes).await;
    let url = plain.url().replace("rtsp://", "rtsps://");
    let failure =
        source_that_trusts(Trust::in_anybody(), url, &["127.0.0.1/32"], false).open().await.err().unwrap();
    let causes = [Cause::ProtocolError, Cause::Closed, Cause::Timeout];
    assert!(causes.contains(&failure.cause), "{failure}");
    assert!(plain.asked.lock().unwrap().is_empty());
    // Nor does it help to be in the right place for TLS and the wrong one for the policy.
    let hidden = Hidden::start("127.0.0.1", welcomes).await;
    let refused = source_that_trusts(Trust::in_anybody(), hidden.url(), &["10.0.0.0/8"], false).open().await;
    assert_eq!(refused.err().unwrap().cause, Cause::NotAllowed);
}

#[tokio::test]
async fn a_password_goes_in_clear_text_only_to_who_is_believed() {
    let hidden = Hidden::start("127.0.0.1", |request| wants(request, "Basic realm=\"x\"")).await;
    let told = |camera: &Camera| {
        camera
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|request| header(request, "Authorization").starts_with("Basic"))
    };
    let failure = hidden.open(Trust::in_anybody()).await.err().unwrap();
    assert!(failure.cause == Cause::Unauthorized && !told(&hidden.camera), "{failure}");
    hidden.open(hidden.trust()).await.unwrap().close().await;
    assert!(told(&hidden.camera));
    let digest =
        Hidden::start("127.0.0.1", |request| wants(request, "Digest realm=\"x\", nonce=\"y\"")).await;
    for trust in [Trust::in_anybody(), digest.trust()] {
        digest.open(trust).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn it_does_not_send_us_out_of_tls() {
    let plain = Camera::start(welcomes).await;
    let to = plain.url();
    let hidden = Hidden::start("127.0.0.1", move |request| {
        answer(request, "302 Moved", &format!("Location: {to}\r\n"), "")
    })
    .await;
    let failure = hidden.open(hidden.trust()).await.err().unwrap();
    assert!(failure.cause == Cause::NotAllowed && failure.detail.contains("rtsps://"), "{failure}");
    assert!(plain.asked.lock().unwrap().is_empty());
    // Into it, and from one place within it to another, we go.
    let there = Hidden::start("127.0.0.1", welcomes).await;
    let to = there.url();
    let camera =
        Camera::start(move |request| answer(request, "302 Moved", &format!("Location: {to}\r\n"), "")).await;
    let source = source_that_trusts(there.trust(), camera.url(), &["127.0.0.1/32"], false);
    source.open().await.unwrap().close().await;
    assert!(there.camera.was_asked("PLAY"));
    // But who sent us there has proven nothing: there is no password in clear text.
    let basic = Hidden::start("127.0.0.1", |request| wants(request, "Basic realm=\"x\"")).await;
    let to = basic.url();
    let camera =
        Camera::start(move |request| answer(request, "302 Moved", &format!("Location: {to}\r\n"), "")).await;
    let source = source_that_trusts(basic.trust(), camera.url(), &["127.0.0.1/32"], false);
    assert_eq!(source.open().await.err().unwrap().cause, Cause::Unauthorized);
    assert!(
        basic.camera.asked.lock().unwrap().iter().all(|request| header(request, "Authorization").is_empty())
    );
}

#[tokio::test]
async fn it_may_send_us_elsewhere_on_itself() {
    let hidden = Hidden::start("127.0.0.1", |request| {
        let asked = request.split(' ').nth(1).unwrap_or_default();
        if asked.ends_with("/stream") {
            // As cameras do that know themselves only by what they are asked for.
            answer(request, "302 Moved", &format!("Location: {asked}/new\r\n"), "")
        } else {
            welcomes(request)
        }
    })
    .await;
    let source = source_that_trusts(hidden.trust(), hidden.url(), &["127.0.0.1/32"], false);
    source.open().await.unwrap().close().await;
    assert!(hidden.camera.asked.lock().unwrap().iter().any(|request| request.contains("/stream/new")));
}
