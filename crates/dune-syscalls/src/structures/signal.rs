//! `<asm/signal.h>`, `<asm-generic/siginfo.h>`.

use super::{SIGNALS, structures};
use crate::names::{SIGNAL_ACTION_FLAGS, SIGNAL_NOTIFY, SIGNAL_STACK_FLAGS};

structures! {
    /// Linux's own, not the C library's. In the order in which strace(1) shows it.
    SIGACTION: "sigaction" 32 { 0 sa_handler: Code, 24 sa_mask: SignalSet, 8 sa_flags: LongFlags(&SIGNAL_ACTION_FLAGS), 16 sa_restorer: Code }
    SIGINFO: "siginfo_t" 128 { 0 si_signo: Signal, 4 si_errno: Int, 8 si_code: Int }
    STACK: "stack_t" 24 { 0 ss_sp: KeptOf(ss_size), 8 ss_flags: Flags(&SIGNAL_STACK_FLAGS), 16 ss_size: Size }
    /// What SIGEV_THREAD is to mq_notify(2) only: a cookie of 32 bytes to be sent to a socket.
    SIGEVENT: "sigevent" 64 {
        0 sigev_value: LongHex, 8 sigev_signo: Int, 12 sigev_notify: Flags(&SIGNAL_NOTIFY),
        16 sigev_notify_thread_id if is(sigev_notify, 4): Pid,
    }
    /// The same for mq_notify(2): `sigev_value` is the cookie's address and `sigev_signo` the socket (ipc/mqueue.c).
    SIGEVENT_QUEUE: "sigevent" 64 {
        0 sigev_value if not(sigev_notify, 2): LongHex, 8 sigev_signo if not(sigev_notify, 2): Int,
        12 sigev_notify: Flags(&SIGNAL_NOTIFY),
        0 sigev_cookie if is(sigev_notify, 2): In(&super::BYTES, Exactly(32)), 8 sigev_socket if is(sigev_notify, 2): Fd,
    }
    /// The sixth argument of pselect6(2) and io_pgetevents(2).
    SIGNALS_ARGUMENT: "sigset argument" 16 { 0 ss: In(&SIGNALS, One), 8 ss_len: Size }
}
