//! Progress on stderr: a bar on a terminal, a line every few seconds elsewhere.
//!
//! Whoever works only adds to counters; a thread of its own draws them.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often a bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(3);

/// What has been done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// All that is done.
    pub done: AtomicU64,
    /// Of these, accepted.
    pub accepted: AtomicU64,
    /// Of these, refused.
    pub refused: AtomicU64,
    /// Of these, failed.
    pub failed: AtomicU64,
}

impl Counts {
    /// One more is done.
    pub fn step(&self) {
        self.done.fetch_add(1, Relaxed);
    }

    fn message(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let (accepted, refused, failed) = (of(&self.accepted), of(&self.refused), of(&self.failed));
        if accepted + refused + failed == 0 {
            return String::new();
        }
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        format!("{accepted} accepted, {refused} refused{failed}")
    }
}

/// Something that takes a while and is shown meanwhile, until it is dropped.
pub struct Stage {
    /// To be counted up by the work.
    pub counts: Arc<Counts>,
    stop: Option<Sender<()>>,
    drawer: Option<JoinHandle<()>>,
}

impl Stage {
    /// Shows `title` with `total` steps from now on.
    pub fn start(title: &'static str, total: u64) -> Self {
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = mpsc::channel::<()>();
        let shown = Arc::clone(&counts);
        let draw = move || {
            let mut view = View::new(title, total);
            while stopped.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                view.draw(&shown);
            }
            view.finish(&shown);
        };
        // Without a thread to draw with, the work is still worth doing.
        let drawer = thread::Builder::new().name("progress".into()).spawn(draw).ok();
        Self { counts, stop: Some(stop), drawer }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(drawer) = self.drawer.take() {
            let _ = drawer.join();
        }
    }
}

enum View {
    Bar(ProgressBar),
    Lines { title: &'static str, total: u64, began: Instant, last: Instant },
}

impl View {
    fn new(title: &'static str, total: u64) -> Self {
        if !io::stderr().is_terminal() {
            let now = Instant::now();
            return Self::Lines { title, total, began: now, last: now };
        }
        let bar = ProgressBar::new(total).with_prefix(title);
        let style = "{prefix:>8} [{bar:20}] {human_pos} of {human_len}  {elapsed}  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self::Bar(bar)
    }

    fn draw(&mut self, counts: &Counts) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(counts.done.load(Relaxed));
                bar.set_message(counts.message());
            }
            Self::Lines { last, .. } if last.elapsed() >= LINE => {
                *last = Instant::now();
                self.line(counts);
            }
            Self::Lines { .. } => {}
        }
    }

    fn finish(&mut self, counts: &Counts) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(counts.done.load(Relaxed));
                bar.set_message(counts.message());
                bar.abandon();
                // The bar leaves the cursor at its end.
                eprintln!();
            }
            Self::Lines { .. } => self.line(counts),
        }
    }

    fn line(&self, counts: &Counts) {
        if let Self::Lines { title, total, began, .. } = self {
            let (done, message) = (counts.done.load(Relaxed), counts.message());
            let sep = if message.is_empty() { "" } else { ": " };
            eprintln!("{title}: {done} of {total} after {:.1} s{sep}{message}", began.elapsed().as_secs_f64());
        }
    }
}
