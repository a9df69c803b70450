//! `vtx`: Bochs interprets a Skylake server with VT-x, EPT, VPID and strict checks at VM entry.
//!
//! Bochs boots no kernel by itself, has no exit status, and wants a terminal for its display: hence the CD with a
//! boot loader, the marks on the serial line, and the pseudo-terminal.

use super::emulated::{Parts, Started};
use crate::error::{Error, Result};
use crate::packages;
use crate::process::{self, Running};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs;
use std::io::Read;
use std::path::Path;

/// What its kernel must be told. Delays and time are counted in instructions: nothing is calibrated or watched.
///
/// `tsc_early_khz` is Bochs' `ips` in thousands. CPUID tells Linux another frequency, by which timers fire far too early
/// and are set anew, down to every 600 instructions, in the middle of what is measured.
///
/// `l1tf=off`, all other mitigations being left as they are: against L1TF, KVM empties the first-level cache before it
/// enters a virtual machine. Processors do that with one WRMSR (IA32_FLUSH_CMD), which every microcode since 2018 has
/// and processors since Cascade Lake do not need; Bochs' Skylake has no such register, so KVM would read 64 KiB in a
/// loop of some 5,300 instructions at each entry, more than all the rest of the way.
///
/// `cryptomgr.notests` and `initcall_blacklist`: self-tests of ciphers and of a source of random numbers, the kernel's certificates
/// (its modules come without signatures, see `image.rs`), and what offers kernel functions to BPF programs: a quarter of a minute,
/// and nobody uses them.
pub const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 lpj=1000000 tsc=reliable no_timer_check clocksource=tsc \
     tsc_early_khz=50000 l1tf=off cryptomgr.notests=1 initcall_blacklist=jent_mod_init,load_system_certificate_list,\
     bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init,init_kprobe_trace,trace_eval_init";

/// Starts the emulator.
pub fn start(parts: &Parts<'_>) -> Result<Started> {
    if parts.processors != 1 {
        return Err(Error::TooManyProcessors { machine: "vtx", asked: parts.processors });
    }
    if parts.disk.is_some() {
        return Err(Error::NoDisk { machine: "vtx" });
    }
    let bochs = packages::bochs()?;
    let cd = make_cd(parts)?;
    let settings = write(parts, "bochsrc", &settings(parts, &cd, &bochs.tree))?;
    // Debian's Bochs has a debugger that waits for orders.
    let orders = write(parts, "orders", "continue\n")?;

    let terminal = Terminal::open().map_err(Error::file("open a terminal at", "/dev/ptmx"))?;
    let mut command = bochs.command();
    command
        .env("TERM", "vt100")
        .env("BXSHARE", bochs.tree.join("usr/share/bochs"))
        .env("LTDL_LIBRARY_PATH", packages::bochs_plugins(&bochs.tree).unwrap_or_default())
        .arg("-q")
        .arg("-f")
        .arg(settings)
        .arg("-rc")
        .arg(orders)
        .current_dir(parts.folder)
        .stdin(terminal.side().map_err(Error::file("open", "a terminal"))?)
        .stdout(terminal.side().map_err(Error::file("open", "a terminal"))?)
        .stderr(parts.log()?);
    let running = Running::start_with_input(&mut command)?;
    terminal.swallow();
    Ok(Started::new(running))
}

/// Makes the CD to boot from.
fn make_cd(parts: &Parts<'_>) -> Result<std::path::PathBuf> {
    let (loader, module) = packages::isolinux()?;
    let menu = format!(
        "default dune\nprompt 0\nlabel dune\n  kernel /vmlinuz\n  append initrd=/initrd {}\n",
        parts.kernel_arguments
    );
    let menu = write(parts, "isolinux.cfg", &menu)?;
    let cd = parts.folder.join("boot.iso");
    let mut command = packages::xorriso()?.command();
    command.args(["-as", "mkisofs", "-quiet", "-graft-points", "-o"]).arg(&cd).args([
        "-b",
        "isolinux/isolinux.bin",
        "-c",
        "isolinux/boot.cat",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
    ]);
    for (inside, file) in [
        ("isolinux/isolinux.bin", loader.as_path()),
        ("isolinux/ldlinux.c32", &module),
        ("isolinux/isolinux.cfg", &menu),
        ("vmlinuz", parts.kernel),
        ("initrd", parts.initramfs),
    ] {
        command.arg(format!("{inside}={}", file.display()));
    }
    process::run(&mut command)?;
    Ok(cd)
}

/// Bochs' settings.
fn settings(parts: &Parts<'_>, cd: &Path, tree: &Path) -> String {
    let share = tree.join("usr/share/bochs");
    let (share, cd, console, memory) = (share.display(), cd.display(), parts.console.display(), parts.memory);
    format!(
        "megs: {memory}\n\
         romimage: file={share}/BIOS-bochs-latest\n\
         vgaromimage: file={share}/VGABIOS-lgpl-latest\n\
         cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path={cd}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev={console}\n\
         clock: sync=none\n\
         display_library: term\n\
         speaker: enabled=0\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         log: {log}\n\
         panic: action=fatal\n",
        log = parts.log.display()
    )
}

/// Writes a small file for Bochs.
fn write(parts: &Parts<'_>, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = parts.folder.join(name);
    fs::write(&path, text).map_err(Error::file("write", &path))?;
    Ok(path)
}

/// A pseudo-terminal whose screen nobody looks at.
#[derive(Debug)]
struct Terminal {
    controller: fs::File,
    name: String,
}

impl Terminal {
    fn open() -> std::io::Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let size = rustix::termios::Winsize { ws_row: 25, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&controller, size)?;
        let name = ptsname(&controller, Vec::new())?.to_string_lossy().into_owned();
        Ok(Self { controller: controller.into(), name })
    }

    /// The end that a program gets.
    fn side(&self) -> std::io::Result<fs::File> {
        use std::os::unix::fs::OpenOptionsExt;
        let no_controlling_terminal = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
        fs::File::options().read(true).write(true).custom_flags(no_controlling_terminal).open(&self.name)
    }

    /// Reads what is written to the screen, to no end, until the program is gone.
    fn swallow(mut self) {
        std::thread::spawn(move || {
            let mut screen = [0; 4096];
            while matches!(self.controller.read(&mut screen), Ok(1..)) {}
        });
    }
}
