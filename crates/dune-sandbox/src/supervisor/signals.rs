//! Signals of the program's: its actions, its mask, and the frames on which its handlers run, in ring 3 only.
//!
//! A frame is as Linux's (`struct rt_sigframe`, arch/x86/include/asm/sigframe.h), but without the vector state: that the supervisor keeps, by
//! the frame's address, so that nobody can forge it. From a frame that comes back, rt_sigreturn takes general registers, the mask, and the
//! alternate stack. What of the flags ring 3 may choose, where RIP may be and which segments there are, `Dune::run_user` sees to.

use dune::user::{UserContext, UserRegisters};
use dune_syscalls::Call;

use super::{Answer, RESTART, Thread, error};
use crate::checked::Request;
use crate::raw::process;
use crate::raw::signals::{self, RESTORER};

/// Signals have the numbers 1 to 64.
const SIGNALS: usize = 64;
/// SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
/// `UAPI_SA_FLAGS`, without SA_EXPOSE_TAGBITS.
const KNOWN_FLAGS: u64 = RESTORER
    | (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART)
        as u64
    | (libc::SA_NODEFER | libc::SA_RESETHAND) as u32 as u64;
/// Below the stack pointer the ABI lets functions keep data (System V ABI §3.2.2).
const RED_ZONE: u64 = 128;
/// SS_AUTODISARM.
const AUTO_DISARM: u64 = 1 << 31;
/// How many frames' vector states are kept. A program that leaves its handlers by longjmp leaves frames for ever.
const MOST_KEPT: usize = 64;
/// Where things are in a frame, from the return address on: `struct ucontext` and `siginfo_t`.
const CONTEXT: u64 = 8;
const CONTEXT_WORDS: usize = 38;
const INFO: u64 = CONTEXT + 8 * CONTEXT_WORDS as u64;
const FRAME: u64 = INFO + 128;

/// `struct kernel_sigaction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

impl Action {
    fn has_handler(&self) -> bool {
        self.handler > libc::SIG_IGN as u64
    }

    fn of_words([handler, flags, restorer, mask]: [u64; 4]) -> Action {
        Action { handler, flags: flags & KNOWN_FLAGS, restorer, mask: mask & !UNBLOCKABLE }
    }

    fn words(&self) -> [u64; 4] {
        [self.handler, self.flags, self.restorer, self.mask]
    }
}

/// The actions of a process.
#[derive(Clone, Debug)]
pub(super) struct Actions([Action; SIGNALS]);

impl Actions {
    /// What Linux has: no handlers.
    pub(super) fn of_process() -> Actions {
        let ignored = |index: usize| process::is_ignored(index as i32 + 1);
        let handler = |index| if ignored(index) { libc::SIG_IGN as u64 } else { libc::SIG_DFL as u64 };
        Actions(std::array::from_fn(|index| Action { handler: handler(index), ..Action::default() }))
    }

    fn get(&self, signal: i32) -> Action {
        self.0[signal as usize - 1]
    }

    fn set(&mut self, signal: i32, action: Action) {
        self.0[signal as usize - 1] = action;
    }

    /// As execve(2) leaves them.
    pub(super) fn reset(&mut self) {
        for (index, action) in self.0.iter_mut().enumerate() {
            if action.has_handler() {
                process::set_disposition(index as i32 + 1, false);
            }
            *action = Action {
                handler: if action.has_handler() { 0 } else { action.handler },
                ..Action::default()
            };
        }
    }
}

/// What a thread has of signals.
#[derive(Debug)]
pub(super) struct Signals {
    /// The program's mask. Linux has it, too, except while a signal is on its way.
    mask: u64,
    /// The mask that is to count when a handler has returned that interrupts rt_sigsuspend(2).
    suspended: Option<u64>,
    /// The alternate stack: address, flags, size.
    stack: [u64; 3],
    /// Interrupted code, for its vector state, with the address of the frame.
    kept: Vec<(u64, UserContext)>,
}

impl Signals {
    pub(super) fn of_thread() -> Signals {
        let (_, mask) = process::change_mask(libc::SIG_BLOCK as u64, None);
        Signals { mask, suspended: None, stack: [0, libc::SS_DISABLE as u64, 0], kept: Vec::new() }
    }

    pub(super) fn mask(&self) -> u64 {
        self.mask
    }

    /// The thread has `mask`, where Linux had all blocked.
    pub(super) fn begin(&mut self, mask: u64) {
        self.set_mask(mask);
    }

    /// For another program: the mask stays.
    pub(super) fn reset(&mut self) {
        *self = Signals { mask: self.mask, ..Signals::of_thread() };
    }

    fn set_mask(&mut self, mask: u64) {
        self.mask = mask & !UNBLOCKABLE;
        signals::set_mask(self.mask);
    }

    fn is_on_stack(&self, rsp: u64) -> bool {
        let [start, flags, size] = self.stack;
        flags & AUTO_DISARM == 0 && rsp > start && rsp - start <= size
    }

    /// sigaltstack(2): sets the stack of code with `rsp`.
    fn set_stack(&mut self, [start, flags, size]: [u64; 3], rsp: u64) -> Result<(), i32> {
        if self.is_on_stack(rsp) {
            return Err(libc::EPERM);
        }
        let flags = flags & 0xffff_ffff;
        self.stack = match flags & !AUTO_DISARM {
            disabled if disabled == libc::SS_DISABLE as u64 => [0, flags, 0],
            0 | 1 if size < libc::MINSIGSTKSZ as u64 => return Err(libc::ENOMEM),
            0 | 1 => [start, flags & AUTO_DISARM, size],
            _ => return Err(libc::EINVAL),
        };
        Ok(())
    }

    /// As sigaltstack(2) tells it.
    fn described(&self, rsp: u64) -> [u64; 3] {
        let [start, flags, size] = self.stack;
        [start, if self.is_on_stack(rsp) { flags | libc::SS_ONSTACK as u64 } else { flags }, size]
    }
}

/// What a fault's frame says besides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Details {
    pub(super) error_code: u64,
    pub(super) vector: u64,
    pub(super) address: u64,
}

impl Thread {
    /// Has the program handle the signals that wait, one after the other: the last one's handler runs first, as on Linux.
    pub(super) fn deliver_waiting(&mut self) {
        while let Some(info) = signals::take() {
            let signal = info[0] as i32;
            let action = self.action(signal);
            // Between the signal and now the program may have changed its mind.
            if action.has_handler() {
                self.push_frame(signal, &action, &info, Details::default());
            } else {
                self.signals.set_mask(self.signals.mask);
                if action.handler != libc::SIG_IGN as u64 {
                    process::raise(signal);
                }
            }
        }
        let mask = self.signals.suspended.take().unwrap_or(self.signals.mask);
        self.signals.set_mask(mask);
    }

    /// Has the program handle its own fault, or ends it.
    pub(super) fn deliver_fault(&mut self, signal: i32, code: i32, address: u64, details: Details) {
        let mut info = [0; 16];
        info[0] = signal as u64;
        info[1] = code as u32 as u64;
        info[2] = address;
        self.force(signal, &info, details);
    }

    /// Has the program handle a signal now, or ends it.
    pub(super) fn force(&mut self, signal: i32, info: &signals::Info, details: Details) {
        let action = self.action(signal);
        let is_blocked = self.signals.mask & 1 << (signal - 1) != 0;
        if !action.has_handler() || is_blocked {
            process::die(signal);
        }
        self.push_frame(signal, &action, info, details);
        let mask = self.signals.mask;
        self.signals.set_mask(mask);
    }

    fn action(&self, signal: i32) -> Action {
        self.process.actions().get(signal)
    }

    /// The answer to `call`, which a signal may have interrupted.
    #[inline]
    pub(super) fn interrupted(&mut self, answer: Answer, call: &Call) -> Answer {
        match signals::is_waiting() {
            true => self.again_or(answer, call),
            false if answer == signals::NOT_MADE => error(libc::EINTR),
            false => answer,
        }
    }

    #[cold]
    fn again_or(&mut self, answer: Answer, call: &Call) -> Answer {
        let again = match answer {
            signals::NOT_MADE => true,
            answer if answer == error(libc::EINTR) && RESTART.contains(&call.name()) => {
                let first = signals::first().map(|info| self.action(info[0] as i32));
                first.is_some_and(|action| action.flags & libc::SA_RESTART as u64 != 0)
            }
            _ => false,
        };
        if !again {
            return answer;
        }
        // The length of SYSCALL.
        self.context.registers.rip = self.context.registers.rip.wrapping_sub(2);
        call.number.into()
    }

    /// Puts a frame on the program's stack, and has it go on in its handler.
    fn push_frame(&mut self, signal: i32, action: &Action, info: &signals::Info, details: Details) {
        let registers = self.context.registers;
        let [start, flags, size] = self.signals.stack;
        let is_on_stack = self.signals.is_on_stack(registers.rsp);
        let takes_stack = action.flags & libc::SA_ONSTACK as u64 != 0
            && flags & libc::SS_DISABLE as u64 == 0
            && !is_on_stack;
        let top = if takes_stack { start.wrapping_add(size) } else { registers.rsp.wrapping_sub(RED_ZONE) };
        // As after a call: 16-byte aligned before the return address was pushed.
        let frame = (top.wrapping_sub(FRAME) & !15).wrapping_sub(8);
        let overflows = (takes_stack || is_on_stack) && frame < start;
        let mask = self.signals.suspended.take().unwrap_or(self.signals.mask);
        let stack = self.signals.described(registers.rsp);
        let mut words = vec![action.restorer];
        words.extend(context_words(&registers, stack, mask, details));
        words.extend(info);
        if overflows || self.memory().write_words(frame, &words).is_err() {
            // As Linux's force_sigsegv, without another try.
            process::die(libc::SIGSEGV);
        }
        if self.signals.kept.len() == MOST_KEPT {
            self.signals.kept.remove(0);
        }
        self.signals.kept.retain(|(address, _)| *address != frame);
        self.signals.kept.push((frame, self.context.clone()));
        if flags & AUTO_DISARM != 0 {
            self.signals.stack = [0, libc::SS_DISABLE as u64, 0];
        }
        if action.flags & libc::SA_RESETHAND as u32 as u64 != 0 {
            let mut actions = self.process.actions();
            // Unless another thread has set another one.
            if actions.get(signal) == *action {
                actions.set(signal, Action::default());
                process::set_disposition(signal, false);
            }
        }
        let own = if action.flags & libc::SA_NODEFER as u64 != 0 { 0 } else { 1 << (signal - 1) };
        self.signals.mask |= (action.mask | own) & !UNBLOCKABLE;
        /// DF, which the ABI wants clear, TF and RF.
        const CLEARED: u64 = 1 << 10 | 1 << 8 | 1 << 16;
        self.context.registers = UserRegisters {
            rip: action.handler,
            rsp: frame,
            rdi: signal as u64,
            rsi: frame.wrapping_add(INFO),
            rdx: frame.wrapping_add(CONTEXT),
            rax: 0,
            rflags: registers.rflags & !CLEARED,
            ..registers
        };
        self.returns_all = true;
    }
}

/// `struct ucontext` with `struct sigcontext_64` in it.
fn context_words(registers: &UserRegisters, stack: [u64; 3], mask: u64, details: Details) -> Vec<u64> {
    /// CS, GS, FS and SS of 64-bit code on Linux.
    const SEGMENTS: u64 = 0x002b_0000_0000_0033;
    /// The flags that ring 3 has on Linux: without the mark of ours (IOPL).
    const SHOWN: u64 = 0x24_4fd7;
    let r = registers;
    let mut words = vec![0, 0];
    words.extend(stack);
    words.extend([r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx]);
    words.extend([r.rax, r.rcx, r.rsp, r.rip, r.rflags & SHOWN | 1 << 9, SEGMENTS]);
    words.extend([details.error_code, details.vector, mask, details.address, 0]);
    words.extend([0; 8]);
    words.push(mask);
    debug_assert_eq!(words.len(), CONTEXT_WORDS);
    words
}

/// rt_sigreturn(2): the handler has popped the return address.
pub(super) fn rt_sigreturn(thread: &mut Thread, _: &mut Request) -> Answer {
    let rsp = thread.context.registers.rsp;
    let frame = rsp.wrapping_sub(8);
    let Ok(words) = thread.memory().words::<CONTEXT_WORDS>(frame.wrapping_add(CONTEXT)) else {
        process::die(libc::SIGSEGV)
    };
    let at = |index: usize| words[5 + index];
    let registers = UserRegisters {
        r8: at(0),
        r9: at(1),
        r10: at(2),
        r11: at(3),
        r12: at(4),
        r13: at(5),
        r14: at(6),
        r15: at(7),
        rdi: at(8),
        rsi: at(9),
        rbp: at(10),
        rbx: at(11),
        rdx: at(12),
        rax: at(13),
        rcx: at(14),
        rsp: at(15),
        rip: at(16),
        rflags: at(17),
    };
    if let Some(index) = thread.signals.kept.iter().position(|(address, _)| *address == frame) {
        let (_, mut kept) = thread.signals.kept.remove(index);
        kept.set_fs_base(thread.context.fs_base());
        kept.set_gs_base(thread.context.gs_base());
        thread.context = kept;
    }
    thread.context.registers = registers;
    // As on Linux a stack that can not be set is no error.
    let _ = thread.signals.set_stack([words[2], words[3], words[4]], rsp);
    thread.signals.set_mask(words[CONTEXT_WORDS - 1]);
    thread.returns_all = true;
    0
}

pub(super) fn rt_sigaction(thread: &mut Thread, request: &mut Request) -> Answer {
    let [signal, new, old, size, ..] = *request.arguments();
    let (signal, memory) = (signal as i32, thread.memory());
    if size != 8 || !(1..=SIGNALS as i32).contains(&signal) {
        return error(libc::EINVAL);
    }
    let mut action = None;
    if new != 0 {
        let Ok(words) = memory.words(new) else { return error(libc::EFAULT) };
        if [libc::SIGKILL, libc::SIGSTOP].contains(&signal) {
            return error(libc::EINVAL);
        }
        action = Some(Action::of_words(words));
    }
    // Account and Linux say the same when the lock is free again: a signal for which Linux has our handler, and the account none, would come
    // for ever.
    let mut actions = thread.process.actions();
    let before = actions.get(signal);
    if let Some(action) = action {
        // The account first: the signal may come at once.
        actions.set(signal, action);
        let result = if action.has_handler() {
            signals::handle(signal, action.flags)
        } else {
            process::set_disposition(signal, action.handler == libc::SIG_IGN as u64)
        };
        if result != 0 {
            actions.set(signal, before);
            return result;
        }
    }
    drop(actions);
    if old != 0 && memory.write_words(old, &before.words()).is_err() {
        return error(libc::EFAULT);
    }
    0
}

pub(super) fn rt_sigprocmask(thread: &mut Thread, request: &mut Request) -> Answer {
    let [how, new, old, size, ..] = *request.arguments();
    let memory = thread.memory();
    if size != 8 {
        return error(libc::EINVAL);
    }
    let before = thread.signals.mask;
    if new != 0 {
        let Ok(set) = memory.word(new) else { return error(libc::EFAULT) };
        let mask = match how as i32 {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return error(libc::EINVAL),
        };
        thread.signals.set_mask(mask);
    }
    if old != 0 && memory.write_words(old, &[before]).is_err() {
        return error(libc::EFAULT);
    }
    0
}

/// Waits with another mask; the one before is that of the code that the handler returns to.
pub(super) fn rt_sigsuspend(thread: &mut Thread, request: &mut Request) -> Answer {
    let [new, size, ..] = *request.arguments();
    let Ok(mask) = thread.memory().word(new) else { return error(libc::EFAULT) };
    if size != 8 {
        return error(libc::EINVAL);
    }
    let before = thread.signals.mask;
    thread.signals.set_mask(mask);
    while !signals::is_waiting() {
        process::pause();
    }
    thread.signals.suspended = Some(before);
    error(libc::EINTR)
}

pub(super) fn sigaltstack(thread: &mut Thread, request: &mut Request) -> Answer {
    let [new, old, ..] = *request.arguments();
    let (memory, rsp) = (thread.memory(), thread.context.registers.rsp);
    let before = thread.signals.described(rsp);
    if new != 0 {
        let Ok(stack) = memory.words(new) else { return error(libc::EFAULT) };
        if let Err(errno) = thread.signals.set_stack(stack, rsp) {
            return error(errno);
        }
    }
    if old != 0 && memory.write_words(old, &before).is_err() {
        return error(libc::EFAULT);
    }
    0
}
