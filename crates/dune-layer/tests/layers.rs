//! Folders, their copies, and what comes back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use dune_layer::{Change, Layer, LayerError, Reason, Source, What};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

const LIMIT: u64 = 10 << 20;

/// A folder with some of all, and a place for its layer.
struct Case {
    at: TempDir,
}

impl Case {
    fn new() -> Case {
        let at = tempfile::tempdir().expect("a folder");
        let folder = at.path().join("folder");
        for part in ["src/deep", "empty"] {
            fs::create_dir_all(folder.join(part)).expect("made");
        }
        for (name, text) in
            [("a", "one\ntwo\nthree\n"), ("b", "b\n"), ("src/c", "c\n"), ("src/deep/d", "d\n")]
        {
            fs::write(folder.join(name), text).expect("written");
        }
        symlink("/etc/passwd", folder.join("out")).expect("made");
        Case { at }
    }

    fn folder(&self, path: &str) -> PathBuf {
        self.at.path().canonicalize().expect("there").join("folder").join(path)
    }

    fn source(&self) -> Source {
        let path = self.at.path().join("folder").canonicalize().expect("there");
        Source { path, apart: Vec::new(), hidden: Vec::new(), hidden_files: Vec::new() }
    }

    fn layer(&self) -> Layer {
        self.layer_of(&self.source())
    }

    fn layer_of(&self, source: &Source) -> Layer {
        let place = self.at.path().join("layer");
        Layer::make(Some(&place), std::slice::from_ref(source), LIMIT, vec!["x".into()]).expect("a layer")
    }
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(Layer::line).collect()
}

/// All that is in a tree: modes, and texts or targets.
fn all(path: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).expect("listed").map(|entry| entry.expect("an entry").path()) {
            let about = entry.symlink_metadata().expect("there");
            let what = match about.file_type() {
                kind if kind.is_symlink() => fs::read_link(&entry).expect("a link").display().to_string(),
                kind if kind.is_dir() => String::new(),
                _ => fs::read_to_string(&entry).expect("text"),
            };
            if about.is_dir() {
                left.push(entry.clone());
            }
            found.insert(entry.strip_prefix(path).expect("below").to_owned(), (about.mode(), what));
        }
    }
    found
}

#[test]
fn a_copy_is_what_the_folder_is() {
    let case = Case::new();
    fs::set_permissions(case.folder("b"), PermissionsExt::from_mode(0o640)).expect("set");
    fs::hard_link(case.folder("b"), case.folder("b2")).expect("linked");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::File::open(case.folder("a")).expect("open").set_modified(old).expect("set");
    let layer = case.layer();
    let copy = layer.copy_of(0);
    assert_eq!(all(&copy), all(&case.folder("")));
    let about = |name: &str| copy.join(name).metadata().expect("there");
    assert_eq!(about("a").modified().expect("a time"), old);
    assert!(about("b").ino() == about("b2").ino() && about("b").nlink() == 2);
    assert_ne!(about("b").ino(), case.folder("b").metadata().expect("there").ino());
    assert!(layer.changes().expect("compared").is_empty());
    // Neither does touching, nor writing the same.
    fs::write(copy.join("a"), "one\ntwo\nthree\n").expect("written");
    assert!(layer.changes().expect("compared").is_empty());
    layer.remove().expect("removed");
    assert!(!copy.exists());
}

#[test]
fn changes_are_told_and_applied() {
    let case = Case::new();
    let layer = case.layer();
    let copy = layer.copy_of(0);
    fs::write(copy.join("a"), "one\n2\nthree\n").expect("written");
    fs::set_permissions(copy.join("b"), PermissionsExt::from_mode(0o755)).expect("set");
    fs::remove_dir_all(copy.join("src")).expect("removed");
    fs::write(copy.join("src"), "a file now\n").expect("written");
    fs::remove_dir(copy.join("empty")).expect("removed");
    fs::create_dir_all(copy.join("new/er")).expect("made");
    fs::write(copy.join("new/er/file"), "new\n").expect("written");
    fs::set_permissions(copy.join("new"), PermissionsExt::from_mode(0o500)).expect("set");
    fs::remove_file(copy.join("out")).expect("removed");
    symlink("a", copy.join("out")).expect("made");
    let changes = layer.changes().expect("compared");
    let expected = [
        "M  a",
        "m  b (mode 755)",
        "D  empty/",
        "A  new/",
        "A  new/er/",
        "A  new/er/file",
        "M  out -> a",
        "D  src/",
        "A  src",
        "D  src/c",
        "D  src/deep/",
        "D  src/deep/d",
    ];
    assert_eq!(lines(&changes), expected);
    let difference = layer.difference(&changes[0], true);
    assert_eq!(difference, "M  a\n--- a/a\n+++ b/a\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
    assert!(
        layer.difference(&changes[11], true).contains("--- a/src/deep/d\n+++ /dev/null\n@@ -1 +0,0 @@\n-d\n")
    );
    let before = all(&copy);
    let (done, refused) = layer.apply(&changes).expect("applied");
    assert!(done == changes.len() && refused.is_empty(), "{done} {refused:?}");
    assert_eq!(all(&case.folder("")), before);
    assert_eq!(all(&copy), before);
    // What is done is no change any more, whoever has done it.
    assert_eq!(lines(&layer.changes().expect("compared")), [""; 0]);
    fs::set_permissions(copy.join("new"), PermissionsExt::from_mode(0o700)).expect("set");
}

#[test]
fn what_others_have_changed_stays() {
    let case = Case::new();
    let layer = case.layer();
    let copy = layer.copy_of(0);
    for (name, text) in [("a", "program\n"), ("src/c", "program\n"), ("new", "program\n"), ("same", "same\n")]
    {
        fs::write(copy.join(name), text).expect("written");
    }
    fs::remove_file(copy.join("b")).expect("removed");
    fs::remove_dir_all(copy.join("src/deep")).expect("removed");
    for (name, text) in [("a", "user\n"), ("b", "user\n"), ("new", "user\n"), ("same", "same\n")] {
        fs::write(case.folder(name), text).expect("written");
    }
    fs::write(case.folder("src/deep/more"), "user\n").expect("written");
    let changes = layer.changes().expect("compared");
    let changed = "has changed in the folder since the run began";
    let expected = [
        format!("M! a: {changed}"),
        format!("D! b: {changed}"),
        "A! new: is in the folder now, too, and another one".to_owned(),
        "M  src/c".to_owned(),
        "D  src/deep/".to_owned(),
        "D  src/deep/d".to_owned(),
    ];
    assert_eq!(lines(&changes), expected);
    let (done, refused) = layer.apply(&changes).expect("applied");
    let mut said: Vec<_> =
        refused.iter().map(|one| format!("{} {}", one.change.path.display(), one.why)).collect();
    said.sort();
    let expected = [
        format!("a {changed}"),
        format!("b {changed}"),
        "new is in the folder now, too, and another one".to_owned(),
        "src/deep has something in it that is not in the layer".to_owned(),
    ];
    assert_eq!((done, said), (2, expected.to_vec()));
    for (name, text) in [
        ("a", "user\n"),
        ("b", "user\n"),
        ("new", "user\n"),
        ("src/c", "program\n"),
        ("src/deep/more", "user\n"),
    ] {
        assert_eq!(fs::read_to_string(case.folder(name)).expect(name), text);
    }
    assert_eq!(fs::read_dir(case.folder("")).expect("listed").count(), 7, "nothing else is left there");
    assert_eq!(layer.changes().expect("compared").len(), 4);
}

/// The list is older than the folder: what changed after it was made is seen when the change is made.
#[test]
fn what_changes_after_the_comparison_stays() {
    let case = Case::new();
    let layer = case.layer();
    let copy = layer.copy_of(0);
    fs::write(copy.join("a"), "program\n").expect("written");
    fs::write(copy.join("new"), "program\n").expect("written");
    fs::remove_file(copy.join("b")).expect("removed");
    let changes = layer.changes().expect("compared");
    for name in ["a", "b", "new"] {
        fs::write(case.folder(name), "user\n").expect("written");
    }
    let (done, refused) = layer.apply(&changes).expect("applied");
    assert_eq!((done, refused.len()), (0, 3), "{refused:?}");
    for name in ["a", "b", "new"] {
        assert_eq!(fs::read_to_string(case.folder(name)).expect(name), "user\n");
    }
    assert_eq!(fs::read_dir(case.folder("")).expect("listed").count(), 6);
}

/// Neither the program's links nor those that others put in the place of directories lead out of the folder.
#[test]
fn no_link_is_followed() {
    let case = Case::new();
    let outside = case.at.path().join("outside");
    fs::create_dir_all(outside.join("deep")).expect("made");
    for name in ["d", "deep/d", "deep/gone"] {
        fs::write(outside.join(name), "outside\n").expect("written");
    }
    fs::write(case.folder("src/deep/gone"), "gone\n").expect("written");
    let layer = case.layer();
    let copy = layer.copy_of(0);
    fs::write(copy.join("src/deep/d"), "program\n").expect("written");
    fs::write(copy.join("src/deep/new"), "program\n").expect("written");
    fs::remove_file(copy.join("src/deep/gone")).expect("removed");
    fs::create_dir(copy.join("src/deep/more")).expect("made");
    fs::remove_file(copy.join("out")).expect("removed");
    symlink(&outside, copy.join("out")).expect("made");
    symlink(outside.join("d"), copy.join("link")).expect("made");
    let changes = layer.changes().expect("compared");
    for gone in ["src", "src/deep"] {
        // A directory of the folder is a link now.
        let (is, was) = (case.folder(gone), case.folder("was"));
        fs::rename(&is, &was).expect("renamed");
        let target = if gone == "src" { outside.clone() } else { outside.join("deep") };
        symlink(target, &is).expect("made");
        let (_, refused) = layer.apply(&changes).expect("applied");
        let left = refused.iter().filter(|one| one.change.path.starts_with("src")).count();
        assert_eq!(left, 4, "{refused:?}");
        fs::remove_file(&is).expect("removed");
        fs::rename(&was, &is).expect("renamed");
    }
    for name in ["d", "deep/d", "deep/gone"] {
        assert_eq!(fs::read_to_string(outside.join(name)).expect("there"), "outside\n");
    }
    assert_eq!(fs::read_dir(outside.join("deep")).expect("listed").count(), 2);
    assert_eq!(fs::read_link(case.folder("link")).expect("a link"), outside.join("d"));
}

#[test]
fn what_is_not_copied_is_told() {
    let case = Case::new();
    let made = Command::new("mkfifo").arg(case.folder("fifo")).status().expect("mkfifo");
    assert!(made.success());
    for name in [".env", "key", "key2"] {
        let _ = fs::remove_file(case.folder(name));
        fs::write(case.folder(name), "secret\n").expect("written");
    }
    fs::remove_file(case.folder("key2")).expect("removed");
    fs::hard_link(case.folder("key"), case.folder("key2")).expect("linked");
    let about = case.folder("key").metadata().expect("there");
    let source = Source {
        apart: vec!["src/deep".into(), "b".into()],
        hidden: vec![".env".into()],
        hidden_files: vec![(about.dev(), about.ino())],
        ..case.source()
    };
    let layer = case.layer_of(&source);
    let copy = layer.copy_of(0);
    let names: Vec<_> = all(&copy).into_keys().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["a", "b", "empty", "out", "src", "src/c", "src/deep"]);
    assert_eq!(fs::read_to_string(copy.join("b")).expect("a name"), "");
    let left: Vec<_> = layer.left_out().into_iter().map(|left| (left.path, left.reason)).collect();
    assert_eq!(left, [(case.folder("fifo"), Reason::Special)]);
    assert!(layer.changes().expect("compared").is_empty());
    fs::write(copy.join("fifo"), "x").expect("written");
    let changes = layer.changes().expect("compared");
    assert_eq!(lines(&changes), ["A! fifo: is in the place of what is not in the layer"]);
    assert_eq!(layer.apply(&changes).expect("applied").0, 0);
}

#[test]
fn what_can_not_be_read_is_told() {
    let case = Case::new();
    for name in ["b", "src/deep"] {
        fs::set_permissions(case.folder(name), PermissionsExt::from_mode(0o000)).expect("set");
    }
    let layer = case.layer();
    let left: Vec<_> = layer.left_out().into_iter().map(|left| (left.path, left.reason)).collect();
    // Root reads all.
    let expected = [case.folder("b"), case.folder("src/deep")].map(|path| (path, Reason::Unreadable));
    assert_eq!(left, if rustix::process::geteuid().is_root() { Vec::new() } else { expected.to_vec() });
    assert!(layer.changes().expect("compared").is_empty());
    fs::set_permissions(case.folder("src/deep"), PermissionsExt::from_mode(0o700)).expect("set");
}

#[test]
fn rights_are_not_lent() {
    let case = Case::new();
    fs::set_permissions(case.folder("b"), PermissionsExt::from_mode(0o4755)).expect("set");
    let layer = case.layer();
    let copy = layer.copy_of(0);
    assert_eq!(copy.join("b").metadata().expect("there").mode() & 0o7777, 0o755);
    assert!(layer.changes().expect("compared").is_empty());
    fs::write(copy.join("b"), "other\n").expect("written");
    fs::set_permissions(copy.join("b"), PermissionsExt::from_mode(0o6755)).expect("set");
    let changes = layer.changes().expect("compared");
    assert_eq!(lines(&changes), ["M  b"]);
    assert_eq!(layer.apply(&changes).expect("applied").0, 1);
    assert_eq!(case.folder("b").metadata().expect("there").mode() & 0o7777, 0o755);
}

#[test]
fn what_can_not_be_is_said_and_leaves_nothing() {
    let case = Case::new();
    let place = case.at.path().join("layer");
    let sources = [case.source()];
    let error = Layer::make(Some(&place), &sources, 5 * 4096, Vec::new()).expect_err("too big");
    assert!(matches!(error, LayerError::TooBig { limit: 20480, .. }), "{error}");
    assert!(error.to_string().contains("layer_bytes") && !place.exists());
    let layer = Layer::make(Some(&place), &sources, LIMIT, Vec::new()).expect("a layer");
    assert!(matches!(Layer::open(&place), Err(LayerError::InUse { .. })));
    let error = Layer::make(Some(&place), &sources, LIMIT, Vec::new()).expect_err("not empty");
    assert!(matches!(error, LayerError::NotEmpty { .. }));
    drop(layer);
    let layer = Layer::open(&place).expect("a layer");
    // The folder is another one than it was.
    fs::rename(case.folder(""), case.at.path().join("elsewhere")).expect("renamed");
    fs::create_dir(case.folder("")).expect("made");
    assert!(layer.changes().expect_err("another one").to_string().contains("another one than it was"));
    layer.remove().expect("removed");
    assert!(matches!(Layer::open(&place), Err(LayerError::NoLayer { .. })));
    fs::create_dir(&place).expect("made");
    let said = Layer::open(&place).expect_err("no layer").to_string();
    assert!(said.contains("has no manifest.json"), "{said}");
}

#[test]
fn deep_directories_are_an_error_and_can_be_removed() {
    let case = Case::new();
    let layer = case.layer();
    let mut at = std::os::fd::OwnedFd::from(fs::File::open(layer.copy_of(0)).expect("open"));
    for _ in 0..1000 {
        rustix::fs::mkdirat(&at, "ddddddddddddd", Mode::RWXU).expect("made");
        at = rustix::fs::openat(&at, "ddddddddddddd", OFlags::DIRECTORY, Mode::empty()).expect("open");
    }
    let error = layer.changes().expect_err("too deep");
    assert!(matches!(error, LayerError::TooDeep { .. }), "{error}");
    let place = layer.directory().to_owned();
    layer.remove().expect("removed");
    assert!(!place.exists());
}

#[test]
fn closed_directories_and_files_are_read() {
    let case = Case::new();
    let layer = case.layer();
    let copy = layer.copy_of(0);
    fs::write(copy.join("src/c"), "program\n").expect("written");
    for (name, mode) in [("src/c", 0o000), ("src/deep", 0o000), ("src", 0o100)] {
        fs::set_permissions(copy.join(name), PermissionsExt::from_mode(mode)).expect("set");
    }
    let changes = layer.changes().expect("compared");
    assert!(layer.difference(&changes[1], true).contains("\n-c\n+program\n"));
    assert_eq!(lines(&changes), ["m  src/ (mode 100)", "M  src/c", "m  src/deep/ (mode 0)"]);
    assert_eq!(copy.join("src").metadata().expect("there").mode() & 0o777, 0o100);
    assert_eq!(layer.apply(&changes).expect("applied").0, 3);
    assert_eq!(case.folder("src").metadata().expect("there").mode() & 0o777, 0o100);
    assert!(changes.iter().all(|change| change.what != What::Deleted));
    for name in ["src", "src/deep"] {
        fs::set_permissions(case.folder(name), PermissionsExt::from_mode(0o700)).expect("set");
    }
}
