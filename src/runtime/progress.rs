//! One progress line with rate and time left, for anything that takes longer than two seconds.
//!
//! On a terminal it is a bar; elsewhere (a Slurm log) it is a log line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress of a known number of steps.
pub struct Progress {
    bar: ProgressBar,
    label: String,
    total: u64,
    skipped: u64,
    bytes: bool,
    started: Instant,
    last_log: Instant,
    terminal: bool,
}

/// How often a run without a terminal writes a line.
const LOG_EVERY: Duration = Duration::from_secs(30);

impl Progress {
    /// A new line; nothing is shown before two seconds have passed.
    pub fn new(label: impl Into<String>, total: usize) -> Self {
        use std::io::IsTerminal;
        let terminal = std::io::stderr().is_terminal() && super::ranks::place::rank() == 0;
        let label = label.into();
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        let style =
            ProgressStyle::with_template("{msg:24} {wide_bar} {pos}/{len} {elapsed} eta {eta}")
                .expect("a constant template");
        bar.set_style(style);
        bar.set_message(label.clone());
        let now = Instant::now();
        Self {
            bar,
            label,
            total: total as u64,
            skipped: 0,
            bytes: false,
            started: now,
            last_log: now,
            terminal,
        }
    }

    /// A line that counts bytes.
    pub fn of_bytes(label: impl Into<String>, total: u64) -> Self {
        let mut line = Self::new(label, total as usize);
        let template = "{msg:24} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
        let style = ProgressStyle::with_template(template).expect("a constant template");
        line.bar.set_style(style);
        line.bytes = true;
        line
    }

    /// `n` steps were done in an earlier attempt: they count as done, but not for the time left.
    pub fn skip(&mut self, n: usize) {
        self.bar.set_position(n as u64);
        self.skipped = n as u64;
    }

    /// `n` more steps are done.
    pub fn add(&mut self, n: usize) {
        self.bar.inc(n as u64);
        if self.terminal {
            if self.bar.is_hidden() && self.started.elapsed() > Duration::from_secs(2) {
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
            }
        } else if self.last_log.elapsed() > LOG_EVERY {
            self.last_log = Instant::now();
            let done = self.bar.position();
            let spent = self.started.elapsed().as_secs_f64();
            let left = spent / (done - self.skipped).max(1) as f64
                * (self.total - done.min(self.total)) as f64;
            let (done, total) = match self.bytes {
                true => (size(done), size(self.total)),
                false => (done.to_string(), self.total.to_string()),
            };
            tracing::info!("{}: {done} of {total}, {left:.0} s left", self.label);
        }
    }

    /// The work is over: remove the line.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// A number of bytes in the decimal unit that tells it best.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let mut number = bytes as f64 / 1e3;
    let mut unit = 0;
    // What would be told as 1000.0 is one of the next unit.
    while number >= 999.95 && unit + 1 < UNITS.len() {
        number /= 1e3;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_told_in_the_unit_that_suits() {
        for (bytes, told) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (12_345_678, "12.3 MB"),
            (5_000_000_000, "5.0 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(size(bytes), told, "{bytes}");
        }
    }
}
