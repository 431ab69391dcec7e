//! `longwatch-loadtest frames`: says what recordings of simulated cameras lost or doubled.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::frames::{self, Continuity, FileReport};

/// Count lost and doubled frames in recordings of simulated cameras
///
/// Reads MP4 files (fragmented or plain, H.264 or H.265) in the order given. Exits with 0 if no frame between the first
/// and the last is missing or doubled, each has a number, every file starts with a keyframe, its sync marks are right and
/// its decode times strictly increase; with 1 otherwise, or if a file cannot be read. A file cut short is no fault in
/// itself: what is whole in it counts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recorded segments, oldest first
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed: `--json` as it stands.
#[derive(Debug, Serialize)]
struct Report<'a> {
    clean: bool,
    files: Vec<File<'a>>,
    /// All files together, per camera.
    total: Vec<Continuity>,
}

#[derive(Debug, Serialize)]
struct File<'a> {
    path: &'a Path,
    clean: bool,
    #[serde(flatten)]
    report: Option<FileReport>,
    error: Option<String>,
}

/// Inspects the files and prints.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    let mut numbers = Vec::new();
    for path in &args.files {
        let (report, error) = match frames::inspect(path) {
            Ok(report) => (Some(report), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let clean = report.as_ref().is_some_and(FileReport::is_clean);
        numbers.extend(report.iter().flat_map(|report| &report.numbers));
        files.push(File { path, clean, report, error });
    }
    let total = frames::continuity(&numbers);
    let clean = files.iter().all(|file| file.clean) && total.iter().all(Continuity::is_clean);
    let report = Report { clean, files, total };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report<'_>) {
    for file in &report.files {
        let path = file.path.display();
        if let Some(error) = &file.error {
            println!("{path}: {error}");
        }
        let Some(of_file) = &file.report else { continue };
        println!(
            "{path}: {} frames, {} ms, longest step {} ms, keyframe first: {}, decode times increase: {}, \
             without number: {}, wrong sync marks: {}, audio samples: {}{}",
            of_file.frames,
            of_file.duration_ms,
            of_file.longest_step_ms,
            yes(of_file.starts_with_keyframe),
            yes(of_file.decode_times_strictly_increasing),
            of_file.unnumbered,
            of_file.wrong_sync_marks,
            of_file.audio_samples,
            if of_file.truncated { ", cut short" } else { "" },
        );
        of_file.cameras.iter().for_each(|camera| println!("  {}", line(camera)));
    }
    report.total.iter().for_each(|camera| println!("total: {}", line(camera)));
    println!("{}", if report.clean { "clean" } else { "NOT clean" });
}

fn line(camera: &Continuity) -> String {
    let holes: Vec<String> = camera.holes.iter().map(|[first, last]| format!("{first}-{last}")).collect();
    let holes = if holes.is_empty() { String::new() } else { format!(" ({})", holes.join(" ")) };
    format!(
        "camera {}: frames {} to {}, {} counted, {} missing{holes}, {} doubled, {} out of order",
        camera.camera,
        camera.first,
        camera.last,
        camera.count,
        camera.missing,
        camera.doubled,
        camera.out_of_order
    )
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "NO" }
}
