//! Policies in files: what is made, removed, renamed and changed is below what may be written to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::policies::{Exchanger, Tree, pauses};
use super::{command, path_of};
use crate::case::CaseResult;

const ENOENT: i32 = -libc::ENOENT;
const EACCES: i32 = -libc::EACCES;
const EBUSY: i32 = -libc::EBUSY;

/// What each call has to say that does not succeed.
const REFUSED: &[(&str, i32)] = &[
    ("mkdir that is there", -libc::EEXIST),
    ("mkdir in what is read", EACCES),
    ("mkdir outside", EACCES),
    ("mkdir by ..", EACCES),
    ("mkdir by a link", EACCES),
    ("mkdir below a root", EACCES),
    ("mkdir of what is hidden", EACCES),
    ("mkdir in what is hidden", ENOENT),
    ("rmdir of a root", EACCES),
    ("rmdir of .", -libc::EINVAL),
    ("rmdir of ..", -libc::ENOTEMPTY),
    ("rmdir of a link", -libc::ENOTDIR),
    ("unlink of a lower root", EBUSY),
    ("unlink of what is hidden", ENOENT),
    ("unlink of another name of it", ENOENT),
    ("unlink outside", EACCES),
    ("rename of a file with a slash", -libc::ENOTDIR),
    ("rename of what leads to a root", EBUSY),
    ("rename of a lower root", EBUSY),
    ("rename over a lower root", EBUSY),
    ("exchange with what leads to a root", EBUSY),
    ("rename of what is hidden", ENOENT),
    ("rename over what is hidden", ENOENT),
    ("rename of another name of it", ENOENT),
    ("rename out", EACCES),
    ("rename to what is read", EACCES),
    ("rename from what is read", EACCES),
    ("rename that replaces nothing", -libc::EEXIST),
    ("whiteout", -libc::EINVAL),
    ("link of what is read", EACCES),
    ("link of what is outside", EACCES),
    ("link of what is hidden", ENOENT),
    ("link to what is read", EACCES),
    ("symlink outside", EACCES),
    ("mknod in what is read", EACCES),
    ("mknod of a device", -libc::EPERM),
    ("chmod of what is read", EACCES),
    ("chmod by a link", EACCES),
    ("chmod to another user's rights", -libc::EPERM),
    ("fchmod of what is read", EACCES),
    ("times of what is read", EACCES),
    ("truncate of what is read", EACCES),
    ("unlink of a directory", -libc::EISDIR),
    ("chown", -libc::EPERM),
];

/// Calls of one program for all that a policy lets it write, and what it does not.
pub fn changes() -> CaseResult {
    let tree = Tree::new("directories")?;
    for part in ["out/above/kept", "out/dark", "elsewhere"] {
        fs::create_dir_all(tree.path(part))?;
    }
    for part in ["out/one", "out/dark/file", "out/dark-file", "elsewhere/file"] {
        fs::write(tree.path(part), "text\n")?;
    }
    symlink(tree.path("elsewhere"), tree.path("out/away"))?;
    fs::hard_link(tree.path("out/dark-file"), tree.path("out/alias"))?;
    let policy = tree.path("policy.toml");
    let list = |parts: &[&str]| {
        parts.iter().map(|part| format!("{:?}", tree.path(part))).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "[files]\nread = [{}, {}]\nwrite = [{}]\nhidden = [{}]\n",
        libraries(),
        list(&["in", "out/above/kept"]),
        list(&["out"]),
        list(&["out/dark", "out/dark-file"]),
    );
    fs::write(&policy, text)?;
    let folder = tree.0.display().to_string();
    let output = command(&path_of("confined")?, &["directories", &folder], Some(&policy)).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let said: BTreeMap<_, _> = said.lines().filter_map(|line| line.split_once(": ")).collect();
    assert!(output.status.success() && said.len() > REFUSED.len() + 10, "{output:?}");
    let wrong = said.iter().filter(|(what, result)| {
        let wanted = REFUSED.iter().find(|(refused, _)| refused == *what).map_or(0, |(_, error)| *error);
        **result != wanted.to_string()
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:?}: {output:?}");
    let about = fs::metadata(tree.path("out/two"))?;
    assert_eq!((about.mode() & 0o7777, about.len(), about.mtime()), (0o600, 1, 2));
    assert_eq!(fs::read_link(tree.path("out/text"))?, std::path::Path::new(&tree.path("out/two")));
    Ok(())
}

/// What programs are linked with.
pub(super) fn libraries() -> String {
    let there = ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|path| fs::exists(path).unwrap_or(false));
    there.map(|path| format!("{path:?}")).collect::<Vec<_>>().join(", ")
}

/// The directory in which all that is done is exchanged for a link out of the root, all the time.
pub fn races() -> CaseResult {
    // Some turns long: each call looks several times, and some would never find the same.
    const PAUSES: [u64; 301] = pauses(200);
    let tree = Tree::new("directories-race")?;
    for part in ["out/place", "elsewhere"] {
        fs::create_dir_all(tree.path(part))?;
        fs::write(tree.path(&format!("{part}/file")), "text\n")?;
    }
    symlink(tree.path("elsewhere"), tree.path("link"))?;
    let untouched = || -> std::io::Result<_> {
        let names = fs::read_dir(tree.path("elsewhere"))?.count();
        let about = fs::metadata(tree.path("elsewhere/file"))?;
        Ok((names, about.mode(), about.len(), about.nlink()))
    };
    let before = untouched()?;
    let policy = tree.path("policy.toml");
    fs::write(&policy, format!("[files]\nread = [{}]\nwrite = [{:?}]\n", libraries(), tree.path("out")))?;
    let exchanger = Exchanger::start_with(&tree, &[("out/place", "link")], &PAUSES);
    let folder = tree.0.display().to_string();
    let output =
        command(&path_of("confined")?, &["directories-race", &folder, "150"], Some(&policy)).output();
    exchanger.stop()?;
    let output = output?;
    assert_eq!(untouched()?, before, "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    let counts: Vec<u32> = said
        .trim_start_matches("done [")
        .trim_end_matches("]\n")
        .split(", ")
        .filter_map(|count| count.parse().ok())
        .collect();
    // Each was made where it may be, and not each time.
    assert!(counts.len() == 8 && counts.iter().all(|count| (1..150).contains(count)), "{output:?}");
    Ok(())
}
