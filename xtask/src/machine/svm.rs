//! `svm`: QEMU translates the guest's code; its `max` processor with SVM and nested paging.

use super::emulated::{Parts, Started};
use crate::error::Result;
use crate::packages;
use crate::process::Running;

/// What its kernel must be told.
pub const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1";

/// Starts the emulator.
pub fn start(parts: &Parts<'_>) -> Result<Started> {
    let qemu = packages::qemu()?;
    let mut command = qemu.command();
    let tree = &qemu.tree;
    // Where an installed QEMU looks anyway; a fetched one is told.
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(tree.join(folder));
    }
    command
        .env("QEMU_MODULE_DIR", tree.join("usr/lib/x86_64-linux-gnu/qemu"))
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        // The CPUs take turns in one thread. With a thread each, under nested SVM, the machine's own kernel panics at times
        // ("corrupted stack end detected inside scheduler"), and threads in Dune mode on both CPUs end by triple faults:
        // ring 0 finds page tables empty that the process has filled. QEMU 7.2 and 10.0.2 do that; nothing in a virtual
        // machine can do it to its host's kernel.
        .args(["-accel", "tcg,thread=single", "-cpu", "max,+svm"])
        .args(["-smp", &parts.processors.to_string(), "-m", &format!("{}M", parts.memory)])
        .arg("-serial")
        .arg(format!("file:{}", parts.console.display()))
        .arg("-kernel")
        .arg(parts.kernel)
        .arg("-initrd")
        .arg(parts.initramfs)
        .args(["-append", parts.kernel_arguments]);
    if let Some(disk) = parts.disk {
        // Commas separate options; two stand for one.
        let file = disk.display().to_string().replace(',', ",,");
        command
            .arg("-drive")
            .arg(format!("file={file},format=raw,if=none,id=disk,snapshot=on"))
            .args(["-device", "virtio-blk-pci,drive=disk"]);
    }
    command.stdout(parts.log()?).stderr(parts.log()?);
    Ok(Started::new(Running::start(&mut command)?))
}
