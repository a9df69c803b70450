use super::{calls, variants};
use crate::names::*;
use crate::structures::*;

calls! { Credential:
    95 Forwarded umask(mask: Mode) -> Mode;
    102 Forwarded getuid() -> Id;
    104 Forwarded getgid() -> Id;
    105 Forwarded setuid(uid: Uid) -> Number;
    106 Forwarded setgid(gid: Gid) -> Number;
    107 Forwarded geteuid() -> Id;
    108 Forwarded getegid() -> Id;
    113 Forwarded setreuid(ruid: Uid, euid: Uid) -> Number;
    114 Forwarded setregid(rgid: Gid, egid: Gid) -> Number;
    115 Forwarded getgroups(size: Int, list: Out(&GROUP, Filled(size))) -> Count;
    116 Forwarded setgroups(size: Int, list: In(&GROUP, AtMost(size, 65_536))) -> Number;
    117 Forwarded setresuid(ruid: Uid, euid: Uid, suid: Uid) -> Number;
    118 Forwarded getresuid(ruid: Out(&USER, One), euid: Out(&USER, One), suid: Out(&USER, One)) -> Number;
    119 Forwarded setresgid(rgid: Gid, egid: Gid, sgid: Gid) -> Number;
    120 Forwarded getresgid(rgid: Out(&GROUP, One), egid: Out(&GROUP, One), sgid: Out(&GROUP, One)) -> Number;
    122 Forwarded setfsuid(fsuid: Uid) -> Id;
    123 Forwarded setfsgid(fsgid: Gid) -> Id;
    // The header is written if its version is not known. Version 1 has one element of data, the others two.
    125 Forwarded capget(hdrp: InOutAlways(&CAPABILITY_HEADER, One), datap: Out(&CAPABILITY_DATA, Exactly(2))) -> Number;
    126 Forwarded capset(hdrp: InOutAlways(&CAPABILITY_HEADER, One), datap: In(&CAPABILITY_DATA, Exactly(2))) -> Number;
    // Keys are not in any namespace of files, and outlive the process.
    248 Refused add_key(r#type: TextOf(32), description: TextOf(4096), payload: In(&BYTES, AtMost(plen, 0xf_ffff)), plen: Size, keyring: Int) -> Number;
    249 Refused request_key(r#type: TextOf(32), description: TextOf(4096), callout_info: TextOf(4096), dest_keyring: Int) -> Number;
    250 Refused keyctl(operation: Int, arg2: Opaque, arg3: Opaque, arg4: Opaque, arg5: Opaque) -> Number by [&variants::KEYCTL];
    317 Refused seccomp(operation: Unsigned, flags: Flags(&SECCOMP), args: Opaque) -> Number by [&variants::SECCOMP_OPERATION];
    318 Forwarded getrandom(buf: Out(&BYTES, Filled(buflen)), buflen: Size, flags: Flags(&RANDOM)) -> Count;
    444 Forwarded landlock_create_ruleset(attr: In(&LANDLOCK_RULESET_ATTR, Extensible(size)), size: Size, flags: Flags(&LANDLOCK_CREATE)) -> Descriptor;
    445 Refused landlock_add_rule(ruleset_fd: Fd, rule_type: Unsigned, rule_attr: Opaque, flags: Hex) -> Number by [&variants::LANDLOCK_RULE];
    446 Forwarded landlock_restrict_self(ruleset_fd: Fd, flags: Hex) -> Number;
    459 Forwarded lsm_get_self_attr(attr: Unsigned, ctx: Out(&LSM_CTX, Stored(size)), size: InOutAlways(&UNSIGNED, One), flags: Hex) -> Count;
    460 Refused lsm_set_self_attr(attr: Unsigned, ctx: In(&LSM_CTX, Count(size)), size: Unsigned, flags: Hex) -> Number;
    461 Forwarded lsm_list_modules(ids: Out(&BYTES, Stored(size)), size: InOutAlways(&UNSIGNED, One), flags: Hex) -> Count;
}
