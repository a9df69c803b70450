use super::*;

pub(in crate::files) fn files() -> Files {
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
        noted: Vec::new(),
        layer_bytes: None,
        sockets: Vec::new(),
        absent: vec!["/home/me".into()],
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
fn below_is_by_whole_parts() {
    for (path, above, wanted) in [
        ("/usr", "/usr", Some("")),
        ("/usr/lib/a", "/usr", Some("lib/a")),
        ("/usr", "/", Some("usr")),
        ("/", "/", Some("")),
        ("/usr2", "/usr", None),
        ("/us", "/usr", None),
        ("/", "/usr", None),
    ] {
        assert_eq!(below(Path::new(path), Path::new(above)), wanted.map(Path::new), "{path} {above}");
    }
}

#[test]
fn names_are_as_a_walk_has_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let real = folder.path().canonicalize().expect("there").join("real");
    std::fs::create_dir(&real).expect("made");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&real, &link).expect("made");
    let mut files = Files::new();
    files.add(&folder.path().join(".//link/"), Access::Read).expect("there");
    files.set_absent(&folder.path().join("none//")).expect("absolute");
    assert!(files.names.iter().any(|(name, to)| name.as_os_str() == link.as_os_str() && *to == real));
    assert!(files.is_absent(&folder.path().join("none/file")) && !files.is_absent(folder.path()));
}
