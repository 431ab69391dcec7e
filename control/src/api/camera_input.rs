//! A camera's settings as they are written, checked whole.

use longwatch_events::assignment::SourceSecret;
use longwatch_events::id::ServerId;
use longwatch_events::sealed::Sealed;
use longwatch_events::settings::{CameraSettings, Labels, Priority, Recording, Retention, Source, Transport};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::input::{Errors, Object};
use super::problem::Problem;
use super::recording_input::{self, RecordingInput};
use super::source_url::{self, MAX_URL};

/// How long a user name or password may be, in characters.
const MAX_CREDENTIAL: usize = 256;
/// A hundred years.
const MAX_DAYS: u32 = 36_525;
/// The largest number every JSON reader takes exactly (RFC 8259, section 6).
const MAX_BYTES: u64 = (1 << 53) - 1;
/// 1 Gbit/s.
const MAX_BITRATE_BPS: u64 = 1_000_000_000;

/// A camera as it is written. Everything but name and source.url has a default.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body; it is read field by field to report all errors at once")]
pub(super) struct CameraInput {
    /// For people; need not be unique.
    #[schema(min_length = 1, max_length = 200, example = "Gate 3")]
    name: String,
    /// Folders come with a later version: only null is taken.
    folder_id: Option<String>,
    /// Free-form pairs, at most 32.
    #[schema(value_type = std::collections::BTreeMap<String, String>, required = false)]
    labels: Labels,
    /// Where the video comes from.
    #[schema(inline)]
    source: SourceInput,
    /// Whether and how it is recorded.
    #[schema(inline, required = false)]
    recording: RecordingInput,
    /// How long it is kept.
    #[schema(inline, required = false)]
    retention: RetentionInput,
    /// In which order cameras find a new server when theirs is lost.
    #[schema(required = false, default = "medium", pattern = "^(high|medium|low|never)$")]
    failover_priority: String,
    /// The server that should record it, if that has room.
    #[schema(value_type = Option<String>, format = "uuid")]
    preferred_server_id: Option<ServerId>,
    /// On how many servers at once. Each copy has a server of its own, in a zone of its own if there is one with room.
    #[schema(required = false, default = 1, minimum = 1, maximum = 4)]
    copies: u8,
    /// What it is expected to send, in bits per second; what a server's max_bitrate_bps is counted in.
    expected_bitrate_bps: Option<u64>,
    /// Only servers that carry all of these labels may record it; at most 32.
    #[schema(value_type = std::collections::BTreeMap<String, String>, required = false)]
    server_labels: Labels,
    /// The camera serves one client only: a planned move stops the old server before the new one begins, and a server that
    /// is cut off stops by itself before others take over. Not together with several copies.
    #[schema(required = false, default = false)]
    single_session: bool,
    /// How late its newest video may be because its server looks at it only now and then, in milliseconds. Less costs
    /// CPU: 20 is about as expensive as looking at every packet. A change begins its recording again.
    #[schema(required = false, default = 200, minimum = 20, maximum = 1000)]
    live_latency_ms: u16,
}

/// Where the video comes from.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct SourceInput {
    /// `rtsp://HOST[:PORT]/PATH`, or `rtsps://` for RTSP within TLS; without user and password.
    #[schema(max_length = 2048, example = "rtsp://10.0.0.7:554/stream1")]
    url: String,
    /// Written only, never read back.
    #[schema(write_only, max_length = 256)]
    username: Option<String>,
    /// Written only, never read back.
    #[schema(write_only, max_length = 256)]
    password: Option<String>,
    /// Interleaved in the RTSP connection.
    #[schema(required = false, default = "tcp", pattern = "^tcp$")]
    transport: String,
}

/// How long video is kept.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct RetentionInput {
    /// Older video may go; null: without bound.
    max_days: Option<u32>,
    /// Above this, on each server, the oldest video may go; null: without bound.
    max_bytes: Option<u64>,
    /// Younger video stays whatever max_bytes says, unless a volume is full otherwise; null: nothing is promised. Not more
    /// than max_days.
    min_days: Option<u32>,
}

/// What was read: settings without a seal, and what is to be sealed.
pub(super) struct Draft {
    /// All but the seal.
    settings: Unsealed,
    /// The whole address with its credentials.
    pub(super) secret: SourceSecret,
}

struct Unsealed {
    name: String,
    labels: Labels,
    transport: Transport,
    recording: Recording,
    retention: Retention,
    failover_priority: Priority,
    preferred_server_id: Option<ServerId>,
    copies: u8,
    expected_bitrate_bps: Option<u64>,
    server_labels: Labels,
    single_session: bool,
    live_latency_ms: Option<u16>,
}

impl Draft {
    /// The settings, with the secret sealed.
    pub(super) fn sealed(self, secret: Sealed) -> CameraSettings {
        let Unsealed { name, labels, transport, recording, retention, .. } = self.settings;
        CameraSettings {
            name,
            labels,
            source: Source { url: source_url::redact(&self.secret.url), secret, transport },
            recording,
            retention,
            failover_priority: self.settings.failover_priority,
            preferred_server_id: self.settings.preferred_server_id,
            copies: self.settings.copies,
            expected_bitrate_bps: self.settings.expected_bitrate_bps,
            server_labels: self.settings.server_labels,
            single_session: self.settings.single_session,
            live_latency_ms: self.settings.live_latency_ms,
        }
    }
}

/// The source a change is based on: how its address is shown, and what it is.
pub(super) struct Known<'a> {
    /// As it is shown.
    pub(super) url: &'a str,
    /// As it is.
    pub(super) secret: &'a SourceSecret,
}

/// Reads a camera's settings. An address that is the one shown of `known` stands for the whole one.
///
/// # Errors
/// 422 with everything that is wrong.
pub(super) fn read(body: &Value, known: Option<&Known<'_>>) -> Result<Draft, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(body, &mut errors);
    let name = object.name(&mut errors);
    object.only_null("folder_id", "folders come with a later version; leave it out or null", &mut errors);
    let labels = object.labels("labels", &mut errors);
    let source = read_source(&mut object, known, &mut errors);

    let recording = recording_input::read(object.object("recording", &mut errors), &mut errors);

    let mut kept = object.object("retention", &mut errors);
    let retention = Retention {
        max_days: kept.small_number("max_days", 1..=MAX_DAYS, &mut errors),
        max_bytes: kept.number("max_bytes", 1..=MAX_BYTES, &mut errors),
        min_days: kept.small_number("min_days", 1..=MAX_DAYS, &mut errors),
    };
    if let Retention { max_days: Some(max_days), min_days: Some(min_days), .. } = retention
        && min_days > max_days
    {
        let detail = format!("{min_days} is more than max_days, {max_days}: expected at most as much");
        errors.add(&kept.at("min_days"), "out_of_range", detail);
    }
    kept.finish(&mut errors);

    let priorities = [
        ("high", Priority::High),
        ("medium", Priority::Medium),
        ("low", Priority::Low),
        ("never", Priority::Never),
    ];
    let failover_priority = object.word("failover_priority", &priorities, &mut errors).unwrap_or_default();
    let preferred_server_id = object.id("preferred_server_id", &mut errors);
    let copies = object.small_number("copies", 1..=u32::from(CameraSettings::MAX_COPIES), &mut errors);
    let copies = copies.and_then(|copies| u8::try_from(copies).ok()).unwrap_or(1);
    let server_labels = object.labels("server_labels", &mut errors);
    let single_session = object.truth("single_session", &mut errors).unwrap_or(false);
    if single_session && copies > 1 {
        let detail = "a camera that serves one client only cannot be recorded by several servers at once: expected copies 1, \
                      or single_session false";
        errors.add(&object.at("copies"), "single_session", detail);
    }
    let (least_ms, most_ms) = CameraSettings::LIVE_LATENCY_MS.into_inner();
    let live_latency_ms =
        object.small_number("live_latency_ms", least_ms.into()..=most_ms.into(), &mut errors);
    let live_latency_ms = live_latency_ms.and_then(|ms| u16::try_from(ms).ok());
    let expected_bitrate_bps = object.number("expected_bitrate_bps", 1..=MAX_BITRATE_BPS, &mut errors);
    object.finish(&mut errors);

    let draft = name.zip(source).map(|(name, (secret, transport))| Draft {
        settings: Unsealed {
            name,
            labels,
            transport,
            recording,
            retention,
            failover_priority,
            preferred_server_id,
            copies,
            expected_bitrate_bps,
            server_labels,
            single_session,
            live_latency_ms,
        },
        secret,
    });
    errors.or(draft)
}

fn read_source(
    object: &mut Object<'_>,
    known: Option<&Known<'_>>,
    errors: &mut Errors,
) -> Option<(SourceSecret, Transport)> {
    let mut source = object.required_object("source", errors);
    let url = source.required_text("url", 1..=MAX_URL, errors).map(str::to_owned);
    let url = url.and_then(|url| whole_url(url, &source.at("url"), known, errors));
    let mut credential = |name| source.text(name, 0..=MAX_CREDENTIAL, errors).filter(|text| !text.is_empty());
    let username = credential("username").map(str::to_owned);
    let password = credential("password").map(str::to_owned);
    if password.is_some() && username.is_none() {
        errors.add(&source.at("username"), "required", "a password needs a user name beside it");
    }
    let transport = source.word("transport", &[("tcp", Transport::Tcp)], errors).unwrap_or_default();
    source.finish(errors);
    url.map(|url| (SourceSecret { url, username, password }, transport))
}

fn whole_url(url: String, pointer: &str, known: Option<&Known<'_>>, errors: &mut Errors) -> Option<String> {
    if let Some(known) = known.filter(|known| known.url == url) {
        return Some(known.secret.url.clone());
    }
    if source_url::is_redacted(&url) {
        let detail =
            "*** stands for a secret that is not shown; give the whole address, or leave url as it is read";
        errors.add(pointer, "redacted_url", detail);
        return None;
    }
    match source_url::check(&url) {
        Ok(()) => Some(url),
        Err((code, detail)) => {
            errors.add(pointer, code, detail);
            None
        }
    }
}

/// A body without its secrets: no credentials, and the address as it may be shown.
pub(super) fn without_secrets(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(source) = body.get_mut("source").and_then(Value::as_object_mut) {
        source.remove("username");
        source.remove("password");
        if let Some(Value::String(url)) = source.get_mut("url") {
            *url = source_url::redact(url);
        }
    }
    body
}

/// The settings as [`read`] takes them, credentials included: what a merge patch is applied to. Never leaves this
/// process.
pub(super) fn write(settings: &CameraSettings, secret: &SourceSecret) -> Value {
    json!({
        "name": settings.name,
        "labels": settings.labels,
        "source": {
            "url": settings.source.url,
            "username": secret.username,
            "password": secret.password,
            "transport": settings.source.transport,
        },
        "recording": settings.recording,
        "retention": settings.retention,
        "failover_priority": settings.failover_priority,
        "preferred_server_id": settings.preferred_server_id,
        "copies": settings.wanted_copies(),
        "expected_bitrate_bps": settings.expected_bitrate_bps,
        "server_labels": settings.server_labels,
        "single_session": settings.single_session,
        "live_latency_ms": settings.live_latency_ms,
    })
}
