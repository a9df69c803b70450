//! The registers of ring-3 code, and what brings it back to ring 0.

use core::fmt;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use x86_64::VirtAddr;

use super::cpu;
use super::vector::Vector;

/// Flags that every ring-3 program runs with: IOPL 1, which tells the system-call entry where a SYSCALL came from
/// (see guest/syscall.S), IF, and the bit that is always one. IOPL 1 grants nothing: port access and CLI need
/// CPL ≤ IOPL.
pub(crate) const RING3_ALWAYS: u32 = 1 << 12 | 1 << 9 | 1 << 1;
/// Flags that ring-3 code may choose for itself: CF PF AF ZF SF TF DF OF AC ID.
pub(crate) const RING3_FLAGS: u32 = 0x24_0dd5 | WEAKENED_FLAGS;

/// None, but in the build that attacks have to succeed in: IOPL, with which ring 3 executes CLI, IN and OUT.
const WEAKENED_FLAGS: u32 = if cfg!(feature = "_weakened") { 3 << 12 } else { 0 };

/// By which instruction ring 0 enters ring 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
#[non_exhaustive]
pub enum ReturnBy {
    /// IRET: loads all registers. The default.
    #[default]
    Iret = 0,
    /// SYSRET: faster; RCX and R11 are lost, as after a system call on Linux.
    Sysret = 1,
    /// SYSEXIT: as fast; RCX and RDX are lost. Intel only in 64-bit code (AMD APM vol. 3 SYSEXIT: "not valid in
    /// long mode").
    Sysexit = 2,
}

/// General registers, instruction pointer and flags of ring-3 code.
///
/// After a system call by SYSCALL, RCX and R11 are what they were before, as the ABI gives them up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' names say what they are")]
pub struct UserRegisters {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A system call of ring 3's, by the convention of Linux on x86-64 (syscall(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemCall {
    /// The number: RAX.
    pub number: u64,
    /// RDI, RSI, RDX, R10, R8, R9. After SYSENTER the third is the address that it returns to.
    pub arguments: [u64; 6],
}

/// Why ring-3 code came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserExit {
    /// It executed SYSCALL or SYSENTER; RIP is the next instruction. [`UserContext::set_return_value`] answers it.
    SystemCall(SystemCall),
    /// The time limit of [`run_user_until`](crate::Dune::run_user_until) is over. Run again, it goes on where it was.
    Interrupted,
    /// It took a trap.
    Trap {
        /// The vector.
        vector: Vector,
        /// The CPU's error code, 0 where the vector has none.
        error_code: u64,
        /// The address a page fault is about; without meaning for other vectors.
        address: u64,
    },
}

/// Ring-3 code that can be run: its registers and its vector state.
///
/// A clone goes on where this one is, as after a fork. It may be run by any thread in Dune mode, by one at a time.
///
/// See [`Dune::run_user`](crate::Dune::run_user) for an example.
#[repr(C)]
pub struct UserContext {
    /// The registers; edit them between runs.
    pub registers: UserRegisters,
    fs_base: u64,
    gs_base: u64,
    vector: u64,
    error_code: u64,
    cr2: u64,
    vector_area: NonNull<u8>,
    return_by: ReturnBy,
    area_size: u32,
}

// SAFETY: the vector area is this value's own, and nothing in it is a thread's.
unsafe impl Send for UserContext {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for UserContext {}

/// Offsets and exit numbers for the assembly.
pub(crate) mod offsets {
    use super::{ReturnBy, UserContext, UserRegisters};
    use core::mem::offset_of;

    macro_rules! registers {
        ($($name:ident $field:ident)*) => {
            $(pub(crate) const $name: usize =
                offset_of!(UserContext, registers) + offset_of!(UserRegisters, $field);)*
        };
    }
    registers! {
        RAX rax RBX rbx RCX rcx RDX rdx RSI rsi RDI rdi RBP rbp RSP rsp R8 r8 R9 r9 R10 r10 R11 r11 R12 r12 R13 r13
        R14 r14 R15 r15 RIP rip RFLAGS rflags
    }
    pub(crate) const FS_BASE: usize = offset_of!(UserContext, fs_base);
    pub(crate) const GS_BASE: usize = offset_of!(UserContext, gs_base);
    pub(crate) const VECTOR: usize = offset_of!(UserContext, vector);
    pub(crate) const ERROR_CODE: usize = offset_of!(UserContext, error_code);
    pub(crate) const CR2: usize = offset_of!(UserContext, cr2);
    pub(crate) const VECTOR_AREA: usize = offset_of!(UserContext, vector_area);
    pub(crate) const RETURN_BY: usize = offset_of!(UserContext, return_by);
    pub(crate) const BY_SYSRET: u32 = ReturnBy::Sysret as u32;
    pub(crate) const EXIT_SYSCALL: u32 = 0;
    pub(crate) const EXIT_TRAP: u32 = 1;
}

const AREA_ALIGNMENT: usize = 64;

impl UserContext {
    /// Ring-3 code that starts at `entry` with stack pointer `stack` and everything else zero; the vector state is
    /// the CPU's initial one, with all floating-point exceptions masked.
    pub fn new(entry: VirtAddr, stack: VirtAddr) -> UserContext {
        let area_size = cpu::vector_state().area_size;
        let vector_area = UserContext::new_area(area_size);
        let area = vector_area.as_ptr();
        // The legacy part's control words (Intel SDM vol. 1 §13.4.1): x87 control word, MXCSR. With a zero
        // XSTATE_BV XRSTOR takes the initial state for the rest, but MXCSR is always loaded.
        // SAFETY: both offsets lie in the first 512 bytes of the area.
        unsafe {
            area.cast::<u16>().write(0x37f);
            area.add(24).cast::<u32>().write(0x1f80);
        }
        UserContext {
            registers: UserRegisters { rip: entry.as_u64(), rsp: stack.as_u64(), ..Default::default() },
            fs_base: 0,
            gs_base: 0,
            vector: 0,
            error_code: 0,
            cr2: 0,
            vector_area,
            return_by: ReturnBy::Iret,
            area_size: area_size as u32,
        }
    }

    /// Zeros for a vector state.
    fn new_area(size: usize) -> NonNull<u8> {
        let layout = UserContext::area_layout(size);
        // SAFETY: the layout has a size of at least 512 bytes.
        let area = unsafe { alloc_zeroed(layout) };
        NonNull::new(area).unwrap_or_else(|| handle_alloc_error(layout))
    }

    fn area_layout(size: usize) -> Layout {
        Layout::from_size_align(size.max(512), AREA_ALIGNMENT).expect("an XSAVE area is a few KiB")
    }

    /// The bytes of the vector area that say something: behind the legacy part and the header there is nothing as long as all else is in its
    /// initial state (Intel SDM vol. 1 §13.4: XSTATE_BV is the header's first word).
    fn used_area(&self) -> usize {
        const LEGACY: usize = 512;
        const HEADER: usize = 64;
        const X87_AND_SSE: u64 = 0b11;
        let size = self.area_size as usize;
        if size < LEGACY + HEADER {
            return size;
        }
        // SAFETY: the header is in the area, which is aligned.
        let components = unsafe { self.vector_area.add(LEGACY).cast::<u64>().read() };
        if components & !X87_AND_SSE == 0 { LEGACY + HEADER } else { size }
    }

    /// The system call that the registers are about.
    #[inline]
    pub(crate) fn system_call(&self) -> SystemCall {
        let UserRegisters { rax, rdi, rsi, rdx, r10, r8, r9, .. } = self.registers;
        SystemCall { number: rax, arguments: [rdi, rsi, rdx, r10, r8, r9] }
    }

    /// Answers a system call: what ring 3 finds in RAX when it goes on; an error is the negative of its number.
    pub fn set_return_value(&mut self, value: i64) {
        self.registers.rax = value as u64;
    }

    /// By which instruction the next run enters ring 3.
    pub fn return_by(&self) -> ReturnBy {
        self.return_by
    }

    pub(crate) fn set_return_by(&mut self, by: ReturnBy) {
        self.return_by = by;
    }

    /// The FS base, which ring 3 may change itself (WRFSBASE) on CPUs that have the instruction.
    pub fn fs_base(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.fs_base)
    }

    /// Sets the FS base, where ring-3 code finds its thread-local storage.
    pub fn set_fs_base(&mut self, base: VirtAddr) {
        self.fs_base = base.as_u64();
    }

    /// The GS base; it has nothing to do with ring 0's.
    pub fn gs_base(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.gs_base)
    }

    /// Sets the GS base.
    pub fn set_gs_base(&mut self, base: VirtAddr) {
        self.gs_base = base.as_u64();
    }

    /// The trap that the assembly stored.
    /// CR2 at the last trap.
    pub(crate) fn fault_address(&self) -> u64 {
        self.cr2
    }

    pub(crate) fn trap(&self) -> UserExit {
        UserExit::Trap { vector: Vector(self.vector as u8), error_code: self.error_code, address: self.cr2 }
    }
}

impl Clone for UserContext {
    fn clone(&self) -> UserContext {
        let vector_area = UserContext::new_area(self.area_size as usize);
        // SAFETY: 1. both areas have this size; 2. the new one is nobody else's.
        unsafe { vector_area.copy_from_nonoverlapping(self.vector_area, self.area_size as usize) };
        UserContext { vector_area, ..*self }
    }

    fn clone_from(&mut self, source: &UserContext) {
        if self.area_size != source.area_size {
            *self = source.clone();
            return;
        }
        let vector_area = self.vector_area;
        // SAFETY: both areas have this size, and belong to different values.
        unsafe { vector_area.copy_from_nonoverlapping(source.vector_area, source.used_area()) };
        let UserContext {
            registers, fs_base, gs_base, vector, error_code, cr2, return_by, area_size, ..
        } = *source;
        let area = UserContext {
            registers,
            fs_base,
            gs_base,
            vector,
            error_code,
            cr2,
            vector_area,
            return_by,
            area_size,
        };
        // The area stays this value's: it is not freed with the old fields.
        std::mem::forget(std::mem::replace(self, area));
    }
}

impl Drop for UserContext {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.vector_area.as_ptr(), UserContext::area_layout(self.area_size as usize)) };
    }
}

impl fmt::Debug for UserContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserContext")
            .field("registers", &self.registers)
            .field("return_by", &self.return_by)
            .finish_non_exhaustive()
    }
}
