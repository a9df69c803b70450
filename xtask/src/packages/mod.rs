//! What the machines need and this computer lacks: emulators, a kernel, busybox. Debian's packages, fetched and
//! unpacked below `target/machines` without root's rights, once.

mod apt;

use crate::error::{Error, Result};
use crate::process::{self, find_program};
use crate::progress::Step;
use crate::workspace;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The file of a tree that names the packages wanted and, after an empty line, those that were unpacked.
const STAMP: &str = ".packages";

/// A folder of unpacked packages.
#[derive(Debug)]
struct Set<'a> {
    name: &'a str,
    /// The packages wanted; of several names for one thing, separated by `|`, the first that exists. `$python3` stands
    /// for the release's Python, for example `python3.11`, and a name with a `*` for the newest of its kind.
    packages: &'a [&'a str],
    /// What to fetch with them.
    needs: Needs,
    /// Where to look for them.
    archive: Archive,
    /// What else would do, for a computer without apt.
    remedy: &'a str,
}

/// Which parts of Debian's archive are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archive {
    /// This computer's release: its programs and libraries fit together.
    Release,
    /// All releases that still have kernels, with their backports: a kernel needs nothing of its release.
    Kernels,
}

/// Which of the packages that a set's packages depend on are fetched too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// None.
    Nothing,
    /// The shared libraries, for a program that runs on this computer.
    Libraries,
    /// All, the C library included, for a root file system.
    Everything,
}

const QEMU: Set<'static> = Set {
    name: "qemu",
    packages: &["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"],
    needs: Needs::Libraries,
    archive: Archive::Release,
    remedy: "install qemu-system-x86_64",
};

const BOCHS: Set<'static> = Set {
    name: "bochs",
    packages: &["bochs", "bochs-term", "bochsbios", "vgabios"],
    needs: Needs::Libraries,
    archive: Archive::Release,
    remedy: "install Bochs (bochs-bin or bochs, with its BIOS and the term display library)",
};

const XORRISO: Set<'static> = Set {
    name: "xorriso",
    packages: &["xorriso"],
    needs: Needs::Libraries,
    archive: Archive::Release,
    remedy: "install xorriso",
};

const ISOLINUX: Set<'static> = Set {
    name: "isolinux",
    packages: &["isolinux", "syslinux-common"],
    needs: Needs::Nothing,
    archive: Archive::Release,
    remedy: "install isolinux (isolinux.bin and ldlinux.c32)",
};

const BUSYBOX: Set<'static> = Set {
    name: "busybox",
    packages: &["busybox-static"],
    needs: Needs::Nothing,
    archive: Archive::Release,
    remedy: "install a static busybox",
};

/// Libraries of C that tests load into compartments.
const DECODERS: Set<'static> = Set {
    name: "decoders",
    packages: &["libpng16-16t64|libpng16-16", "zlib1g"],
    needs: Needs::Nothing,
    archive: Archive::Release,
    remedy: "install libpng16 and zlib",
};

/// The version of [`KERNEL`].
pub const DEFAULT_KERNEL: &str = "6.12";

const KERNEL: Set<'static> = Set {
    name: "kernel",
    packages: &["linux-image-6.12-cloud-amd64|linux-image-cloud-amd64"],
    needs: Needs::Nothing,
    archive: Archive::Release,
    remedy: "name a kernel with --kernel VMLINUZ --modules /lib/modules/VERSION",
};

const E2FSPROGS: Set<'static> = Set {
    name: "e2fsprogs",
    packages: &["e2fsprogs"],
    needs: Needs::Libraries,
    archive: Archive::Release,
    remedy: "install e2fsprogs, for mke2fs",
};

/// What `cargo xtask programs` runs.
const PROGRAMS: Set<'static> = Set {
    name: "programs",
    packages: &[
        "apache2-utils",
        "bash",
        "bubblewrap",
        "busybox",
        "coreutils",
        "dash",
        "default-jdk-headless",
        "gcc",
        "git",
        "grep",
        "gzip",
        "libc6-dev",
        "lib$python3-testsuite",
        "lighttpd",
        "make",
        "netbase",
        "nginx",
        "nodejs",
        "openssl",
        "perl",
        "postgresql",
        "procps",
        "python3",
        "redis-server",
        "redis-tools",
        "sed",
        "sqlite3",
        "stress-ng",
        "util-linux",
    ],
    needs: Needs::Everything,
    archive: Archive::Release,
    remedy: "its programs are tested as Debian has them; run `cargo xtask programs` on Debian",
};

/// A program with the place of the tree it was unpacked in; no tree if it is installed.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// The root of its tree.
    pub tree: PathBuf,
    /// Folders of its tree with shared libraries.
    library_path: Vec<PathBuf>,
}

impl Program {
    /// A command that runs it with its own libraries and ends when xtask does.
    pub fn command(&self) -> std::process::Command {
        if self.library_path.is_empty() {
            return process::mortal_command(&self.path);
        }
        let folders = std::env::join_paths(&self.library_path).expect("no colon in our own folder names");
        let mut variable = std::ffi::OsString::from("LD_LIBRARY_PATH=");
        variable.push(folders);
        // Through env, so that setpriv runs with the system's own libraries.
        let mut command = process::mortal_command("env");
        command.arg(variable).arg(&self.path);
        command
    }

    fn installed(names: &[&str]) -> Option<Self> {
        let path = names.iter().find_map(|name| find_program(name))?;
        Some(Self { path, tree: PathBuf::from("/"), library_path: Vec::new() })
    }

    fn fetched(set: &Set<'_>, inside: &str) -> Result<Self> {
        let tree = fetch(set)?;
        let path = tree.join(inside);
        Ok(Self { path, library_path: library_folders(&tree), tree })
    }
}

/// QEMU with TCG for x86-64.
pub fn qemu() -> Result<Program> {
    match Program::installed(&["qemu-system-x86_64"]) {
        Some(program) => Ok(program),
        None => Program::fetched(&QEMU, "usr/bin/qemu-system-x86_64"),
    }
}

/// Bochs, with its BIOS and its `term` display below the same tree.
pub fn bochs() -> Result<Program> {
    let complete = |tree: &Path| {
        tree.join("usr/share/bochs/BIOS-bochs-latest").exists()
            && tree.join("usr/share/bochs/VGABIOS-lgpl-latest").exists()
            && bochs_plugins(tree).is_some()
    };
    match Program::installed(&["bochs-bin"]).filter(|program| complete(&program.tree)) {
        Some(program) => Ok(program),
        None => Program::fetched(&BOCHS, "usr/bin/bochs-bin"),
    }
}

/// The folder of Bochs' plugins, with the `term` display, below `tree`.
pub fn bochs_plugins(tree: &Path) -> Option<PathBuf> {
    ["usr/lib/x86_64-linux-gnu/bochs/plugins", "usr/lib/bochs/plugins"]
        .map(|folder| tree.join(folder))
        .into_iter()
        .find(|folder| folder.join("libbx_term_gui.so").exists())
}

/// The maker of boot images.
pub fn xorriso() -> Result<Program> {
    match Program::installed(&["xorriso"]) {
        Some(program) => Ok(program),
        None => Program::fetched(&XORRISO, "usr/bin/xorriso"),
    }
}

/// The maker of ext4 images.
pub fn mke2fs() -> Result<Program> {
    match Program::installed(&["mke2fs"]) {
        Some(program) => Ok(program),
        None => {
            let tree = fetch(&E2FSPROGS)?;
            let inside = ["sbin/mke2fs", "usr/sbin/mke2fs"].into_iter().find(|path| tree.join(path).exists());
            Program::fetched(&E2FSPROGS, inside.ok_or_else(|| incomplete(&E2FSPROGS))?)
        }
    }
}

/// The programs that Dune mode is tried on, with all they need, as their packages hold them, and the names and
/// versions of the packages.
pub fn programs() -> Result<(PathBuf, String)> {
    let tree = fetch(&PROGRAMS)?;
    let stamp = tree.join(STAMP);
    let text = fs::read_to_string(&stamp).map_err(Error::file("read", &stamp))?;
    let packages = text.split_once("\n\n").map_or(text.as_str(), |(_, packages)| packages).to_owned();
    Ok((tree, packages))
}

/// The boot loader for a CD: `isolinux.bin` and `ldlinux.c32`.
pub fn isolinux() -> Result<(PathBuf, PathBuf)> {
    let files = |tree: &Path| {
        let loader = tree.join("usr/lib/ISOLINUX/isolinux.bin");
        let module = tree.join("usr/lib/syslinux/modules/bios/ldlinux.c32");
        (loader.exists() && module.exists()).then_some((loader, module))
    };
    installed_or_fetched(&ISOLINUX, files)
}

/// What `files` finds below a root: this computer's, or that of the set's own tree.
fn installed_or_fetched<T>(set: &Set<'_>, files: impl Fn(&Path) -> Option<T>) -> Result<T> {
    match files(Path::new("/")) {
        Some(installed) => Ok(installed),
        None => files(&fetch(set)?).ok_or_else(|| incomplete(set)),
    }
}

/// A busybox that needs no libraries.
pub fn busybox() -> Result<PathBuf> {
    let is_static = |path: &PathBuf| {
        fs::read(path).is_ok_and(|program| !program.windows(12).any(|text| text == b"ld-linux-x86"))
    };
    match find_program("busybox").filter(is_static) {
        Some(program) => Ok(program),
        None => {
            let tree = fetch(&BUSYBOX)?;
            ["bin/busybox", "usr/bin/busybox"]
                .map(|path| tree.join(path))
                .into_iter()
                .find(|path| path.exists())
                .ok_or_else(|| incomplete(&BUSYBOX))
        }
    }
}

/// libpng and zlib, which no program here names.
pub fn decoders() -> Result<Vec<PathBuf>> {
    let names = ["libpng16.so.16", "libz.so.1"];
    let files = |tree: &Path| {
        let folders = library_folders(tree);
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
        names.iter().map(|name| find(name)).collect::<Option<Vec<PathBuf>>>()
    };
    installed_or_fetched(&DECODERS, files)
}

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The compressed kernel.
    pub image: PathBuf,
    /// Its folder below /lib/modules.
    pub modules: PathBuf,
}

/// Debian's kernel for virtual machines.
pub fn kernel() -> Result<Kernel> {
    kernel_of(&KERNEL)
}

/// Debian's newest kernel of a version, for example `6.1`.
pub fn kernel_version(version: &str) -> Result<Kernel> {
    if version == DEFAULT_KERNEL {
        return kernel();
    }
    let name = format!("kernel-{version}");
    // A meta package where there is one; else by the names that Debian gives: 6.1.0-56, 6.12.107+deb12.
    let package = format!(
        "linux-image-{version}-cloud-amd64|linux-image-{version}.*-cloud-amd64|linux-image-{version}+*-cloud-amd64|\
         linux-image-{version}-*-cloud-amd64"
    );
    let remedy = format!("Debian's archive has no kernel {version}; try 6.1 or a later one, as 6.18");
    kernel_of(&Set {
        name: &name,
        packages: &[&package],
        needs: Needs::Nothing,
        archive: Archive::Kernels,
        remedy: &remedy,
    })
}

/// The kernel in a set that has only one.
fn kernel_of(set: &Set<'_>) -> Result<Kernel> {
    let tree = fetch(set)?;
    let only = |folder: PathBuf, prefix: &str| {
        let files = fs::read_dir(&folder).ok()?.flatten();
        files
            .map(|file| file.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
    };
    let image = only(tree.join("boot"), "vmlinuz-");
    let modules = only(tree.join("lib/modules"), "").or_else(|| only(tree.join("usr/lib/modules"), ""));
    match (image, modules) {
        (Some(image), Some(modules)) => Ok(Kernel { image, modules }),
        _ => Err(incomplete(set)),
    }
}

/// The error of a folder that lacks what its packages should hold.
fn incomplete(set: &Set<'_>) -> Error {
    Error::NoPackage {
        wanted: set.packages.join(", "),
        remedy: format!(
            "its unpacked form is not as expected; remove {} and try again, or {}",
            workspace::machines().join(set.name).display(),
            set.remedy
        ),
    }
}

/// Fetches and unpacks `set`, unless that was done before; gives the folder.
///
/// The folder appears under its name only when it is complete, and one xtask at a time works on it: a run that is
/// interrupted leaves a `.partial` folder from which the next one goes on.
fn fetch(set: &Set<'_>) -> Result<PathBuf> {
    let machines = workspace::machines();
    let (tree, stamp) = (machines.join(set.name), machines.join(set.name).join(STAMP));
    let wanted = set.packages.join("\n");
    let done = || fs::read_to_string(&stamp).is_ok_and(|text| text.starts_with(&wanted));
    if done() {
        return Ok(tree);
    }
    fs::create_dir_all(&machines).map_err(Error::file("create", &machines))?;
    let lock_path = machines.join("lock");
    let lock = File::create(&lock_path).map_err(Error::file("create", &lock_path))?;
    if lock.try_lock().is_err() {
        let _step = Step::waiting("waiting for another xtask that fetches packages");
        lock.lock().map_err(Error::file("lock", &lock_path))?;
    }
    if done() {
        return Ok(tree);
    }

    let apt = apt::Apt::new(&machines, set)?;
    let partial = machines.join(format!("{}.partial", set.name));
    let (debs, unpacked) = (partial.join("debs"), partial.join("tree"));
    fs::create_dir_all(&debs).map_err(Error::file("create", &debs))?;
    let packages = match apt.fetch(set, &debs) {
        // The lists may name versions that a newer one has replaced since.
        Err(Error::Failed { .. }) => {
            apt.update()?;
            apt.fetch(set, &debs)?
        }
        packages => packages?,
    };

    let step = Step::measured(&format!("unpacking {}", set.name));
    remove_folder(&unpacked)?;
    let files: Vec<PathBuf> = apt::files_of(&packages, &debs)?;
    for (number, file) in files.iter().enumerate() {
        process::run(process::mortal_command("dpkg-deb").arg("-x").arg(file).arg(&unpacked))?;
        step.percent(100.0 * number as f64 / files.len() as f64);
    }
    let contents = format!("{wanted}\n\n{}\n", packages.join("\n"));
    fs::write(unpacked.join(STAMP), contents).map_err(Error::file("write", &unpacked))?;
    remove_folder(&tree)?;
    fs::rename(&unpacked, &tree).map_err(Error::file("rename", &unpacked))?;
    remove_folder(&partial)?;
    Ok(tree)
}

/// Removes a folder that may not exist.
fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The folders below `tree` that hold shared libraries.
fn library_folders(tree: &Path) -> Vec<PathBuf> {
    let triplet = "x86_64-linux-gnu";
    let mut folders = Vec::new();
    for top in ["usr/lib", "lib"] {
        for folder in [tree.join(top).join(triplet), tree.join(top)] {
            folders.extend(folder.is_dir().then_some(folder));
        }
    }
    folders
}
