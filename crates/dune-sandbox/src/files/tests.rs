use super::*;

fn files() -> Files {
    let root = |path: &str, number, access| Root::new(path.into(), (1, number), access, number == 4);
    let roots = vec![
        root("/usr", 1, Access::Read),
        root("/usr/secret", 2, Access::Hidden),
        root("/home/me/out", 3, Access::Write),
        root("/usr/bin", 4, Access::Read),
    ];
    Files {
        roots,
        names: vec![("/lib".into(), "/usr/lib".into())],
        above: vec![(1, 9)],
        layer_bytes: None,
        sockets: Vec::new(),
    }
}

/// What a tree says: links by their names, directories with a slash, files.
fn look(tree: &[(&str, &str)], root: &Root, below: &Path) -> Result<Look, i32> {
    let path = root.path.join(below);
    let path = path.to_str().expect("text").trim_end_matches('/');
    let (_, what) = tree.iter().find(|(name, _)| *name == path).ok_or(libc::ENOENT)?;
    Ok(match *what {
        "/dir" => Look::Directory { identity: (1, 100) },
        "/file" => Look::Other { identity: (1, 101) },
        "/secret" => Look::Other { identity: (1, 2) },
        target => Look::Link(target.as_bytes().to_vec()),
    })
}

const TREE: &[(&str, &str)] = &[
    ("/usr", "/dir"),
    ("/usr/lib", "/dir"),
    ("/usr/lib/libc.so", "libc-2.so"),
    ("/usr/lib/libc-2.so", "/file"),
    ("/usr/out", "/etc"),
    ("/usr/up", "../home/me/out/made"),
    ("/usr/loop", "loop"),
    ("/usr/other-name", "/secret"),
    ("/usr/to-secret", "secret/key"),
    ("/home/me/out", "/dir"),
    ("/home/me/out/made", "/file"),
];

fn found(base: &str, path: &str, follows: bool) -> Result<String, i32> {
    let files = files();
    let mut look = |root: &Root, below: &Path| look(TREE, root, below);
    let found = files.find(Path::new(base), path.as_bytes(), follows, &mut look)?;
    Ok(format!("{}|{}", found.root.path.display(), found.name().to_str().expect("text")))
}

#[test]
fn paths_lead_below_roots() {
    for (base, path, follows, wanted) in [
        ("/", "/usr/lib/libc-2.so", true, "/usr|lib/libc-2.so"),
        ("/", "usr//./lib/libc.so", true, "/usr|lib/libc-2.so"),
        ("/", "/usr/lib/libc.so", false, "/usr|lib/libc.so"),
        ("/", "/lib/libc.so", true, "/usr|lib/libc-2.so"),
        ("/usr/lib", "../lib/../../usr/lib/libc.so", true, "/usr|lib/libc-2.so"),
        ("/", "/usr", true, "/usr|."),
        ("/", "/usr/up", true, "/home/me/out|made"),
        ("/home/me/out", "new", true, "/home/me/out|new"),
        ("/", "/home/../usr/lib", true, "/usr|lib"),
    ] {
        assert_eq!(found(base, path, follows).as_deref(), Ok(wanted), "{base} {path}");
    }
}

#[test]
fn roots_and_what_leads_to_them_stay() {
    let files = files();
    for (path, wanted) in [
        ("/usr", Some(Kept::There)),
        ("/home/me", Some(Kept::There)),
        ("/lib", Some(Kept::There)),
        ("/usr/secret", Some(Kept::Hidden)),
        ("/usr/lib", None),
        ("/home/me/out/made", None),
    ] {
        assert_eq!(files.keeps(Path::new(path)), wanted, "{path}");
    }
    let kept = [(1, 9), (1, 1), (1, 2), (1, 100)].map(|identity| files.keeps_file(identity));
    assert_eq!(kept, [Some(Kept::There), Some(Kept::There), Some(Kept::Hidden), None]);
}

#[test]
fn what_is_elsewhere_keeps_its_name() {
    let mut files = files();
    files.roots.push(Root::new("/home/me/work".into(), (1, 5), Access::Layer, false));
    files.roots.push(Root::new("/home/me/work/tmp".into(), (1, 6), Access::Memory, false));
    assert_eq!(files.real(Path::new("/home/me/work/a")), None, "it has no place yet");
    for (path, place, number) in [("/home/me/work", "/store/0", 7), ("/home/me/work/tmp", "/shm/0", 8)] {
        files.put(Path::new(path), Place { path: place.into(), identity: (1, number) });
    }
    for (path, real) in [
        ("/home/me/work", "/store/0"),
        ("/home/me/work/a/b", "/store/0/a/b"),
        ("/home/me/work/tmp", "/shm/0"),
        ("/home/me/work/tmp/a", "/shm/0/a"),
        ("/usr/lib", "/usr/lib"),
    ] {
        assert_eq!(files.real(Path::new(path)).as_deref(), Some(Path::new(real)));
        assert_eq!(files.told(real.into()), Path::new(path));
    }
    assert_eq!(files.told("/store/00/a".into()), Path::new("/store/00/a"));
    let kept = [(1, 5), (1, 7), (1, 8)].map(|identity| files.keeps_file(identity));
    assert_eq!(kept, [Some(Kept::There); 3]);
}

#[test]
fn what_is_executed_is_below_what_may_be() {
    let files = files();
    let look = |_: &Root, _: &Path| Ok(Look::Other { identity: (1, 101) });
    for (path, wanted) in [("/usr/bin/sh", true), ("/usr/binary", false), ("/usr/lib", false)] {
        let found = files.find(Path::new("/"), path.as_bytes(), true, &mut |root, below| {
            if below.as_os_str().is_empty() {
                Ok(Look::Directory { identity: (1, 100) })
            } else {
                look(root, below)
            }
        });
        assert_eq!(found.map(|found| found.executes).ok(), Some(wanted), "{path}");
    }
}

#[test]
fn executables_keep_their_access() {
    let folder = tempfile::tempdir().expect("a folder");
    let [bin, hidden] = ["bin", "hidden"].map(|name| folder.path().join(name));
    [&bin, &hidden].into_iter().for_each(|path| std::fs::create_dir(path).expect("made"));
    let mut files = Files::new();
    files.add(folder.path(), Access::Write).expect("there");
    files.add(&hidden, Access::Hidden).expect("there");
    files.add_executable(&bin).expect("there");
    let added = files.roots().last().expect("three");
    assert!(added.executes && added.access == Access::Write && files.has_executables());
    let refused = files.add_executable(&hidden).expect_err("hidden");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTUNIQ));
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
    ] {
        assert_eq!(found(base, path, true), Err(wanted), "{base} {path}");
    }
}
