//! What is printed of a measurement: a line per recorder, and whether the goals were met. Decides nothing else.

use super::{Cost, Measured};

/// CPU per gigabyte, segment hashing included, as a multiple of the floor's.
const MOST_FLOORS: f64 = 2.0;
/// Times less CPU and memory per camera than ffmpeg.
const LEAST_TIMES_FFMPEG: f64 = 12.0;
/// Memory per camera, in bytes.
const MOST_MEMORY_BYTES: f64 = (1 << 20) as f64;

/// Prints one.
pub(super) fn print(measured: &Measured) {
    let Measured { cameras, family, recorded, floor, worker, ffmpeg, others } = measured;
    println!(
        "\n{cameras} cameras {}: first recorded {:.1} s after it was added, all after {:.1} s",
        family.name,
        recorded.first.as_secs_f64(),
        recorded.all.as_secs_f64(),
    );
    println!(
        "  {:<31} {:>8} {:>8} {:>11} {:>14}  frames lost (worst camera)",
        "recorder", "CPU-s/GB", "x floor", "% of a core", "KiB per camera"
    );
    let lines = [("floor: read and write at 200 ms", Some(floor)), ("Longwatch's worker", Some(worker))];
    for (name, cost) in lines.into_iter().chain([("ffmpeg -c copy, one each", ffmpeg.as_ref())]) {
        if let Some(cost) = cost {
            println!("  {}", line(name, cost, floor, *cameras));
        }
    }
    let of_core = |(name, cost): &(&str, Cost)| {
        format!(
            "{name} {:.1} % of a core, {:.0} MiB",
            percent(cost),
            cost.memory_bytes as f64 / f64::from(1 << 20)
        )
    };
    println!("  meanwhile: {}", others.iter().map(of_core).collect::<Vec<_>>().join("; "));
    println!("  goals: {}", verdicts(measured).join("; "));
}

fn line(name: &str, cost: &Cost, floor: &Cost, cameras: u32) -> String {
    let frames = cost.frames.map_or_else(
        || "-".to_owned(),
        |frames| {
            let doubled =
                if frames.doubled > 0 { format!(", {} doubled", frames.doubled) } else { String::new() };
            format!(
                "{} of {} ({}){doubled}",
                frames.missing,
                frames.missing + frames.recorded,
                frames.worst_camera
            )
        },
    );
    format!(
        "{name:<31} {:>8.2} {:>8.1} {:>11.1} {:>14.0}  {frames}",
        cost.cpu_s_per_gb(),
        cost.cpu_s_per_gb() / floor.cpu_s_per_gb(),
        percent(cost),
        memory_per_camera(cost, cameras) / 1_024.0,
    )
}

fn verdicts(measured: &Measured) -> Vec<String> {
    let Measured { cameras, floor, worker, ffmpeg, .. } = measured;
    let floors = worker.cpu_s_per_gb() / floor.cpu_s_per_gb();
    let memory = memory_per_camera(worker, *cameras);
    let missing = worker.frames.map_or(0, |frames| frames.missing);
    let mut verdicts = vec![
        verdict(floors <= MOST_FLOORS, format!("CPU <= {MOST_FLOORS:.1}x the floor ({floors:.1}x)")),
        verdict(
            memory <= MOST_MEMORY_BYTES,
            format!("<= 1 MiB per camera ({:.2})", memory / MOST_MEMORY_BYTES),
        ),
        verdict(missing == 0, format!("0 frames lost ({missing})")),
    ];
    if let Some(ffmpeg) = ffmpeg {
        let cpu = ffmpeg.cpu_s_per_gb() / worker.cpu_s_per_gb();
        let less = memory_per_camera(ffmpeg, *cameras) / memory;
        verdicts.push(verdict(
            cpu >= LEAST_TIMES_FFMPEG && less >= LEAST_TIMES_FFMPEG,
            format!("{LEAST_TIMES_FFMPEG:.0}x less CPU and memory than ffmpeg ({cpu:.1}x, {less:.1}x)"),
        ));
    }
    verdicts
}

fn verdict(met: bool, goal: String) -> String {
    format!("{} {goal}", if met { "met" } else { "MISSED" })
}

fn percent(cost: &Cost) -> f64 {
    cost.cpu_us as f64 / 1e4 / cost.time.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn memory_per_camera(cost: &Cost, cameras: u32) -> f64 {
    cost.memory_bytes as f64 / f64::from(cameras.max(1))
}
