//! The IDs of the process's user and group, which it may set to what they are: programs do so to give up rights that they do not have.
//!
//! The table says which calls take nothing but IDs: setuid(2), setresgid(2) and their like. Such a call changes nothing where each is the one
//! that the process has in all places (real, effective, saved, of files) or -1, which stands for what is there. So the IDs stay what they
//! were at the start, in children, too, and the second wall can name them.

use std::sync::OnceLock;

use dune_syscalls::kind::{Kind, Value};
use dune_syscalls::{Class, Form};

use crate::checked::Request;
use crate::raw::process;

/// The user's, and the group's; `None` where the places differ: to change one would be to get or lose rights.
static OWN: OnceLock<[Option<u32>; 2]> = OnceLock::new();

/// Looks them up, before somebody asks: a child must not find that another thread of its parent was about to.
pub(crate) fn note() {
    OWN.get_or_init(process::identities);
}

fn own(kind: Kind) -> Option<u32> {
    let [user, group] = *OWN.get_or_init(process::identities);
    match kind {
        Kind::Value(Value::Uid) => user,
        Kind::Value(Value::Gid) => group,
        _ => None,
    }
}

/// What each argument of a call that only takes IDs has to be one of; `None` for other calls, and where the process has none such.
pub(crate) fn allowed(class: Class, form: &Form) -> Option<Vec<[u32; 2]>> {
    if class != Class::Credential || form.arguments.is_empty() {
        return None;
    }
    form.arguments.iter().map(|field| Some([own(field.kind)?, u32::MAX])).collect()
}

/// Whether the call sets IDs to what they are.
pub(crate) fn stay(request: &Request) -> bool {
    let allowed = allowed(request.call().class, request.form());
    allowed.is_some_and(|all| {
        all.iter().zip(request.arguments()).all(|(allowed, argument)| allowed.contains(&(*argument as u32)))
    })
}

/// Whether it is a call that only takes IDs.
pub(crate) fn sets(class: Class, form: &Form) -> bool {
    let is_identity = |kind| matches!(kind, Kind::Value(Value::Uid | Value::Gid));
    class == Class::Credential
        && !form.arguments.is_empty()
        && form.arguments.iter().all(|field| is_identity(field.kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_only_take_identities() {
        let sets: Vec<_> = dune_syscalls::all()
            .filter(|call| sets(call.class, &call.form))
            .map(|call| call.name())
            .collect();
        let wanted =
            ["setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"];
        assert_eq!(sets, wanted);
    }

    #[test]
    fn the_one_identity_and_what_stands_for_it() {
        let allows = |number: i64, arguments: [u64; 6]| {
            let call = dune_syscalls::by_number(number as u64).expect("a call");
            stay(&Request::of_registers(call, &arguments))
        };
        let [Some(user), Some(group)] = process::identities() else { return };
        let (user, group, same) = (u64::from(user), u64::from(group), u64::from(u32::MAX));
        assert!(allows(libc::SYS_setresuid, [user, same, user, 0, 0, 0]));
        // Linux looks at 32 bits.
        assert!(allows(libc::SYS_setregid, [u64::MAX, group | 1 << 32, 0, 0, 0, 0]));
        for (number, arguments) in [
            (libc::SYS_setuid, [user + 1, 0, 0, 0, 0, 0]),
            (libc::SYS_setresuid, [user, same, user + 1, 0, 0, 0]),
            (libc::SYS_setgid, [group + 1, 0, 0, 0, 0, 0]),
            (libc::SYS_setgroups, [0, 0, 0, 0, 0, 0]),
            (libc::SYS_capset, [user, group, 0, 0, 0, 0]),
        ] {
            assert!(!allows(number, arguments), "{number} {arguments:?}");
        }
    }
}
