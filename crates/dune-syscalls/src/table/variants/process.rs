//! `<linux/wait.h>`, `<asm/prctl.h>`, `<asm/ldt.h>`, `<linux/kcmp.h>`, `<linux/ptrace.h>`.

use crate::names::{WAIT, WAIT_FOR};
use crate::structures::*;
use crate::table::forms;
use linux_raw_sys::general as linux;

forms! {
    /// waitid(2)
    WAITID by 0 & 0xffff_ffff >> 0: {
        linux::P_PIDFD => Forwarded P_PIDFD(idtype: Flags(&WAIT_FOR), id: Fd, infop: Out(&SIGINFO, One), options: Flags(&WAIT), rusage: Out(&RUSAGE, One)) -> Number;
    }
    /// arch_prctl(2). What reads a base is a supervisor's, too: the thread has its own.
    ARCH_PRCTL by 0 & 0xffff_ffff >> 0: {
        0x1001 => Supervised ARCH_SET_GS(option: Int, addr: LongHex) -> Number;
        0x1002 => Supervised ARCH_SET_FS(option: Int, addr: LongHex) -> Number;
        0x1003 => Supervised ARCH_GET_FS(option: Int, addr: Out(&LONG, One)) -> Number;
        0x1004 => Supervised ARCH_GET_GS(option: Int, addr: Out(&LONG, One)) -> Number;
        0x1011 => Supervised ARCH_GET_CPUID(option: Int) -> Number;
        0x1012 => Supervised ARCH_SET_CPUID(option: Int, enable: UnsignedLong) -> Number;
        0x1021 => Supervised ARCH_GET_XCOMP_SUPP(option: Int, features: Out(&LONG, One)) -> Number;
        0x1022 => Supervised ARCH_GET_XCOMP_PERM(option: Int, features: Out(&LONG, One)) -> Number;
        0x1023 => Supervised ARCH_REQ_XCOMP_PERM(option: Int, feature: UnsignedLong) -> Number;
        0x4001 => Supervised ARCH_GET_UNTAG_MASK(option: Int, mask: Out(&LONG, One)) -> Number;
        0x4002 => Refused ARCH_ENABLE_TAGGED_ADDR(option: Int, bits: UnsignedLong) -> Number;
        0x4003 => Supervised ARCH_GET_MAX_TAG_BITS(option: Int, bits: Out(&LONG, One)) -> Number;
        0x4004 => Refused ARCH_FORCE_TAGGED_SVA(option: Int) -> Number;
        0x5001 => Refused ARCH_SHSTK_ENABLE(option: Int, features: LongHex) -> Number;
        0x5002 => Refused ARCH_SHSTK_DISABLE(option: Int, features: LongHex) -> Number;
        0x5003 => Refused ARCH_SHSTK_LOCK(option: Int, features: LongHex) -> Number;
        0x5004 => Refused ARCH_SHSTK_UNLOCK(option: Int, features: LongHex) -> Number;
        0x5005 => Refused ARCH_SHSTK_STATUS(option: Int, features: Out(&LONG, One)) -> Number;
    }
    /// modify_ldt(2)
    MODIFY_LDT by 0 & 0xffff_ffff >> 0: {
        0 => Refused read_ldt(func: Int, ptr: Out(&BYTES, Filled(bytecount)), bytecount: Size) -> Count;
        1 => Refused write_ldt_old(func: Int, ptr: In(&USER_DESC, One), bytecount: Size) -> Number;
        2 => Refused read_default_ldt(func: Int, ptr: Out(&BYTES, Filled(bytecount)), bytecount: Size) -> Count;
        17 => Refused write_ldt(func: Int, ptr: In(&USER_DESC, One), bytecount: Size) -> Number;
    }
    /// kcmp(2). The descriptors are those of the processes named.
    KCMP by 2 & 0xffff_ffff >> 0: {
        0 => Refused KCMP_FILE(pid1: Pid, pid2: Pid, r#type: Int, idx1: Fd, idx2: Fd) -> Number;
        7 => Refused KCMP_EPOLL_TFD(pid1: Pid, pid2: Pid, r#type: Int, idx1: Fd, idx2: In(&KCMP_EPOLL_SLOT, One)) -> Number;
    }
    /// ptrace(2)
    PTRACE by 0 & 0xffff_ffff >> 0: {
        0 => Refused PTRACE_TRACEME(request: Long) -> Number;
        1 => Refused PTRACE_PEEKTEXT(request: Long, pid: Pid, addr: Foreign, data: Out(&LONG, One)) -> Number;
        2 => Refused PTRACE_PEEKDATA(request: Long, pid: Pid, addr: Foreign, data: Out(&LONG, One)) -> Number;
        3 => Refused PTRACE_PEEKUSER(request: Long, pid: Pid, addr: LongHex, data: Out(&LONG, One)) -> Number;
        4 => Refused PTRACE_POKETEXT(request: Long, pid: Pid, addr: Foreign, data: LongHex) -> Number;
        5 => Refused PTRACE_POKEDATA(request: Long, pid: Pid, addr: Foreign, data: LongHex) -> Number;
        6 => Refused PTRACE_POKEUSER(request: Long, pid: Pid, addr: LongHex, data: LongHex) -> Number;
        7 => Refused PTRACE_CONT(request: Long, pid: Pid, addr: LongHex, data: Signal) -> Number;
        8 => Refused PTRACE_KILL(request: Long, pid: Pid) -> Number;
        9 => Refused PTRACE_SINGLESTEP(request: Long, pid: Pid, addr: LongHex, data: Signal) -> Number;
        12 => Refused PTRACE_GETREGS(request: Long, pid: Pid, addr: LongHex, data: Out(&USER_REGISTERS, One)) -> Number;
        13 => Refused PTRACE_SETREGS(request: Long, pid: Pid, addr: LongHex, data: In(&USER_REGISTERS, One)) -> Number;
        14 => Refused PTRACE_GETFPREGS(request: Long, pid: Pid, addr: LongHex, data: Out(&USER_FP_REGISTERS, One)) -> Number;
        15 => Refused PTRACE_SETFPREGS(request: Long, pid: Pid, addr: LongHex, data: In(&USER_FP_REGISTERS, One)) -> Number;
        16 => Refused PTRACE_ATTACH(request: Long, pid: Pid) -> Number;
        17 => Refused PTRACE_DETACH(request: Long, pid: Pid, addr: LongHex, data: Signal) -> Number;
        24 => Refused PTRACE_SYSCALL(request: Long, pid: Pid, addr: LongHex, data: Signal) -> Number;
        0x4200 => Refused PTRACE_SETOPTIONS(request: Long, pid: Pid, addr: LongHex, data: LongHex) -> Number;
        0x4201 => Refused PTRACE_GETEVENTMSG(request: Long, pid: Pid, addr: LongHex, data: Out(&LONG, One)) -> Number;
        0x4202 => Refused PTRACE_GETSIGINFO(request: Long, pid: Pid, addr: LongHex, data: Out(&SIGINFO, One)) -> Number;
        0x4203 => Refused PTRACE_SETSIGINFO(request: Long, pid: Pid, addr: LongHex, data: In(&SIGINFO, One)) -> Number;
        0x4204 => Refused PTRACE_GETREGSET(request: Long, pid: Pid, addr: Int, data: InOut(&IOVEC_OUT, One)) -> Number;
        0x4205 => Refused PTRACE_SETREGSET(request: Long, pid: Pid, addr: Int, data: InOut(&IOVEC_IN, One)) -> Number;
        0x4206 => Refused PTRACE_SEIZE(request: Long, pid: Pid, addr: LongHex, data: LongHex) -> Number;
        0x4207 => Refused PTRACE_INTERRUPT(request: Long, pid: Pid) -> Number;
        0x4208 => Refused PTRACE_LISTEN(request: Long, pid: Pid) -> Number;
    }
}
