//! What calls hand to descriptors.

use dune_syscalls::{Output, all};

#[test]
fn all_that_write_are_found() {
    let found: Vec<_> = all().filter(|call| call.form.output().is_some()).map(|call| call.name()).collect();
    let expected = [
        "write",
        "pwrite64",
        "writev",
        "sendfile",
        "sendto",
        "sendmsg",
        "splice",
        "tee",
        "vmsplice",
        "pwritev",
        "sendmmsg",
        "copy_file_range",
        "pwritev2",
    ];
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(found), sorted(expected.to_vec()));
}

/// Calls of which an argument says how much, with the argument.
#[test]
fn lengths_are_arguments() {
    for (name, length) in [("write", 2), ("sendto", 2), ("splice", 4), ("tee", 2), ("copy_file_range", 4)] {
        let form = &dune_syscalls::by_name(name).expect("a call").form;
        let output = form.output();
        assert!(
            matches!(output, Some(Output::Bytes { length: own, .. }) if own == length),
            "{name} {output:?}"
        );
    }
}
