//! `<linux/seccomp.h>`, `<linux/landlock.h>`, `<linux/keyctl.h>`.

use crate::names::SECCOMP;
use crate::structures::*;
use crate::table::forms;

forms! {
    /// seccomp(2). A filter of the program's is evaluated by the supervisor, before its own rules.
    SECCOMP_OPERATION by 0 & 0xffff_ffff >> 0: {
        0 => Supervised SECCOMP_SET_MODE_STRICT(operation: Unsigned, flags: Hex, args: LongHex) -> Number;
        1 => Supervised SECCOMP_SET_MODE_FILTER(operation: Unsigned, flags: Flags(&SECCOMP), args: In(&SOCK_FPROG, One)) -> Number;
        2 => Supervised SECCOMP_GET_ACTION_AVAIL(operation: Unsigned, flags: Hex, args: In(&UNSIGNED, One)) -> Number;
        3 => Supervised SECCOMP_GET_NOTIF_SIZES(operation: Unsigned, flags: Hex, args: Out(&SECCOMP_NOTIF_SIZES, One)) -> Number;
    }
    /// landlock_add_rule(2)
    LANDLOCK_RULE by 1 & 0xffff_ffff >> 0: {
        1 => Forwarded LANDLOCK_RULE_PATH_BENEATH(ruleset_fd: Fd, rule_type: Unsigned, rule_attr: In(&LANDLOCK_PATH_BENEATH_ATTR, One), flags: Hex) -> Number;
        2 => Forwarded LANDLOCK_RULE_NET_PORT(ruleset_fd: Fd, rule_type: Unsigned, rule_attr: In(&LANDLOCK_NET_PORT_ATTR, One), flags: Hex) -> Number;
    }
    /// keyctl(2)
    KEYCTL by 0 & 0xffff_ffff >> 0: {
        0 => Refused KEYCTL_GET_KEYRING_ID(operation: Int, key: Int, create: Int) -> Number;
        1 => Refused KEYCTL_JOIN_SESSION_KEYRING(operation: Int, name: TextOf(4096)) -> Number;
        2 => Refused KEYCTL_UPDATE(operation: Int, key: Int, payload: In(&BYTES, Count(plen)), plen: Size) -> Number;
        3 => Refused KEYCTL_REVOKE(operation: Int, key: Int) -> Number;
        4 => Refused KEYCTL_CHOWN(operation: Int, key: Int, uid: Uid, gid: Gid) -> Number;
        5 => Refused KEYCTL_SETPERM(operation: Int, key: Int, perm: Hex) -> Number;
        6 => Refused KEYCTL_DESCRIBE(operation: Int, key: Int, buffer: Out(&BYTES, Filled(buflen)), buflen: Size) -> Count;
        7 => Refused KEYCTL_CLEAR(operation: Int, keyring: Int) -> Number;
        8 => Refused KEYCTL_LINK(operation: Int, key: Int, keyring: Int) -> Number;
        9 => Refused KEYCTL_UNLINK(operation: Int, key: Int, keyring: Int) -> Number;
        10 => Refused KEYCTL_SEARCH(operation: Int, keyring: Int, r#type: TextOf(32), description: TextOf(4096), dest_keyring: Int) -> Number;
        11 => Refused KEYCTL_READ(operation: Int, key: Int, buffer: Out(&BYTES, Filled(buflen)), buflen: Size) -> Count;
        12 => Refused KEYCTL_INSTANTIATE(operation: Int, key: Int, payload: In(&BYTES, Count(plen)), plen: Size, keyring: Int) -> Number;
        13 => Refused KEYCTL_NEGATE(operation: Int, key: Int, timeout: Unsigned, keyring: Int) -> Number;
        14 => Refused KEYCTL_SET_REQKEY_KEYRING(operation: Int, reqkey_defl: Int) -> Number;
        15 => Refused KEYCTL_SET_TIMEOUT(operation: Int, key: Int, timeout: Unsigned) -> Number;
        16 => Refused KEYCTL_ASSUME_AUTHORITY(operation: Int, key: Int) -> Number;
        17 => Refused KEYCTL_GET_SECURITY(operation: Int, key: Int, buffer: Out(&BYTES, Filled(buflen)), buflen: Size) -> Count;
        18 => Refused KEYCTL_SESSION_TO_PARENT(operation: Int) -> Number;
        19 => Refused KEYCTL_REJECT(operation: Int, key: Int, timeout: Unsigned, error: Unsigned, keyring: Int) -> Number;
        20 => Refused KEYCTL_INSTANTIATE_IOV(operation: Int, key: Int, payload_iov: In(&IOVEC_IN, AtMost(ioc, 1024)), ioc: Unsigned, keyring: Int) -> Number;
        21 => Refused KEYCTL_INVALIDATE(operation: Int, key: Int) -> Number;
        22 => Refused KEYCTL_GET_PERSISTENT(operation: Int, uid: Uid, keyring: Int) -> Number;
        30 => Refused KEYCTL_MOVE(operation: Int, key: Int, from_keyring: Int, to_keyring: Int, flags: Hex) -> Number;
        31 => Refused KEYCTL_CAPABILITIES(operation: Int, buffer: Out(&BYTES, Filled(buflen)), buflen: Size) -> Count;
    }
}
