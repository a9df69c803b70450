//! Leaves an idle VM with one vCPU behind, in a process of its own, for as long as the machine runs.
//!
//! KVM patches the kernel's code when the first VM appears and when the last one goes (static keys: `preempt_notifier_key`,
//! which is in the scheduler, and `kvm_has_noapic_vcpu`). QEMU's emulation can run code that is half patched on its other CPU,
//! and the kernel then dies of an int3 in `__schedule`: so the kernel of an emulated machine is patched once, before any program
//! runs, and not by each that enters Dune mode. Ends when the VM is there.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};

/// What the process that stays says when it has its VM.
const HELD: &str = "held";

fn main() -> ExitCode {
    let stays = std::env::args().nth(1).is_some_and(|word| word == "--stay");
    match if stays { stay() } else { leave_behind() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hold-kvm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the process that stays, and waits for its word.
fn leave_behind() -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    let mut child = command.arg("--stay").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut word = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut word)?;
    if word.trim_end() == HELD {
        Ok(())
    } else {
        Err(io::Error::other("the VM could not be made: see above"))
    }
}

/// Makes the VM and stays with it, whatever programs do.
fn stay() -> io::Result<()> {
    let _vm = vm()?;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: to ignore a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // Where memory is made scarce on purpose.
    std::fs::write("/proc/self/oom_score_adj", "-1000")?;
    println!("{HELD}");
    io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

/// A VM and its vCPU.
fn vm() -> io::Result<[OwnedFd; 2]> {
    const KVM_CREATE_VM: libc::c_ulong = 0xae01;
    const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;
    let device = std::fs::File::open("/dev/kvm")?;
    // SAFETY: takes a number and makes a descriptor.
    let machine = own(unsafe { libc::ioctl(device.as_raw_fd(), KVM_CREATE_VM, 0) })?;
    // SAFETY: as above.
    let vcpu = own(unsafe { libc::ioctl(machine.as_raw_fd(), KVM_CREATE_VCPU, 0) })?;
    Ok([machine, vcpu])
}

/// Takes charge of the descriptor that a system call has just made.
fn own(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
