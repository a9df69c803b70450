//! What is going on, on stderr: progress bars on a terminal, else one plain line per step.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::Duration;

/// The bars on the screen: machines that boot at the same time have one each.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints a line to standard output, above the bars.
pub fn print(line: &str) {
    BARS.suspend(|| println!("{line}"));
}

/// A step of some length; the bar goes away when it is dropped.
#[derive(Debug)]
pub struct Step {
    bar: ProgressBar,
}

impl Step {
    /// A step that tells how far it is through [`Step::percent`].
    pub fn measured(title: &str) -> Self {
        Self::new(title, "{msg} [{bar:30}] {percent}%")
    }

    /// A step of unknown length.
    pub fn waiting(title: &str) -> Self {
        Self::new(title, "{spinner} {msg} ({elapsed})")
    }

    fn new(title: &str, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            eprintln!("xtask: {title}");
            return Self { bar: ProgressBar::hidden() };
        }
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        let bar = BARS.add(ProgressBar::new(100).with_style(style).with_message(title.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(150));
        Self { bar }
    }

    /// Tells how far the step is.
    pub fn percent(&self, percent: f64) {
        // Whole steps are all a bar can show.
        self.bar.set_position(percent.clamp(0.0, 100.0) as u64);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}
