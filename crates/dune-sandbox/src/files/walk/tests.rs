use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::files::tests::files;

/// Links by their names, directories with a slash, files.
const TREE: &[(&str, &str)] = &[
    ("/usr", "/dir"),
    ("/usr/lib", "/dir"),
    ("/usr/lib/libc.so", "libc-2.so"),
    ("/usr/lib/libc-2.so", "/file"),
    ("/usr/bin", "/dir"),
    ("/usr/bin/sh", "/file"),
    ("/usr/binary", "/file"),
    ("/usr/out", "/etc"),
    ("/usr/up", "../home/me/out/made"),
    ("/usr/loop", "loop"),
    ("/usr/other-name", "/secret"),
    ("/usr/to-secret", "secret/key"),
    ("/home/me/out", "/dir"),
    ("/home/me/out/made", "/file"),
];

/// Something that is open: what is there by then, and one more of those that are.
struct Open {
    path: PathBuf,
    what: String,
    count: Rc<Cell<u32>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

#[derive(Default)]
struct Tree {
    /// Names that lead elsewhere from now on, from the second look at something on.
    moved: Option<(&'static str, &'static str)>,
    count: Rc<Cell<u32>>,
    most: u32,
}

impl Tree {
    fn open(&mut self, path: &Path) -> Result<Open, i32> {
        let what = TREE.iter().find(|(name, _)| Path::new(name) == path).ok_or(libc::ENOENT)?.1;
        self.count.set(self.count.get() + 1);
        self.most = self.most.max(self.count.get());
        Ok(Open { path: path.to_owned(), what: what.to_owned(), count: Rc::clone(&self.count) })
    }
}

impl Opener for Tree {
    type Opened = Open;

    fn open_root(&mut self, root: &Root) -> Result<Open, i32> {
        self.open(&root.path)
    }

    fn open_in(&mut self, directory: &Open, path: &Path) -> Result<Open, i32> {
        assert_eq!(path.parent(), Some(&*directory.path), "from the directory that has it");
        if directory.what != "/dir" {
            return Err(libc::ENOTDIR);
        }
        let mut opened = self.open(path)?;
        if let Some((_, what)) = self.moved.filter(|(name, _)| Path::new(name) == path) {
            opened.what = what.to_owned();
        }
        Ok(opened)
    }

    fn look(&mut self, opened: &Open) -> Result<Look, i32> {
        Ok(match &*opened.what {
            "/dir" => Look::Directory { identity: (1, 100) },
            "/hidden" => Look::Directory { identity: (1, 2) },
            "/file" => Look::Other { identity: (1, 101) },
            "/secret" => Look::Other { identity: (1, 2) },
            target => Look::Link(target.as_bytes().to_vec()),
        })
    }
}

fn found_in(tree: &mut Tree, base: &str, path: &str, follows: bool) -> Result<String, i32> {
    let files = files();
    // What is no directory of the tree is not open either.
    let start = tree.open(Path::new(base)).unwrap_or_else(|_| {
        tree.count.set(tree.count.get() + 1);
        Open { path: base.into(), what: "/dir".into(), count: Rc::clone(&tree.count) }
    });
    let start = Start { path: base.into(), directory: start };
    let found = files.find(Some(start), path.as_bytes(), follows, tree)?;
    let name = found.path.strip_prefix(&found.root.path).expect("below its root");
    if let Some(directory) = &found.directory {
        assert_eq!(found.path.parent(), Some(&*directory.path));
    }
    let there = found.there.as_ref().map_or("", |there| &there.what);
    assert!(found.there.as_ref().is_none_or(|there| there.path == found.path));
    Ok(format!("{}|{}|{there}", found.root.path.display(), name.display()))
}

fn found(base: &str, path: &str, follows: bool) -> Result<String, i32> {
    let mut tree = Tree::default();
    let found = found_in(&mut tree, base, path, follows);
    assert!(tree.most <= 3 && tree.count.get() == 0, "{} open at once, {:?} left", tree.most, tree.count);
    found
}

#[test]
fn paths_lead_below_roots() {
    for (base, path, follows, wanted) in [
        ("/", "/usr/lib/libc-2.so", true, "/usr|lib/libc-2.so|/file"),
        ("/", "usr//./lib/libc.so", true, "/usr|lib/libc-2.so|/file"),
        ("/", "/usr/lib/libc.so", false, "/usr|lib/libc.so|libc-2.so"),
        ("/", "/lib/libc.so", true, "/usr|lib/libc-2.so|/file"),
        ("/usr/lib", "../lib/../../usr/lib/libc.so", true, "/usr|lib/libc-2.so|/file"),
        ("/", "/usr", true, "/usr||/dir"),
        ("/", "/usr/up", true, "/home/me/out|made|/file"),
        ("/home/me/out", "new", true, "/home/me/out|new|"),
        ("/", "/home/../usr/lib", true, "/usr|lib|/dir"),
        ("/usr/lib", ".", true, "/usr|lib|/dir"),
        ("/usr/lib", "..", true, "/usr||/dir"),
        ("/usr/lib/", "libc.so/", true, "/usr|lib/libc-2.so|/file"),
    ] {
        assert_eq!(found(base, path, follows).as_deref(), Ok(wanted), "{base} {path}");
    }
}

#[test]
fn what_is_executed_is_below_what_may_be() {
    let files = files();
    for (path, wanted) in [("/usr/bin/sh", true), ("/usr/binary", false), ("/usr/lib", false)] {
        let found = files.find(None, path.as_bytes(), true, &mut Tree::default());
        assert_eq!(found.map(|found| found.executes).ok(), Some(wanted), "{path}");
    }
}

#[test]
fn others_lead_nowhere() {
    for (base, path, wanted) in [
        ("/", "/etc/passwd", OUTSIDE),
        ("/", "/usr/../etc/passwd", OUTSIDE),
        ("/", "/usr/out/passwd", OUTSIDE),
        ("/", "/usr/out", OUTSIDE),
        ("/", "/", OUTSIDE),
        ("/", "/home", OUTSIDE),
        ("/", "/usr/secret", libc::ENOENT),
        ("/", "/usr/secret/key", libc::ENOENT),
        ("/usr/secret", "key", libc::ENOENT),
        ("/", "/usr/to-secret", libc::ENOENT),
        ("/", "/usr/other-name", libc::ENOENT),
        ("/", "/usr/loop", libc::ELOOP),
        ("/", "/usr/lib/libc.so/more", libc::ENOTDIR),
        ("/", "/usr/nothing/more", libc::ENOENT),
        ("/", "", libc::ENOENT),
        ("/root", "file", OUTSIDE),
        ("/", "/home/me/.gitconfig", libc::ENOENT),
        ("/home/me/out", "../.config/git/config", libc::ENOENT),
        ("/", "/home/me/out/../.gitconfig", libc::ENOENT),
        ("/", "/home/me", OUTSIDE),
        ("/", "/home/me2/.gitconfig", OUTSIDE),
    ] {
        assert_eq!(found(base, path, true), Err(wanted), "{base} {path}");
    }
}

#[test]
fn what_comes_in_between_is_looked_at() {
    for (moved, base, path) in [
        (("/usr/lib", "/hidden"), "/", "/usr/lib/libc-2.so"),
        (("/usr/lib/libc-2.so", "/secret"), "/", "/usr/lib/libc.so"),
        (("/usr/lib", "/hidden"), "/usr/lib/below", "../libc-2.so"),
    ] {
        let mut tree = Tree { moved: Some(moved), ..Tree::default() };
        assert_eq!(found_in(&mut tree, base, path, true), Err(libc::ENOENT), "{path}");
    }
}
