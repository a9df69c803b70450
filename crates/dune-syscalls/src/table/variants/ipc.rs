//! `<linux/futex.h>`, `<linux/shm.h>`, `<linux/sem.h>`, `<linux/msg.h>`.

use crate::names::FUTEX_OPTIONS;
use crate::structures::*;
use crate::table::forms;

forms! {
    /// futex(2): by the operation, without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
    FUTEX_OP by 1 & 0xffff_fe7f >> 0: {
        0 => Supervised FUTEX_WAIT(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, timeout: In(&TIMESPEC, One)) -> Number;
        1 => Supervised FUTEX_WAKE(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned) -> Count;
        2 => Refused FUTEX_FD(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned) -> Descriptor;
        3 => Supervised FUTEX_REQUEUE(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, val2: Unsigned, uaddr2: In(&FUTEX, One)) -> Count;
        4 => Supervised FUTEX_CMP_REQUEUE(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, val2: Unsigned, uaddr2: In(&FUTEX, One), val3: Unsigned) -> Count;
        5 => Supervised FUTEX_WAKE_OP(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, val2: Unsigned, uaddr2: InOut(&FUTEX, One), val3: Hex) -> Count;
        6 => Supervised FUTEX_LOCK_PI(uaddr: InOut(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, timeout: In(&TIMESPEC, One)) -> Number;
        7 => Supervised FUTEX_UNLOCK_PI(uaddr: InOut(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS)) -> Number;
        8 => Supervised FUTEX_TRYLOCK_PI(uaddr: InOut(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS)) -> Number;
        9 => Supervised FUTEX_WAIT_BITSET(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, timeout: In(&TIMESPEC, One), uaddr2: LongHex, val3: Hex) -> Number;
        10 => Supervised FUTEX_WAKE_BITSET(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, val2: Unsigned, uaddr2: LongHex, val3: Hex) -> Count;
        11 => Supervised FUTEX_WAIT_REQUEUE_PI(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, timeout: In(&TIMESPEC, One), uaddr2: InOut(&FUTEX, One)) -> Number;
        12 => Supervised FUTEX_CMP_REQUEUE_PI(uaddr: In(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, val2: Unsigned, uaddr2: InOut(&FUTEX, One), val3: Unsigned) -> Count;
        13 => Supervised FUTEX_LOCK_PI2(uaddr: InOut(&FUTEX, One), futex_op: Flags(&FUTEX_OPTIONS), val: Unsigned, timeout: In(&TIMESPEC, One)) -> Number;
    }
    /// shmctl(2)
    SHMCTL by 1 & 0xffff_ffff >> 0: {
        0 => Forwarded IPC_RMID(shmid: Int, cmd: Int) -> Number;
        1 => Forwarded IPC_SET(shmid: Int, cmd: Int, buf: In(&SHMID_DS, One)) -> Number;
        2 => Forwarded IPC_STAT(shmid: Int, cmd: Int, buf: Out(&SHMID_DS, One)) -> Number;
        3 => Forwarded IPC_INFO(shmid: Int, cmd: Int, buf: Out(&SHMINFO, One)) -> Number;
        11 => Forwarded SHM_LOCK(shmid: Int, cmd: Int) -> Number;
        12 => Forwarded SHM_UNLOCK(shmid: Int, cmd: Int) -> Number;
        13 => Forwarded SHM_STAT(shmid: Int, cmd: Int, buf: Out(&SHMID_DS, One)) -> Number;
        14 => Forwarded SHM_INFO(shmid: Int, cmd: Int, buf: Out(&SHM_INFO, One)) -> Number;
        15 => Forwarded SHM_STAT_ANY(shmid: Int, cmd: Int, buf: Out(&SHMID_DS, One)) -> Number;
    }
    /// semctl(2). GETALL and SETALL transfer as many values as the set has semaphores, which no argument tells: a supervisor asks
    /// IPC_STAT before.
    SEMCTL by 2 & 0xffff_ffff >> 0: {
        0 => Forwarded IPC_RMID(semid: Int, semnum: Int, cmd: Int) -> Number;
        1 => Forwarded IPC_SET(semid: Int, semnum: Int, cmd: Int, buf: In(&SEMID_DS, One)) -> Number;
        2 => Forwarded IPC_STAT(semid: Int, semnum: Int, cmd: Int, buf: Out(&SEMID_DS, One)) -> Number;
        3 => Forwarded IPC_INFO(semid: Int, semnum: Int, cmd: Int, buf: Out(&SEMINFO, One)) -> Number;
        11 => Forwarded GETPID(semid: Int, semnum: Int, cmd: Int) -> Pid;
        12 => Forwarded GETVAL(semid: Int, semnum: Int, cmd: Int) -> Number;
        13 => Supervised GETALL(semid: Int, semnum: Int, cmd: Int, array: Opaque) -> Number;
        14 => Forwarded GETNCNT(semid: Int, semnum: Int, cmd: Int) -> Number;
        15 => Forwarded GETZCNT(semid: Int, semnum: Int, cmd: Int) -> Number;
        16 => Forwarded SETVAL(semid: Int, semnum: Int, cmd: Int, val: Int) -> Number;
        17 => Supervised SETALL(semid: Int, semnum: Int, cmd: Int, array: Opaque) -> Number;
        18 => Forwarded SEM_STAT(semid: Int, semnum: Int, cmd: Int, buf: Out(&SEMID_DS, One)) -> Number;
        19 => Forwarded SEM_INFO(semid: Int, semnum: Int, cmd: Int, buf: Out(&SEMINFO, One)) -> Number;
        20 => Forwarded SEM_STAT_ANY(semid: Int, semnum: Int, cmd: Int, buf: Out(&SEMID_DS, One)) -> Number;
    }
    /// msgctl(2)
    MSGCTL by 1 & 0xffff_ffff >> 0: {
        0 => Forwarded IPC_RMID(msqid: Int, cmd: Int) -> Number;
        1 => Forwarded IPC_SET(msqid: Int, cmd: Int, buf: In(&MSQID_DS, One)) -> Number;
        2 => Forwarded IPC_STAT(msqid: Int, cmd: Int, buf: Out(&MSQID_DS, One)) -> Number;
        3 => Forwarded IPC_INFO(msqid: Int, cmd: Int, buf: Out(&MSGINFO, One)) -> Number;
        11 => Forwarded MSG_STAT(msqid: Int, cmd: Int, buf: Out(&MSQID_DS, One)) -> Number;
        12 => Forwarded MSG_INFO(msqid: Int, cmd: Int, buf: Out(&MSGINFO, One)) -> Number;
        13 => Forwarded MSG_STAT_ANY(msqid: Int, cmd: Int, buf: Out(&MSQID_DS, One)) -> Number;
    }
}
