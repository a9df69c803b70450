//! What a machine finds in its root file system.

use crate::artifacts::{self, Artifact};
use crate::error::{Error, Result};
use crate::initramfs::Root;
use crate::machine::Machine;
use crate::packages::{self, Kernel};
use crate::process::{self, find_program, mortal_command};
use crate::quote::shell_command;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Libraries of glibc and GCC that programs open without naming them, or that an overlay's programs may need.
const LIBRARIES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libutil.so.1",
    "libnss_files.so.2",
];

/// What the command finds in its environment.
const PATH: &str = "/dune/bin:/dune/examples:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What goes into an image.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The machine it is for.
    pub machine: Machine,
    /// The kernel whose modules are loaded.
    pub kernel: &'a Kernel,
    /// Programs for its PATH.
    pub artifacts: &'a [Artifact],
    /// More files, by their path inside.
    pub files: &'a [(String, PathBuf)],
    /// A directory to lay over the root.
    pub overlay: Option<&'a Path>,
    /// Whether the machine has a disk, which needs a module too.
    pub disk: bool,
    /// The command to run.
    pub command: &'a [OsString],
}

/// Gathers the root file system; `scratch` is a folder for files on the way.
pub fn root(contents: &Contents<'_>, scratch: &Path) -> Result<Root> {
    let mut root = Root::new();
    let busybox = packages::busybox()?;
    add_busybox(&mut root, &busybox)?;
    add_programs(&mut root, contents.artifacts, scratch)?;
    add_modules(&mut root, contents, &busybox)?;
    root.file(
        "/etc/passwd",
        false,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n".into(),
    );
    root.file("/etc/group", false, b"root:x:0:\nnogroup:x:65534:\n".into());
    root.file("/etc/hosts", false, b"127.0.0.1 localhost\n".into());
    for (inside, file) in contents.files {
        root.file(inside, false, read(file)?);
    }
    if let Some(overlay) = contents.overlay {
        root.overlay(overlay)?;
    }
    root.file("/dune/init", true, include_bytes!("machine/init.sh").into());
    root.file("/dune/environment", false, environment(contents.machine).into());
    root.file("/dune/command", false, script(contents.command));
    Ok(root)
}

/// The shell's settings for init and the command.
fn environment(machine: Machine) -> String {
    use std::io::IsTerminal;
    let looks = match std::env::var("TERM") {
        Ok(term) if std::io::stdout().is_terminal() && !term.contains('\'') => {
            format!("export TERM='{term}'")
        }
        _ => "export TERM=dumb NO_COLOR=1".to_owned(),
    };
    let name = machine.name();
    format!(
        "export PATH={PATH} HOME=/root USER=root LANG=C.UTF-8 RUST_BACKTRACE=1 DUNE_MACHINE={name}\n{looks}\n"
    )
}

/// The script that becomes the command.
fn script(command: &[OsString]) -> Vec<u8> {
    [b"exec ", shell_command(command).as_bytes(), b"\n"].concat()
}

/// Adds busybox under all its names, out of an overlay's reach.
fn add_busybox(root: &mut Root, busybox: &Path) -> Result<()> {
    root.file("/dune/busybox", true, read(busybox)?);
    for name in process::run(mortal_command(busybox).arg("--list"))?.split_whitespace() {
        root.symlink(&format!("/bin/{name}"), "/dune/busybox");
    }
    root.symlink("/bin/busybox", "/dune/busybox");
    Ok(())
}

/// Adds the workspace's programs and the libraries they need.
fn add_programs(root: &mut Root, artifacts: &[Artifact], scratch: &Path) -> Result<()> {
    root.directory("/dune/bin");
    root.directory("/dune/examples");
    for artifact in artifacts {
        let folder = if artifact.example { "examples" } else { "bin" };
        root.file(&format!("/dune/{folder}/{}", artifact.name), true, stripped(&artifact.path, scratch)?);
    }
    // xtask itself is linked to the C library: that tells where it and its neighbours are.
    let xtask = std::env::current_exe().map_err(Error::file("find", "xtask"))?;
    let programs = artifacts.iter().map(|artifact| &artifact.path).chain([&xtask]);
    let mut libraries = artifacts::shared_libraries(programs)?;
    let folder = libraries.iter().find(|path| path.ends_with("libc.so.6")).and_then(|path| path.parent());
    if let Some(folder) = folder.map(Path::to_owned) {
        libraries.extend(LIBRARIES.iter().map(|name| folder.join(name)).filter(|path| path.exists()));
    }
    for library in libraries {
        root.file(&library.to_string_lossy(), true, read(&library)?);
    }
    for library in packages::decoders()? {
        let name = library.file_name().expect("a library's").to_string_lossy();
        root.file(&format!("/usr/lib/x86_64-linux-gnu/{name}"), false, read(&library)?);
    }
    Ok(())
}

/// A program without its debug information, but with its symbols; as it is where there are no binutils.
fn stripped(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    if find_program("strip").is_none() {
        return read(program);
    }
    let small = scratch.join("stripped");
    process::run(mortal_command("strip").arg("--strip-debug").arg("-o").arg(&small).arg(program))?;
    read(&small)
}

/// The module for the disks that svm has.
const DISK_MODULE: &str = "virtio-blk";

/// The module for a swap device in memory, and what it needs where depmod has made no list.
const SWAP_MODULES: [&str; 4] = ["lz4-compress", "lz4hc-compress", "zsmalloc", "zram"];

/// How zram compresses where it is not told otherwise: before Linux 6.12 by the kernel's crypto interface, whose modules come by
/// name when they are used, and so stand in no list of dependencies.
const COMPRESSION_MODULE: &str = "lzo-rle";

/// Adds KVM's modules, and the disk's if there is one, which init loads; in a folder beside them those for a swap device, which
/// tests load that want one. All are named in the order in which they are to be loaded.
fn add_modules(root: &mut Root, contents: &Contents<'_>, busybox: &Path) -> Result<()> {
    let directory = &contents.kernel.modules;
    let builtin = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
    let dependencies = fs::read_to_string(directory.join("modules.dep")).unwrap_or_default();
    let files = module_files(directory)?;
    let is_builtin =
        |name: &str| builtin.lines().any(|line| module_name(Path::new(line)).as_deref() == Some(name));
    let mut add = |folder: &str, names: Vec<String>| {
        root.directory(folder);
        for (number, name) in names.into_iter().enumerate() {
            match files.iter().find(|file| module_name(file).as_deref() == Some(&name)) {
                Some(file) => {
                    let mut module = module(file, busybox)?;
                    if contents.machine == Machine::Vtx {
                        module.truncate(unsigned_length(&module));
                    }
                    root.file(&format!("{folder}/{number}-{name}.ko"), false, module);
                }
                None if is_builtin(&name) => {}
                None => return Err(Error::NoModule { module: name, directory: directory.clone() }),
            }
        }
        Ok(())
    };
    let last = contents.machine.kvm_module();
    let mut names = load_order(&dependencies, last, &["irqbypass", "kvm", last]);
    if contents.disk {
        names.push(DISK_MODULE.to_owned());
    }
    add("/dune/modules", names)?;
    // What is built in is left out, as is what this kernel's zram does without; a kernel without zram runs all other tests.
    let mut names = load_order(&dependencies, "zram", &SWAP_MODULES);
    names.insert(0, COMPRESSION_MODULE.to_owned());
    names.retain(|name| files.iter().any(|file| module_name(file).as_ref() == Some(name)));
    add("/dune/modules/swap", names)
}

/// `last` and the modules it depends on, in the order of loading: by depmod's list if there is one, else `usual`.
fn load_order(dependencies: &str, last: &str, usual: &[&str]) -> Vec<String> {
    let line = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(file, _)| module_name(Path::new(file)).as_deref() == Some(last));
    match line {
        Some((file, needs)) => needs
            .split_whitespace()
            .rev()
            .chain([file])
            .filter_map(|file| module_name(Path::new(file)))
            .collect(),
        None => usual.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// The module in a file `kvm-intel.ko.xz`.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.split_once(".ko")?.0.replace('_', "-"))
}

/// All module files below `directory`.
fn module_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(&folder).map_err(Error::file("list", &folder))?.flatten() {
            match file.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(file.path()),
                _ => files.push(file.path()),
            }
        }
    }
    Ok(files)
}

/// A module, unpacked.
fn module(file: &Path, busybox: &Path) -> Result<Vec<u8>> {
    let packed = read(file)?;
    let mut bytes = Vec::new();
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("zst") => bytes = zstd::decode_all(packed.as_slice()).map_err(Error::file("unpack", file))?,
        Some("gz") => {
            flate2::read::GzDecoder::new(packed.as_slice())
                .read_to_end(&mut bytes)
                .map_err(Error::file("unpack", file))?;
        }
        Some("xz") => {
            // busybox is there anyway, and knows the format.
            let output = mortal_command(busybox)
                .arg("xzcat")
                .arg(file)
                .output()
                .map_err(|source| Error::Spawn { program: "busybox xzcat".to_owned(), source })?;
            bytes = output.stdout;
        }
        _ => bytes = packed,
    }
    if bytes.starts_with(b"\x7fELF") {
        Ok(bytes)
    } else {
        Err(Error::file("unpack", file)(std::io::Error::other("it holds no kernel module")))
    }
}

/// How long a module is without the signature at its end: to check KVM's takes vtx eleven seconds. What is appended is the
/// signature, 12 bytes of which the last four are its length, and a line (Documentation/admin-guide/module-signing.rst and
/// include/linux/module_signature.h).
fn unsigned_length(module: &[u8]) -> usize {
    const LINE: &[u8] = b"~Module signature appended~\n";
    const DESCRIPTION: usize = 12;
    let unsigned = || {
        let (rest, length) = module.strip_suffix(LINE)?.split_last_chunk()?;
        let signature = usize::try_from(u32::from_be_bytes(*length)).ok()? + DESCRIPTION - length.len();
        rest.len().checked_sub(signature)
    };
    unsigned().unwrap_or(module.len())
}

/// A file's bytes.
fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::file("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let usual = ["irqbypass", "kvm", "kvm-amd"];
        assert_eq!(load_order("", "kvm-amd", &usual), usual);
        let dep = "kernel/arch/x86/kvm/kvm.ko.zst: kernel/virt/lib/irqbypass.ko.zst\n\
            kernel/arch/x86/kvm/kvm-amd.ko.zst: kernel/drivers/crypto/ccp/ccp.ko.zst kernel/arch/x86/kvm/kvm.ko.zst kernel/virt/lib/irqbypass.ko.zst\n";
        assert_eq!(load_order(dep, "kvm-amd", &[]), ["irqbypass", "kvm", "ccp", "kvm-amd"]);
    }

    #[test]
    fn a_modules_name_is_free_of_its_packing() {
        assert_eq!(module_name(Path::new("a/kvm_intel.ko.xz")).as_deref(), Some("kvm-intel"));
        assert_eq!(module_name(Path::new("modules.dep")), None);
    }

    #[test]
    fn signatures_are_left_out() {
        let appended = |length: u32| {
            let description = [&[0; 8], length.to_be_bytes().as_slice()].concat();
            [b"module".as_slice(), b"signed", &description, b"~Module signature appended~\n"].concat()
        };
        assert_eq!(unsigned_length(&appended(6)), b"module".len());
        assert_eq!(unsigned_length(&appended(7)), b"modul".len());
        let too_long = appended(13);
        assert_eq!(unsigned_length(&too_long), too_long.len(), "no signature is longer than its file");
        assert_eq!(unsigned_length(b"module"), b"module".len());
    }

    #[test]
    fn the_command_keeps_its_words() {
        assert_eq!(
            script(&["sh".into(), "-c".into(), "a 'b'".into()]),
            br"exec 'sh' '-c' 'a '\''b'\'''
"
            .as_slice()
        );
    }
}
