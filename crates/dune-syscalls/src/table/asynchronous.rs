use super::calls;
use crate::structures::*;

// What these calls name is read and written while the program goes on.
calls! { Asynchronous:
    // Linux maps the ring of events into the address space.
    206 Supervised io_setup(nr_events: Unsigned, ctx_idp: InOut(&LONG, One)) -> Number;
    207 Supervised io_destroy(ctx_id: LongHex) -> Number;
    208 Forwarded io_getevents(ctx_id: LongHex, min_nr: Long, nr: Long, events: Out(&IO_EVENT, Filled(nr)), timeout: In(&TIMESPEC, One)) -> Count;
    // More than the context has room for are left; `fs.aio-max-nr` is 65536 where it was not raised.
    209 Forwarded io_submit(ctx_id: LongHex, nr: Long, iocbpp: In(&IOCB_ADDRESS, AtMost(nr, 1 << 20))) -> Count;
    210 Forwarded io_cancel(ctx_id: LongHex, iocb: In(&IOCB, One), result: Out(&IO_EVENT, One)) -> Number;
    333 Forwarded io_pgetevents(ctx_id: LongHex, min_nr: Long, nr: Long, events: Out(&IO_EVENT, Filled(nr)), timeout: In(&TIMESPEC, One), usig: In(&SIGNALS_ARGUMENT, One)) -> Count;
    // Calls by way of shared memory, which no supervisor sees.
    425 Refused io_uring_setup(entries: Unsigned, params: InOut(&IO_URING_PARAMS, One)) -> Descriptor;
    426 Refused io_uring_enter(fd: Fd, to_submit: Unsigned, min_complete: Unsigned, flags: Hex, arg: In(&BYTES, Count(argsz)), argsz: Size) -> Count;
    427 Refused io_uring_register(fd: Fd, opcode: Unsigned, arg: Opaque, nr_args: Unsigned) -> Number;
}
