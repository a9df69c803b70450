//! Integration tests: each case enters Dune mode in a process of its own.
//!
//! The runner starts itself again with `--case NAME` for each case and checks how that process ended: a case may be
//! expected to die by a signal with a report. The last line is `dune-tests: N passed, N failed, N skipped`, which
//! `cargo xtask test` reads. On a computer without Dune mode every case fails, with the reason.

mod allocator;
mod both;
mod case;
mod cases;
mod cgroup;
mod observe;
mod pace;
mod probe;
mod random;
mod ring3;
mod waits;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, name] = arguments.as_slice()
        && flag == "--case"
    {
        return case::run_here(cases::all(), name);
    }
    let mut options = Arguments::from_args();
    let _held = hold_static_keys();
    // One at a time: a case may measure, and the machines have one or two CPUs.
    options.test_threads = Some(1);
    let trials = cases::all()
        .into_iter()
        .map(|case| Trial::ignorable_test(case.name, move || case.run_in_child()))
        .collect();
    let conclusion = libtest_mimic::run(&options, trials);
    println!(
        "dune-tests: {} passed, {} failed, {} skipped",
        conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
    );
    conclusion.exit_code()
}

/// An idle VM with one vCPU, for as long as the suite runs.
///
/// KVM patches the kernel's code when the first VM appears and when the last one goes (static keys, among them one in
/// the scheduler). QEMU's emulation can run code that is half patched on its other CPU, so the emulated kernel must
/// not be patched twice in each case.
fn hold_static_keys() -> Option<[OwnedFd; 2]> {
    const KVM_CREATE_VM: libc::c_ulong = 0xae01;
    const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;
    let own = |fd: i32| {
        // SAFETY: a descriptor that the kernel has just made, and nobody else's.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let device = std::fs::File::open("/dev/kvm").ok()?;
    // SAFETY: takes a number and makes a descriptor.
    let machine = own(unsafe { libc::ioctl(device.as_raw_fd(), KVM_CREATE_VM, 0) })?;
    // SAFETY: as above.
    let vcpu = own(unsafe { libc::ioctl(machine.as_raw_fd(), KVM_CREATE_VCPU, 0) })?;
    Some([machine, vcpu])
}
