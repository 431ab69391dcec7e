//! The configuration of Single's nats-server, as text. PURE.
//!
//! Three accounts, because inside one account a client can make the server store something where the client itself may
//! not publish, by naming that subject as the reply of a request:
//!
//! | account | who | reaches |
//! |---|---|---|
//! | `CONTROL` | control | everything in it: it has the log streams |
//! | `WORKERS` | workers | publishes heartbeats and facts, asks to join and what it is known to have, reads assignments: each an import of exactly that |
//! | `AUDIT` | auditors | reads `LOG`, `RECORDINGS` and `HEARTBEATS` by direct get |
//!
//! Only one thing is asked the other way: control tells workers of events at their cameras, which is a service of `WORKERS`
//! that `CONTROL` imports. A worker may answer what it was asked, once, and nothing else.
//!
//! An imported service gives its caller a reply of the server's own making, so the acknowledgement of a heartbeat goes
//! back to who sent it and nowhere else. Auditors may not make consumers: a push consumer delivers to a subject of its
//! maker's choice *inside* `CONTROL`, which would be a way to write. Batched direct get can only read, still replays more
//! than 100,000 messages a second, and tells the newest position too: the last message of the subject `>`.

use longwatch_events::subject::{ARCHIVES, JOIN, LogStream, REPUBLISH_TO, TRIGGERS};

/// What the text depends on.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// On loopback.
    pub port: u16,
    /// Folder that gets the sub-folder `jetstream`.
    pub store_dir: &'a str,
    /// Where nats-server logs.
    pub log_file: &'a str,
    /// Public nkey of control.
    pub control: &'a str,
    /// Public nkey of the worker.
    pub worker: &'a str,
    /// Public nkey of auditors.
    pub audit: &'a str,
}

/// A service of `CONTROL` that another account may call.
struct Service {
    subject: String,
    /// More than one reply to a request.
    many_replies: bool,
}

/// The configuration file (<https://docs.nats.io/running-a-nats-service/configuration>).
pub fn render(settings: &Settings<'_>) -> String {
    let Settings { port, store_dir, log_file, control, worker, audit } = *settings;
    let (worker_services, audit_services) = (worker_services(), audit_services());
    let mut exports = Vec::new();
    exports.extend(worker_services.iter().map(|service| export(service, "WORKERS")));
    exports.push(format!("{{ stream: {}, accounts: [WORKERS] }}", quoted(REPUBLISH_TO)));
    exports.extend(audit_services.iter().map(|service| export(service, "AUDIT")));
    let mut worker_imports: Vec<String> = worker_services.iter().map(import).collect();
    worker_imports.push(format!("{{ stream: {{ account: CONTROL, subject: {} }} }}", quoted(REPUBLISH_TO)));
    let audit_imports: Vec<String> = audit_services.iter().map(import).collect();

    format!(
        r#"# Made by `longwatch-control single` at each start: changes here are lost.
listen: "127.0.0.1:{port}"
server_name: "longwatch-single"
max_payload: 1MB

log_file: {log_file}
logfile_size_limit: 16MB
logfile_max_num: 4

jetstream {{
  store_dir: {store_dir}
  # What is acknowledged is on the disk.
  sync_interval: always
  # The default is a share of what is free at the start, and a recorder's disk is full by design: the archive's
  # retention makes room, the log must never be refused for it.
  max_file_store: 16TB
}}

accounts {{
  CONTROL {{
    jetstream: enabled
    users: [
      {{ nkey: {control} }}
    ]
    exports: [
      {exports}
    ]
    imports: [
      {{ service: {{ account: WORKERS, subject: {triggers} }} }}
    ]
  }}
  WORKERS {{
    users: [
      {{
        nkey: {worker}
        permissions: {{
          publish: {{ allow: [{worker_publish}] }}
          subscribe: {{ allow: ["_INBOX.>", {worker_subscribe}, {triggers}] }}
          allow_responses: true
        }}
      }}
    ]
    exports: [
      {{ service: {triggers}, accounts: [CONTROL] }}
    ]
    imports: [
      {worker_imports}
    ]
  }}
  AUDIT {{
    users: [
      {{
        nkey: {audit}
        permissions: {{
          publish: {{ allow: [{audit_publish}] }}
          subscribe: {{ allow: ["_INBOX.>"] }}
        }}
      }}
    ]
    imports: [
      {audit_imports}
    ]
  }}
}}
"#,
        log_file = quoted(log_file),
        store_dir = quoted(store_dir),
        exports = exports.join("\n      "),
        worker_publish = subjects(&worker_services),
        worker_subscribe = quoted(REPUBLISH_TO),
        // Not sealed: what happens at whose camera is no secret among the workers of this account.
        triggers = quoted(TRIGGERS),
        worker_imports = worker_imports.join("\n      "),
        audit_publish = subjects(&audit_services),
        audit_imports = audit_imports.join("\n      "),
    )
}

fn worker_services() -> Vec<Service> {
    [
        LogStream::Heartbeats.subjects().to_owned(),
        LogStream::Recordings.subjects().to_owned(),
        JOIN.to_owned(),
        // Answers are sealed: every worker of this account may ask in any server's name, and hears others' answers.
        ARCHIVES.to_owned(),
        // Only the form that names a subject; the one that takes a position or a batch ends at the stream's name.
        format!("$JS.API.DIRECT.GET.{}.>", LogStream::Assignments.name()),
    ]
    .map(|subject| Service { subject, many_replies: false })
    .into()
}

fn audit_services() -> Vec<Service> {
    [LogStream::Log, LogStream::Recordings, LogStream::Heartbeats]
        .map(|stream| Service {
            subject: format!("$JS.API.DIRECT.GET.{}", stream.name()),
            many_replies: true,
        })
        .into()
}

fn export(service: &Service, account: &str) -> String {
    let response = if service.many_replies { ", response: stream" } else { "" };
    format!("{{ service: {}, accounts: [{account}]{response} }}", quoted(&service.subject))
}

fn import(service: &Service) -> String {
    format!("{{ service: {{ account: CONTROL, subject: {} }} }}", quoted(&service.subject))
}

fn subjects(services: &[Service]) -> String {
    services.iter().map(|service| quoted(&service.subject)).collect::<Vec<_>>().join(", ")
}

/// A string as nats-server reads it, whatever stands in it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_reviewed_one() {
        let text = render(&Settings {
            port: 21_234,
            store_dir: "/srv/longwatch/nats",
            log_file: "/srv/longwatch/nats/nats.log",
            control: "UCONTROL",
            worker: "UWORKER",
            audit: "UAUDIT",
        });
        // Who may reach what is decided in this file: a change to it is to be seen and meant.
        assert_eq!(text, include_str!("nats.conf.golden"), "\n--- rendered:\n{text}");
    }

    #[test]
    fn a_path_cannot_break_out_of_its_quotes() {
        assert_eq!(quoted("a \"b\" \\ c\n}"), r#""a \"b\" \\ c\n}""#);
    }
}
