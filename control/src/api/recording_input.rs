//! When a camera is recorded, as it is written, checked whole.

use longwatch_events::schedule::{Day, Days, Schedule, TimeOfDay, Weekly, Window};
use longwatch_events::settings::{EventRecording, Recording, RecordingMode};
use serde_json::Value;
use utoipa::ToSchema;

use super::input::{Errors, Object, meaning};

/// The longest name of a time zone that is looked at.
const MAX_ZONE: usize = 64;

/// Whether and how a camera is recorded.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
pub(super) struct RecordingInput {
    /// Always, never, in the windows of `schedule`, or around events: `POST …/events` tells of them.
    #[schema(required = false, default = "continuous", pattern = "^(continuous|off|schedule|event)$")]
    mode: String,
    /// The windows of mode `schedule`, which needs it; with another mode it is kept for the day it is wanted again.
    schedule: Option<ScheduleInput>,
    /// How much around an event mode `event` records; with another mode it is kept. Default in mode `event`: 5 s before it and
    /// 10 s after it.
    event: Option<EventRecordingInput>,
}

/// How much around an event is recorded.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
pub(super) struct EventRecordingInput {
    /// Before it, in milliseconds. The server holds so much in memory all the time, 8 MiB at most: of a camera that sends more in
    /// that time, what fits.
    #[schema(required = false, default = 5_000, maximum = 30_000)]
    pre_ms: u32,
    /// After it, in milliseconds.
    #[schema(required = false, default = 10_000, maximum = 600_000)]
    post_ms: u32,
}

/// The windows of a week in which a camera is recorded: whenever a clock on the wall of its time zone reads a time of one of
/// them. An hour that the clock reads twice, when summer time ends, is recorded twice.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
pub(super) struct ScheduleInput {
    /// Whose clock counts: a name of the IANA time zone database.
    #[schema(example = "Europe/Berlin", max_length = 64)]
    time_zone: String,
    /// When; together, in any order, they may overlap.
    #[schema(min_items = 1, max_items = 50)]
    weekly: Vec<WindowInput>,
}

/// A window, on some days of each week.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct WindowInput {
    /// On which days it begins: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`.
    #[schema(min_items = 1, max_items = 7, example = json!(["mon", "fri"]))]
    days: Vec<String>,
    /// When it begins: HH:MM or HH:MM:SS, 00:00 to 23:59:59.
    #[schema(example = "22:00")]
    from: String,
    /// When it ends, up to 24:00; if that is not later than `from`, it is on the next day.
    #[schema(example = "06:00")]
    to: String,
}

/// Reads `recording`.
pub(super) fn read(mut object: Object<'_>, errors: &mut Errors) -> Recording {
    let modes = [
        ("continuous", RecordingMode::Continuous),
        ("off", RecordingMode::Off),
        ("schedule", RecordingMode::Schedule),
        ("event", RecordingMode::Event),
    ];
    let mode = object.word("mode", &modes, errors).unwrap_or_default();
    let told = object.optional_object("schedule", errors);
    if told.is_none() && mode == RecordingMode::Schedule {
        let detail = "mode schedule needs one: expected {\"time_zone\": \"Europe/Berlin\", \"weekly\": \
                      [{\"days\": [\"mon\"], \"from\": \"08:00\", \"to\": \"18:00\"}]}";
        errors.add(&object.at("schedule"), "required", detail);
    }
    let schedule = told.and_then(|told| read_schedule(told, errors)).map(Box::new);
    let told = object.optional_object("event", errors).map(|told| read_event(told, errors));
    let event = told.or((mode == RecordingMode::Event).then(EventRecording::default));
    object.finish(errors);
    Recording { mode, schedule, event }
}

fn read_event(mut object: Object<'_>, errors: &mut Errors) -> EventRecording {
    let default = EventRecording::default();
    let pre_ms = object.small_number("pre_ms", 0..=EventRecording::MAX_PRE_MS, errors);
    let post_ms = object.small_number("post_ms", 0..=EventRecording::MAX_POST_MS, errors);
    object.finish(errors);
    EventRecording { pre_ms: pre_ms.unwrap_or(default.pre_ms), post_ms: post_ms.unwrap_or(default.post_ms) }
}

fn read_schedule(mut object: Object<'_>, errors: &mut Errors) -> Option<Schedule> {
    let time_zone = object.required_text("time_zone", 1..=MAX_ZONE, errors);
    let time_zone = time_zone.map(str::to_owned);
    if let Some(name) = &time_zone
        && let Err(unknown) = Weekly::new(&Schedule { time_zone: name.clone(), weekly: Vec::new() })
    {
        errors.add(&object.at("time_zone"), "unknown_time_zone", unknown.to_string());
    }
    let windows = object.required_list("weekly", 1..=Schedule::MAX_WINDOWS, errors);
    let read = |item| read_window(Object::item(item, errors), errors);
    let weekly: Option<Vec<Window>> = windows.map(|windows| windows.into_iter().filter_map(read).collect());
    object.finish(errors);
    Some(Schedule { time_zone: time_zone?, weekly: weekly? })
}

fn read_window(mut object: Object<'_>, errors: &mut Errors) -> Option<Window> {
    let days = object.required_list("days", 1..=Day::ALL.len(), errors);
    let words = Day::ALL.map(|day| (day.as_str(), day));
    let day = |(pointer, value): (String, &Value)| meaning(value, &words, &pointer, errors);
    let days: Option<Days> = days.map(|days| days.into_iter().filter_map(day).collect());
    let from = time(&mut object, "from", errors);
    if from == Some(TimeOfDay::END) {
        let detail = "a day has ended at 24:00: expected 00:00, on the next day";
        errors.add(&object.at("from"), "invalid_time", detail);
    }
    let to = time(&mut object, "to", errors);
    object.finish(errors);
    Some(Window { days: days?, from: from?, to: to? })
}

fn time(object: &mut Object<'_>, name: &'static str, errors: &mut Errors) -> Option<TimeOfDay> {
    let text = object.required_text(name, 1..=MAX_ZONE, errors)?;
    match text.parse::<TimeOfDay>() {
        Ok(time) => Some(time),
        Err(error) => {
            errors.add(&object.at(name), "invalid_time", error.to_string());
            None
        }
    }
}
