//! Policies in files: unix sockets that a program may connect to, send to and make, and no others, by whatever path.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use super::directories::libraries;
use super::policies::{Exchanger, Tree, pauses};
use super::{command, path_of};
use crate::case::CaseResult;

/// Takes all that comes to some sockets, and counts it.
struct Taker {
    is_over: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Taker {
    fn start(listeners: Vec<UnixListener>, receivers: Vec<UnixDatagram>) -> std::io::Result<Taker> {
        listeners.iter().try_for_each(|one| one.set_nonblocking(true))?;
        receivers.iter().try_for_each(|one| one.set_nonblocking(true))?;
        let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn({
            let (is_over, count) = (Arc::clone(&is_over), Arc::clone(&count));
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    let taken = listeners.iter().filter(|one| one.accept().is_ok()).count()
                        + receivers.iter().filter(|one| one.recv(&mut [0; 8]).is_ok()).count();
                    count.fetch_add(taken, Ordering::Relaxed);
                    if taken == 0 {
                        sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        Ok(Taker { is_over, count, thread })
    }

    fn stop(self) -> Result<usize, Box<dyn std::error::Error>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the taker has panicked")?;
        Ok(self.count.load(Ordering::Relaxed))
    }
}

/// Nobody has come to these.
fn untouched(listeners: &[UnixListener], receivers: &[UnixDatagram]) -> CaseResult {
    for listener in listeners {
        listener.set_nonblocking(true)?;
        assert_eq!(listener.accept().map(drop).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
    for receiver in receivers {
        receiver.set_nonblocking(true)?;
        assert_eq!(receiver.recv(&mut [0; 8]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
    Ok(())
}

pub fn paths() -> CaseResult {
    let tree = Tree::new("sockets")?;
    let listen = |part: &str| UnixListener::bind(tree.path(part));
    let good = vec![listen("in/good")?, listen("in/below/any")?, listen("lone")?];
    let bad = [listen("in/other")?, listen("outside")?, listen("in/hidden/socket")?];
    let datagrams = UnixDatagram::bind(tree.path("in/datagrams"))?;
    symlink("below/../good", tree.path("in/link"))?;
    symlink("../outside", tree.path("in/link-out"))?;
    symlink("../outside-made", tree.path("out/link"))?;
    let policy = tree.path("policy.toml");
    let [readable, writable, hidden] = ["in", "out", "in/hidden"].map(|part| tree.path(part));
    let quoted = |parts: &[&str]| {
        let paths: Vec<_> = parts.iter().map(|part| format!("{:?}", tree.path(part))).collect();
        paths.join(", ")
    };
    let text = format!(
        "[files]\nread = [{}, {readable:?}]\nwrite = [{writable:?}]\nhidden = [{hidden:?}]\n\
         [network]\nconnect = [{}]\nsend = [{}]\nbind = [{}]\n",
        libraries(),
        quoted(&["in/good", "in/below", "lone", "out/meeting"]),
        quoted(&["in/datagrams"]),
        quoted(&["out/own", "out/meeting", "out/link"]),
    );
    fs::write(&policy, text)?;
    let folder = tree.0.display().to_string();
    let taker = Taker::start(good, vec![datagrams])?;
    let output = command(&path_of("confined")?, &["sockets", &folder], Some(&policy)).output();
    let count = taker.stop()?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.lines().count() == 35, "{output:?}");
    let is_right = |line: &&str| match line.split_once(": ") {
        Some(("denied", what)) => what.ends_with(": -13"),
        _ => line.ends_with(": 0"),
    };
    let wrong: Vec<_> = said.lines().filter(|line| !is_right(line)).collect();
    assert!(wrong.is_empty(), "{wrong:?}: {output:?}");
    // Six connections and five messages: what is denied of several messages is all of them.
    assert_eq!(count, 11, "{output:?}");
    untouched(&bad, &[])?;
    assert!(fs::symlink_metadata(tree.path("out/own"))?.file_type().is_socket());
    assert!(!fs::exists(tree.path("outside-made"))?);
    // What the policy comes to is told.
    let explained = std::process::Command::new("dune").args(["run", "--explain", &policy]).output()?;
    let words = String::from_utf8_lossy(&explained.stdout);
    for part in
        ["connect to the unix socket ", "in/below, or what is below", "families can be made: AF_UNIX\n"]
    {
        assert!(words.contains(part), "{part}: {explained:?}");
    }
    Ok(())
}

/// The directories in which sockets are named are exchanged for links out of the roots, all the time.
pub fn paths_that_change() -> CaseResult {
    const PAUSES: [u64; 301] = pauses(200);
    let tree = Tree::new("sockets-race")?;
    for part in ["in/race", "out/race", "elsewhere"] {
        fs::create_dir_all(tree.path(part))?;
    }
    let listen = |part: &str| UnixListener::bind(tree.path(part));
    let receive = |part: &str| UnixDatagram::bind(tree.path(part));
    let taker = Taker::start(vec![listen("in/race/socket")?], vec![receive("in/race/datagrams")?])?;
    let (listener, receiver) = (listen("elsewhere/socket")?, receive("elsewhere/datagrams")?);
    for part in ["link-in", "link-out"] {
        symlink(tree.path("elsewhere"), tree.path(part))?;
    }
    let policy = tree.path("policy.toml");
    let [readable, writable] = ["in", "out"].map(|part| tree.path(part));
    let text = format!(
        "[files]\nread = [{}, {readable:?}]\nwrite = [{writable:?}]\n[network]\nconnect = [{readable:?}]\n\
         send = [{readable:?}]\nbind = [{writable:?}]\n",
        libraries()
    );
    fs::write(&policy, text)?;
    let exchanger =
        Exchanger::start_with(&tree, &[("in/race", "link-in"), ("out/race", "link-out")], &PAUSES);
    let folder = tree.0.display().to_string();
    let output = command(&path_of("confined")?, &["sockets-race", &folder, "150"], Some(&policy)).output();
    exchanger.stop()?;
    let count = taker.stop()?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout);
    let reached: usize =
        said.trim_end().trim_start_matches("reached ").parse().map_err(|_| format!("{output:?}"))?;
    // Some were where they may be, and some were not.
    assert!(count > 0 && (1..450).contains(&reached), "{count} {output:?}");
    untouched(&[listener], &[receiver])?;
    let names: Vec<_> =
        fs::read_dir(tree.path("elsewhere"))?.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    Ok(())
}
