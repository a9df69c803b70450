//! The processes of a run, as the launcher sees them: children, and those that have become its children.
//!
//! Where the launcher adopts orphans (it is a *subreaper*, PR_SET_CHILD_SUBREAPER(2const)), each process that is made in the run has a child of
//! the launcher's among its ancestors, or is one: neither fork(2) nor setsid(2) nor the end of its parent changes that, and a child is there until
//! the launcher has waited for it. So who ends children until there are none has ended all.

use std::time::{Duration, Instant};
use std::{fs, io};

use crate::raw::launcher::{self, Ended};

/// How long processes may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Family {
    first: i32,
    /// How that has ended.
    end: Option<Ended>,
    /// Whether orphans are adopted.
    adopts: bool,
    /// Children that were there before.
    others: Vec<i32>,
    /// What all have taken that have been waited for.
    pub(super) user_time: Duration,
    pub(super) system_time: Duration,
    pub(super) resident: u64,
}

impl Family {
    /// To be called before there is a first one. With `adopts` this process gets the orphans of the run.
    pub(super) fn new(adopts: bool) -> io::Result<Family> {
        let mut others = Vec::new();
        if adopts {
            // Who was executed by a shell that had children has them.
            others = children()?;
            launcher::adopt_orphans()?;
        }
        let (user_time, system_time) = (Duration::ZERO, Duration::ZERO);
        Ok(Family { first: 0, end: None, adopts, others, user_time, system_time, resident: 0 })
    }

    pub(super) fn begin(&mut self, first: i32) {
        self.first = first;
    }

    /// How the first process has ended, if it has. Who else has ended is forgotten.
    pub(super) fn ended(&mut self) -> io::Result<Option<Ended>> {
        self.collect()?;
        Ok(self.end)
    }

    /// Waits for all that have ended. Whether there may be others.
    fn collect(&mut self) -> io::Result<bool> {
        while self.end.is_none() || self.adopts {
            let (child, ended) = match launcher::ended((!self.adopts).then_some(self.first)) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(true),
                Err(why) if why.raw_os_error() == Some(libc::ECHILD) && self.end.is_some() => {
                    return Ok(false);
                }
                Err(why) => return Err(why),
            };
            if self.others.contains(&child) {
                continue;
            }
            self.user_time += ended.user_time;
            self.system_time += ended.system_time;
            self.resident = self.resident.max(ended.resident);
            if child == self.first {
                self.end = Some(ended);
            }
        }
        Ok(true)
    }

    /// Ends all processes of the run, if orphans are adopted, and waits for them; else the first one.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let start = Instant::now();
        while self.collect()? {
            let mut left = if self.adopts { children()? } else { Vec::new() };
            left.retain(|child| !self.others.contains(child));
            if self.end.is_none() && !self.adopts {
                left.push(self.first);
            }
            if left.is_empty() {
                break;
            }
            if start.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            left.into_iter().for_each(launcher::kill);
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// This process's children, those among them that have ended and not been waited for.
fn children() -> io::Result<Vec<i32>> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that cannot be read has ended. Its name, in parentheses, may have any characters in it (proc_pid_stat(5)).
        let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
        let stat = String::from_utf8_lossy(&stat);
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        if parent == Some(&*own) {
            found.push(number);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().expect("a child");
        let number = child.id() as i32;
        let is_there = children().expect("/proc").contains(&number);
        child.kill().expect("killed");
        // Nobody has waited for it.
        let is_still_there = children().expect("/proc").contains(&number);
        child.wait().expect("its end");
        assert!(is_there && is_still_there && !children().expect("/proc").contains(&number));
    }
}
