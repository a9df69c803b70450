//! KVM's requests, made raw.
//!
//! They are made where libc is out of bounds: in a new thread and in the child of a fork, on the host loop's stack, and
//! where the FS base, through which libc finds `errno`, belongs to another C library than this code's (`dune enter`).
//!
//! A request's number holds the size of its structure (Linux include/uapi/asm-generic/ioctl.h), which is taken from
//! `kvm-bindings` here and compared with the numbers of `<linux/kvm.h>` at compile time.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use std::os::fd::RawFd;

use kvm_bindings::{
    kvm_device_attr, kvm_interrupt, kvm_regs, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use linux_raw_sys::errno::EINTR;
use linux_raw_sys::general::{__NR_ioctl, AT_FDCWD, O_RDWR};

use super::KvmMachine;
use super::cpuid::CpuidList;
use super::registers::MsrList;
use crate::engine::Machine;
use crate::engine::error::EngineError;
use crate::linux::descriptor::Descriptor;
use crate::linux::sys::{self, Errno};

/// KVMIO of `<linux/kvm.h>`.
const KVM: u64 = 0xae << 8;
// Directions, as the program sees them.
const WRITE: u64 = 1 << 30;
const READ: u64 = 2 << 30;

/// A request whose argument is a number, or nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    name: &'static str,
    number: u64,
}

/// A request that fills in a `T`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Get<T> {
    call: Call,
    answer: PhantomData<fn() -> T>,
}

/// A request that reads a `T`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Set<T> {
    call: Call,
    argument: PhantomData<fn(T)>,
}

/// A request that reads a `T` with an address in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point<T> {
    call: Call,
    argument: PhantomData<fn(T)>,
}

/// A request that reads how long a list is and fills it in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill<T> {
    call: Call,
    list: PhantomData<fn(T)>,
}

/// Of the device.
pub(super) const GET_API_VERSION: Call = call("KVM_GET_API_VERSION", 0x00);
pub(super) const CREATE_VM: Call = call("KVM_CREATE_VM", 0x01);
pub(super) const CHECK_EXTENSION: Call = call("KVM_CHECK_EXTENSION", 0x03);
pub(super) const GET_VCPU_MMAP_SIZE: Call = call("KVM_GET_VCPU_MMAP_SIZE", 0x04);
pub(super) const GET_SUPPORTED_CPUID: Fill<CpuidList> = fill("KVM_GET_SUPPORTED_CPUID", 0x05);
/// Of a machine.
pub(super) const CREATE_VCPU: Call = call("KVM_CREATE_VCPU", 0x41);
pub(super) const SET_USER_MEMORY_REGION: Point<kvm_userspace_memory_region> =
    point("KVM_SET_USER_MEMORY_REGION", 0x46);
/// Of a vCPU.
pub(super) const RUN: Call = call("KVM_RUN", 0x80);
pub(super) const GET_REGS: Get<kvm_regs> = get("KVM_GET_REGS", 0x81);
pub(super) const SET_REGS: Set<kvm_regs> = set("KVM_SET_REGS", 0x82);
pub(super) const GET_SREGS: Get<kvm_sregs> = get("KVM_GET_SREGS", 0x83);
pub(super) const SET_SREGS: Set<kvm_sregs> = set("KVM_SET_SREGS", 0x84);
pub(super) const INTERRUPT: Set<kvm_interrupt> = set("KVM_INTERRUPT", 0x86);
pub(super) const GET_MSRS: Fill<MsrList> = fill("KVM_GET_MSRS", 0x88);
pub(super) const SET_MSRS: Set<MsrList> = set_list("KVM_SET_MSRS", 0x89);
pub(super) const SET_CPUID2: Set<CpuidList> = set_list("KVM_SET_CPUID2", 0x90);
pub(super) const GET_VCPU_EVENTS: Get<kvm_vcpu_events> = get("KVM_GET_VCPU_EVENTS", 0x9f);
pub(super) const SET_VCPU_EVENTS: Set<kvm_vcpu_events> = set("KVM_SET_VCPU_EVENTS", 0xa0);
pub(super) const GET_XSAVE: Get<kvm_xsave> = get("KVM_GET_XSAVE", 0xa4);
pub(super) const SET_XSAVE: Set<kvm_xsave> = set("KVM_SET_XSAVE", 0xa5);
pub(super) const GET_XCRS: Get<kvm_xcrs> = get("KVM_GET_XCRS", 0xa6);
pub(super) const SET_XCRS: Set<kvm_xcrs> = set("KVM_SET_XCRS", 0xa7);
pub(super) const GET_STATS_FD: Call = call("KVM_GET_STATS_FD", 0xce);
pub(super) const SET_DEVICE_ATTR: Point<kvm_device_attr> = point("KVM_SET_DEVICE_ATTR", 0xe1);

// As the C macros give them on x86-64.
const _: () = {
    assert!(CREATE_VM.number == 0xae01 && RUN.number == 0xae80);
    assert!(GET_SUPPORTED_CPUID.call.number == 0xc008_ae05);
    assert!(SET_USER_MEMORY_REGION.call.number == 0x4020_ae46);
    assert!(GET_REGS.call.number == 0x8090_ae81 && SET_REGS.call.number == 0x4090_ae82);
    assert!(GET_SREGS.call.number == 0x8138_ae83 && SET_SREGS.call.number == 0x4138_ae84);
    assert!(INTERRUPT.call.number == 0x4004_ae86);
    assert!(GET_MSRS.call.number == 0xc008_ae88 && SET_MSRS.call.number == 0x4008_ae89);
    assert!(SET_CPUID2.call.number == 0x4008_ae90);
    assert!(GET_VCPU_EVENTS.call.number == 0x8040_ae9f && SET_VCPU_EVENTS.call.number == 0x4040_aea0);
    assert!(GET_XSAVE.call.number == 0x9000_aea4 && SET_XSAVE.call.number == 0x5000_aea5);
    assert!(GET_XCRS.call.number == 0x8188_aea6 && SET_XCRS.call.number == 0x4188_aea7);
    assert!(SET_DEVICE_ATTR.call.number == 0x4018_aee1);
};

/// What the number of a request with a list tells: the size of the two words before it.
const LIST_HEADER: u64 = 8;

const fn call(name: &'static str, number: u64) -> Call {
    Call { name, number: KVM | number }
}

const fn get<T>(name: &'static str, number: u64) -> Get<T> {
    Get { call: call(name, READ | (size_of::<T>() as u64) << 16 | number), answer: PhantomData }
}

const fn set<T>(name: &'static str, number: u64) -> Set<T> {
    Set { call: call(name, WRITE | (size_of::<T>() as u64) << 16 | number), argument: PhantomData }
}

const fn point<T>(name: &'static str, number: u64) -> Point<T> {
    Point { call: call(name, WRITE | (size_of::<T>() as u64) << 16 | number), argument: PhantomData }
}

const fn set_list<T>(name: &'static str, number: u64) -> Set<T> {
    Set { call: call(name, WRITE | LIST_HEADER << 16 | number), argument: PhantomData }
}

const fn fill<T>(name: &'static str, number: u64) -> Fill<T> {
    Fill { call: call(name, READ | WRITE | LIST_HEADER << 16 | number), list: PhantomData }
}

impl Call {
    /// The number of the request, for the hot path.
    pub(super) const fn number(self) -> u64 {
        self.number
    }

    /// Makes the request with the number `argument`.
    pub(super) fn with(self, fd: &Descriptor, argument: u64) -> Result<u64, EngineError> {
        // SAFETY: requests of this type take no pointer.
        unsafe { self.issue(fd, argument) }
    }

    /// Makes the request, which gives a new descriptor.
    ///
    /// Making a machine or a vCPU ends with EINTR when a signal comes at the wrong time, and is tried again.
    pub(super) fn make(self, fd: &Descriptor, argument: u64) -> Result<Descriptor, EngineError> {
        /// Each try takes as long as a signal handler at least: no timer makes so many fail.
        const TRIES: u32 = 1000;
        // SAFETY: the request has made the descriptor, for its caller.
        let own = |fd| unsafe { Descriptor::new(fd as RawFd) };
        for _ in 1..TRIES {
            match self.with(fd, argument) {
                Err(EngineError { errno, .. }) if errno == INTERRUPTED => (),
                made => return made.map(own),
            }
        }
        self.with(fd, argument).map(own)
    }

    /// # Safety
    ///
    /// `argument` is what the request takes.
    unsafe fn issue(self, fd: &Descriptor, argument: u64) -> Result<u64, EngineError> {
        // SAFETY: the caller's.
        unsafe { sys::call(__NR_ioctl, [fd.argument(), self.number, argument, 0, 0, 0]) }
            .map_err(|errno| EngineError { operation: self.name, errno })
    }
}

const INTERRUPTED: Errno = Errno::from_raw(EINTR);

impl<T> Get<T> {
    /// Makes the request.
    pub(super) fn from(self, fd: &Descriptor) -> Result<T, EngineError> {
        let mut answer = MaybeUninit::<T>::zeroed();
        // SAFETY: 1. KVM writes to a `T`, whose size the number tells; 2. the types in this file are structures of
        // integers: any bytes make one.
        unsafe {
            self.call.issue(fd, answer.as_mut_ptr() as u64)?;
            Ok(answer.assume_init())
        }
    }
}

impl<T> Set<T> {
    /// Makes the request; its result is Linux's.
    pub(super) fn with(self, fd: &Descriptor, argument: &T) -> Result<u64, EngineError> {
        // SAFETY: KVM reads a `T`, whose size the number tells, or which tells its length itself (private fields see to that); those with
        // addresses in them are `Point`.
        unsafe { self.call.issue(fd, core::ptr::from_ref(argument) as u64) }
    }

    /// KVM has taken the first entries of the list only.
    pub(super) fn refused(self, errno: Errno) -> EngineError {
        EngineError { operation: self.call.name, errno }
    }
}

impl<T> Point<T> {
    /// Makes the request; its result is Linux's.
    ///
    /// # Safety
    ///
    /// What the request does with the memory at the address in `argument`, it may do.
    pub(super) unsafe fn with(self, fd: &Descriptor, argument: &T) -> Result<u64, EngineError> {
        // SAFETY: KVM reads a `T`, whose size the number tells; the rest is the caller's.
        unsafe { self.call.issue(fd, core::ptr::from_ref(argument) as u64) }
    }
}

impl<T> Fill<T> {
    /// Makes the request; its result is Linux's.
    pub(super) fn of(self, fd: &Descriptor, list: &mut T) -> Result<u64, EngineError> {
        // SAFETY: KVM writes no more entries than the list says that it has room for (private fields see to that), and
        // any bytes make an entry.
        unsafe { self.call.issue(fd, core::ptr::from_mut(list) as u64) }
    }

    /// As [`Set::refused`].
    pub(super) fn refused(self, errno: Errno) -> EngineError {
        EngineError { operation: self.call.name, errno }
    }
}

/// Opens `/dev/kvm`, to be closed on exec.
pub(super) fn open_device() -> Result<Descriptor, EngineError> {
    Descriptor::open(AT_FDCWD, KvmMachine::DEVICE, O_RDWR)
        .map_err(|errno| EngineError { operation: "open /dev/kvm", errno })
}
