//! `<linux/ipc.h>`, `<linux/sem.h>`, `<linux/shm.h>`, `<linux/msg.h>`, `<linux/mqueue.h>`, `<linux/futex.h>`.

use super::{FUTEX, structures};

structures! {
    SEMBUF: "sembuf" 6 { 0 sem_num: Short, 2 sem_op: Short, 4 sem_flg: Short }
    SEMID_DS: "semid64_ds" 104 { 0 key: Int, 4 uid: Uid, 8 gid: Gid }
    SEMINFO: "seminfo" 40 {}
    SHMID_DS: "shmid64_ds" 112 { 0 key: Int, 4 uid: Uid, 8 gid: Gid }
    SHMINFO: "shminfo64" 72 {}
    SHM_INFO: "shm_info" 48 {}
    MSQID_DS: "msqid64_ds" 120 { 0 key: Int, 4 uid: Uid, 8 gid: Gid }
    MSGINFO: "msginfo" 32 {}
    MQ_ATTR: "mq_attr" 64 { 0 mq_flags: Long, 8 mq_maxmsg: Long, 16 mq_msgsize: Long, 24 mq_curmsgs: Long }
    FUTEX_WAITV: "futex_waitv" 24 { 0 val: UnsignedLong, 8 uaddr: In(&FUTEX, One), 16 flags: Hex }
}
