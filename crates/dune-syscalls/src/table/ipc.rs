use super::{calls, variants};
use crate::names::*;
use crate::structures::*;

calls! { Ipc:
    29 Forwarded shmget(key: Int, size: Size, shmflg: Flags(&IPC_GET)) -> Number;
    30 Supervised shmat(shmid: Int, shmaddr: Somewhere, shmflg: Flags(&SHMAT)) -> Address;
    31 Refused shmctl(shmid: Int, cmd: Int, buf: Opaque) -> Number by [&variants::SHMCTL];
    64 Forwarded semget(key: Int, nsems: Int, semflg: Flags(&IPC_GET)) -> Number;
    // SEMOPM can be raised by a sysctl; what is more than it is an error, and nothing is read.
    65 Forwarded semop(semid: Int, sops: In(&SEMBUF, Count(nsops)), nsops: Unsigned) -> Number;
    66 Refused semctl(semid: Int, semnum: Int, cmd: Int, arg: Opaque) -> Number by [&variants::SEMCTL];
    67 Supervised shmdt(shmaddr: Somewhere) -> Number;
    68 Forwarded msgget(key: Int, msgflg: Flags(&IPC_GET)) -> Number;
    69 Forwarded msgsnd(msqid: Int, msgp: In(&BYTES, Message(msgsz)), msgsz: Size, msgflg: Flags(&MESSAGE_QUEUE)) -> Number;
    70 Forwarded msgrcv(msqid: Int, msgp: Out(&BYTES, Message(msgsz)), msgsz: Size, msgtyp: Long, msgflg: Flags(&MESSAGE_QUEUE)) -> Count;
    71 Refused msgctl(msqid: Int, cmd: Int, buf: Opaque) -> Number by [&variants::MSGCTL];
    202 Refused futex(uaddr: InOut(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, timeout: Opaque, uaddr2: Opaque, val3: Unsigned) -> Number by [&variants::FUTEX_OP];
    220 Forwarded semtimedop(semid: Int, sops: In(&SEMBUF, Count(nsops)), nsops: Unsigned, timeout: In(&TIMESPEC, One)) -> Number;
    240 Forwarded mq_open(name: TextOf(4096), oflag: Flags(&OPEN), mode if any(oflag, 0o100): Mode, attr if any(oflag, 0o100): In(&MQ_ATTR, One)) -> Descriptor;
    241 Forwarded mq_unlink(name: TextOf(4096)) -> Number;
    242 Forwarded mq_timedsend(mqdes: Fd, msg_ptr: In(&BYTES, Count(msg_len)), msg_len: Size, msg_prio: Unsigned, abs_timeout: In(&TIMESPEC, One)) -> Number;
    243 Forwarded mq_timedreceive(mqdes: Fd, msg_ptr: Out(&BYTES, Filled(msg_len)), msg_len: Size, msg_prio: Out(&UNSIGNED, One), abs_timeout: In(&TIMESPEC, One)) -> Count;
    244 Forwarded mq_notify(mqdes: Fd, sevp: In(&SIGEVENT_QUEUE, One)) -> Number;
    245 Forwarded mq_getsetattr(mqdes: Fd, newattr: In(&MQ_ATTR, One), oldattr: Out(&MQ_ATTR, One)) -> Number;
    449 Supervised futex_waitv(waiters: In(&FUTEX_WAITV, AtMost(nr_futexes, 128)), nr_futexes: Unsigned, flags: Hex, timeout: In(&TIMESPEC, One), clockid: Flags(&CLOCK)) -> Number;
    454 Supervised futex_wake(uaddr: In(&FUTEX, One), mask: LongHex, nr: Int, flags: Hex) -> Number;
    455 Supervised futex_wait(uaddr: In(&FUTEX, One), val: UnsignedLong, mask: LongHex, flags: Hex, timeout: In(&TIMESPEC, One), clockid: Flags(&CLOCK)) -> Number;
    456 Supervised futex_requeue(waiters: In(&FUTEX_WAITV, Exactly(2)), flags: Hex, nr_wake: Int, nr_requeue: Int) -> Number;
}
