//! The peer: Debian's ffmpeg, one process per camera, copying its streams into segments of a minute.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use crate::system::archive::files;
use crate::system::part::Part;
use crate::system::process::{self, Usage, usage};

/// How long all may take to begin writing, and then to end.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Many ffmpeg processes; killed with this value.
pub(super) struct Ffmpeg {
    parts: Vec<Part>,
    folder: PathBuf,
}

impl Ffmpeg {
    /// Where it is installed.
    ///
    /// # Errors
    /// If it is not.
    pub(super) fn installed() -> anyhow::Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).map(|folder| folder.join("ffmpeg")).find(|file| file.is_file());
        found.context(
            "ffmpeg is not installed: `tools/install.sh ffmpeg`, or measure without it: --ffmpeg-cameras 0",
        )
    }

    /// Starts one per address and waits until all of them write. Their files go to `folder`.
    ///
    /// # Errors
    /// If they do not.
    pub(super) async fn start(addresses: &[String], folder: &Path) -> anyhow::Result<Self> {
        let program = Self::installed()?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let part = |(number, url): (usize, &String)| {
            let output = folder.join(format!("{number:04}-%03d.mp4"));
            let mut args: Vec<_> = ["-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", url]
                .into_iter()
                .chain(["-c", "copy", "-f", "segment", "-segment_time", "60"])
                .map(Into::into)
                .collect();
            args.push(output.into_os_string());
            Part::new("ffmpeg", program.clone(), args, folder.join(format!("{number:04}.log")))
        };
        let mut ffmpeg =
            Self { parts: addresses.iter().enumerate().map(part).collect(), folder: folder.into() };
        for part in &mut ffmpeg.parts {
            part.start()?;
        }
        let begun = Instant::now();
        while ffmpeg.writing() < ffmpeg.parts.len() {
            ensure!(
                begun.elapsed() < BEGUN_WITHIN,
                "only {} of {} ffmpeg processes write",
                ffmpeg.writing(),
                ffmpeg.parts.len()
            );
            sleep(LOOK_EVERY).await;
        }
        Ok(ffmpeg)
    }

    fn writing(&self) -> usize {
        let recorded = |file: &&PathBuf| {
            file.extension().is_some_and(|is| is == "mp4") && file.metadata().is_ok_and(|file| file.len() > 0)
        };
        files(&self.folder).iter().filter(recorded).count()
    }

    /// What all of them cost together.
    ///
    /// # Errors
    /// If one has ended.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        self.parts.iter().try_fold(Usage::default(), |sum, part| {
            let one = usage(part.pid()?)?;
            Ok(Usage { cpu_ms: sum.cpu_ms + one.cpu_ms, memory_bytes: sum.memory_bytes + one.memory_bytes })
        })
    }

    /// Asks them to end, which closes their files, and waits.
    ///
    /// # Errors
    /// If one does not end.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for part in &self.parts {
            process::terminate(part.pid()?)?;
        }
        let asked = Instant::now();
        // What it exits with when it is asked to end is 255.
        while self.parts.iter_mut().any(Part::is_running) {
            ensure!(asked.elapsed() < ENDED_WITHIN, "ffmpeg does not end");
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
