//! `svm`: QEMU translates the guest's code; its `max` processor with SVM and nested paging.

use super::emulated::{Parts, Started};
use crate::error::Result;
use crate::packages;
use crate::process::Running;

/// What its kernel must be told: among others, to leave CPU 0 alone.
///
/// Under TCG no program may run there. Whichever CPU restores x87 state without a pending exception (XRSTOR, FXRSTOR), as
/// Linux does at most switches of tasks, clears a flag of QEMU's for CPU 0, and with that, as the two run in threads of
/// their own, at times undoes what CPU 0 has just done to its other flags (`cpu_clear_ignne` in
/// target/i386/tcg/sysemu/fpu_helper.c of QEMU 7.2, and of 9). If that is VMRUN's flag for nested paging, Dune mode goes on
/// with guest-physical addresses taken for physical ones: it ends by a triple fault, or writes accessed bits into whatever
/// page of the machine's own kernel stands there.
///
/// Nor may its kernel patch its own code while programs run, as QEMU can run what is half patched: `init.sh` starts `hold-kvm`.
pub const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 isolcpus=0";

/// CPU 0, which the kernel has and programs have not.
const IDLE_PROCESSORS: u32 = 1;

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
        .args(["-accel", "tcg,thread=multi", "-cpu", "max,+svm"])
        .args(["-smp", &(parts.processors + IDLE_PROCESSORS).to_string()])
        .args(["-m", &format!("{}M", parts.memory)])
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
