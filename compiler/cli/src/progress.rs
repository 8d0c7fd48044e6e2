//! What a run is doing, for whoever watches the terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal::Terminal;

/// A bar on standard error; nothing where nobody watches.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new(terminal: &Terminal, steps: u64) -> Progress {
        if !terminal.is_watched() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(steps);
        // The whole line is drawn anew each time, and must not be wrapped.
        let screen = terminal.messages();
        let template =
            if screen.width < 60 { "{pos}/{len} {msg}" } else { "{spinner} [{bar:24}] {pos}/{len} {msg} {elapsed}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(match screen.ascii {
                true => style.progress_chars("=> ").tick_chars("-\\|/ "),
                false => style.progress_chars("━╸ "),
            });
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    /// The next step begins.
    pub fn say(&self, step: &'static str) {
        self.0.set_message(step);
        self.0.inc(1);
    }

    /// So many more steps are done.
    pub fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
