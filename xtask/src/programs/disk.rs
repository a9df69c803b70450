//! The disk with the programs: Debian's packages in an ext4 image, made without root's rights, once.

use crate::error::{Error, Result};
use crate::packages;
use crate::process::{self, mortal_command};
use crate::progress::Step;
use crate::workspace;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Space for what the programs write, beside the packages.
const FREE_MIB: u64 = 512;

/// Raised when an image is made in another way than before: old ones are then made anew.
const FORMAT: u32 = 1;

/// The image, and the packages in it, each as `name=version` in a line of its own.
#[derive(Debug)]
pub struct Disk {
    /// An ext4 file system.
    pub image: PathBuf,
    /// What it holds.
    pub packages: String,
}

/// Makes the disk, unless that was done before.
pub fn disk() -> Result<Disk> {
    let (tree, packages) = packages::programs()?;
    let machines = workspace::machines();
    let (image, stamp) = (machines.join("programs.ext4"), machines.join("programs.ext4.packages"));
    let contents = format!("format {FORMAT}\n{packages}");
    let lock_path = machines.join("lock");
    let lock = File::create(&lock_path).map_err(Error::file("create", &lock_path))?;
    lock.lock().map_err(Error::file("lock", &lock_path))?;
    if !image.exists() || fs::read_to_string(&stamp).ok().as_deref() != Some(&contents) {
        let _step = Step::waiting("making the programs' disk");
        let partial = machines.join("programs.ext4.partial");
        prepare(&tree)?;
        make_image(&tree, &partial)?;
        fs::rename(&partial, &image).map_err(Error::file("rename", &partial))?;
        fs::write(&stamp, contents).map_err(Error::file("write", &stamp))?;
    }
    Ok(Disk { image, packages })
}

/// Makes a root file system of unpacked packages: what their scripts would do, as far as the programs need it.
fn prepare(tree: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        merge_into_usr(tree, name)?;
    }
    for name in ["dev", "dune", "etc", "proc", "root", "run", "sys", "tmp", "var/lib/redis", "var/log/redis"]
    {
        let path = tree.join(name);
        fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
    }
    let tmp = tree.join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).map_err(Error::file("change", &tmp))?;
    let users = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
    let files = [
        ("etc/passwd", users),
        ("etc/group", "root:x:0:root\nnogroup:x:65534:\n"),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("etc/hostname", "svm\n"),
    ];
    for (name, text) in files {
        let path = tree.join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

/// Moves the folder `name` of the tree into /usr and leaves a link, as Debian's systems have it; its packages of before
/// release 13 have not.
fn merge_into_usr(tree: &Path, name: &str) -> Result<()> {
    let (old, target) = (tree.join(name), format!("usr/{name}"));
    match fs::symlink_metadata(&old) {
        Ok(meta) if meta.is_symlink() => return Ok(()),
        Ok(_) => {
            move_contents(&old, &tree.join(&target))?;
            fs::remove_dir(&old).map_err(Error::file("remove", &old))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound && tree.join(&target).exists() => (),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("look at", &old)(error)),
    }
    symlink(target, &old).map_err(Error::file("link", &old))
}

/// Moves everything in `from` to `to`; what is there already stays.
fn move_contents(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::file("create", to))?;
    for file in fs::read_dir(from).map_err(Error::file("list", from))? {
        let file = file.map_err(Error::file("list", from))?;
        let (old, new) = (file.path(), to.join(file.file_name()));
        let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
        if is_folder(&old) && is_folder(&new) {
            move_contents(&old, &new)?;
            fs::remove_dir(&old).map_err(Error::file("remove", &old))?;
        } else if fs::symlink_metadata(&new).is_ok() {
            // A link of a package that reckons with the merge, for example /bin/which.
            fs::remove_file(&old).map_err(Error::file("remove", &old))?;
        } else {
            fs::rename(&old, &new).map_err(Error::file("move", &old))?;
        }
    }
    Ok(())
}

/// Makes the image from the tree.
fn make_image(tree: &Path, image: &Path) -> Result<()> {
    let used = process::run(mortal_command("du").args(["-s", "--block-size=M"]).arg(tree))?;
    let used: u64 = used.split('M').next().and_then(|number| number.parse().ok()).unwrap_or(1024);
    let _ = fs::remove_file(image);
    let mut command = packages::mke2fs()?.command();
    command
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-E",
            "root_owner=0:0,lazy_itable_init=1",
            "-O",
            "^has_journal",
            "-d",
        ])
        .arg(tree)
        .arg(image)
        .arg(format!("{}M", used * 5 / 4 + FREE_MIB));
    process::run(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_folders_move_into_usr() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path();
        let write = |name: &str, text: &str| {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("lib/x86/libc.so.6", "libc");
        write("usr/lib/x86/libz.so.1", "libz");
        write("bin/sh", "sh");
        write("usr/sbin/tool", "tool");
        prepare(tree).expect("prepared");
        let read = |name: &str| fs::read_to_string(tree.join(name)).expect(name);
        assert_eq!(read("usr/lib/x86/libc.so.6") + &read("lib/x86/libz.so.1"), "libclibz");
        assert_eq!(read("usr/bin/sh") + &read("sbin/tool"), "shtool");
        assert!(!tree.join("libx32").exists());
        // A second time changes nothing.
        prepare(tree).expect("prepared");
        assert_eq!(fs::read_link(tree.join("bin")).expect("a link"), Path::new("usr/bin"));
    }
}
