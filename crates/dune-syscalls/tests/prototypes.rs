//! The arguments of the table are those of Linux 6.12's own prototypes.

use dune_syscalls::kind::{Kind, Value};
use dune_syscalls::{Class, Field, Treatment};
use std::collections::BTreeMap;

static PROTOTYPES: &str = include_str!("linux-6.12-prototypes.txt");

fn prototypes() -> BTreeMap<&'static str, &'static str> {
    let lines = PROTOTYPES.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, types)| (name, types.trim_matches('-')))
        .collect()
}

/// Whether a field can be what the prototype says.
fn fits(field: &Field, of_prototype: char) -> bool {
    match field.kind {
        // An address, by whatever type: `unsigned long` for those that are not dereferenced, and for multiplexers.
        Kind::Path { .. } | Kind::Text { .. } | Kind::Pointer(_) => of_prototype == 'p',
        Kind::Place { .. } | Kind::Kept { .. } | Kind::Foreign | Kind::Opaque => !"iI".contains(of_prototype),
        // readv(2) and its like take `unsigned long`, of which Linux uses 32 bits (fs/read_write.c); mmap(2) as well.
        Kind::Descriptor(_) => "iuU".contains(of_prototype),
        // ptrace(2) takes a `long` that it uses as a `pid_t`.
        Kind::Value(Value::Pid) => "iI".contains(of_prototype),
        Kind::Value(value) => match (value.width(), value.is_signed()) {
            // Linux has `unsigned` for some that the manual calls signed, and the other way round: it is the width that counts.
            (4 | 2, _) => "iu".contains(of_prototype),
            (8, true) => "I".contains(of_prototype),
            (8, false) => "U".contains(of_prototype),
            _ => false,
        },
        _ => false,
    }
}

#[test]
fn all_calls_of_linux_have_a_line_with_its_arguments() {
    let prototypes = prototypes();
    assert!(prototypes.len() > 350);
    for (name, types) in &prototypes {
        let call = dune_syscalls::by_name(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_ne!(call.class, Class::Absent, "{name}");
        assert_eq!(call.form.arguments.len(), types.len(), "{name}");
        for (field, of_prototype) in call.form.arguments.iter().zip(types.chars()) {
            assert!(
                fits(field, of_prototype),
                "{name}: {} is {:?}, not {of_prototype}",
                field.name,
                field.kind
            );
        }
    }
}

#[test]
fn what_linux_has_not_is_absent_or_newer() {
    let prototypes = prototypes();
    for call in dune_syscalls::all().filter(|call| !prototypes.contains_key(call.name())) {
        let is_newer = call.number > 462;
        assert!(is_newer || call.form.treatment == Treatment::Absent, "{}", call.name());
    }
}

/// A count that Linux takes as signed is refused where it is negative: the type has to be right for those.
#[test]
fn lengths_have_the_sign_that_they_have_in_linux() {
    use dune_syscalls::kind::Length;
    let prototypes = prototypes();
    for call in dune_syscalls::all() {
        let Some(types) = prototypes.get(call.name()) else { continue };
        for field in call.form.arguments {
            let Kind::Pointer(pointer) = field.kind else { continue };
            let (Length::Count { argument, .. } | Length::Filled { argument, .. }) = pointer.length else {
                continue;
            };
            let length = &call.form.arguments[usize::from(argument)];
            let of_prototype = types.chars().nth(argument.into()).unwrap();
            assert!(matches!(length.kind, Kind::Value(_)), "{}", call.name());
            assert_eq!(
                length.kind.is_signed(),
                of_prototype.is_lowercase() && of_prototype == 'i' || of_prototype == 'I',
                "{}",
                call.name()
            );
        }
    }
}

#[test]
fn variants_only_change_what_the_prototype_leaves_open() {
    for call in dune_syscalls::all() {
        let forms = call.variants.iter().flat_map(|table| table.list);
        for form in forms.map(|variant| &variant.form) {
            assert!(form.arguments.len() <= call.form.arguments.len(), "{}", form.name);
            for (of_form, of_call) in form.arguments.iter().zip(call.form.arguments) {
                let is_descriptor = |field: &Field| matches!(field.kind, Kind::Descriptor(_));
                // What is an address in general is one in all forms, or nothing.
                if let (Kind::Value(value), Kind::Pointer(_)) = (of_form.kind, of_call.kind) {
                    assert_eq!(value.width(), 8, "{} {}", form.name, of_form.name);
                }
                assert!(
                    is_descriptor(of_form) || !is_descriptor(of_call) || call.name() == "fsconfig",
                    "{}",
                    form.name
                );
            }
        }
    }
}

#[test]
fn no_two_forms_of_a_call_have_the_same_value() {
    for table in dune_syscalls::all().flat_map(|call| call.variants) {
        let mut values: Vec<_> = table.list.iter().map(|variant| variant.value).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), table.list.len(), "{}", table.list[0].form.name);
        for variant in table.list {
            assert_eq!(variant.value & !(table.mask >> table.shift), 0, "{}", variant.form.name);
        }
    }
}

#[test]
fn ioctls_have_the_direction_and_size_that_their_numbers_say() {
    use dune_syscalls::kind::Direction;
    let ioctl = dune_syscalls::by_name("ioctl").unwrap();
    let mut checked = 0;
    // Numbers that say what is not so: `long` for `int`, `size_t` for `int` (<linux/fs.h>), `int` that is a flag set by value.
    let wrong = [
        "FS_IOC_GETFLAGS",
        "FS_IOC_SETFLAGS",
        "FS_IOC_GETVERSION",
        "FS_IOC_SETVERSION",
        "BLKBSZGET",
        "FICLONE",
        "TIOCSIG",
        "NS_GET_USERNS",
    ];
    for form in ioctl.variants.iter().flat_map(|table| table.list) {
        // _IOC of <asm-generic/ioctl.h>: 2 bits of direction, 14 of size.
        let (way, size) = (form.value >> 30, form.value >> 16 & 0x3fff);
        let Some(Kind::Pointer(pointer)) = form.form.arguments.get(2).map(|field| field.kind) else {
            continue;
        };
        if way == 0 || wrong.contains(&form.form.name) {
            continue;
        }
        let direction = match way {
            1 => Direction::Read,
            2 => Direction::Write,
            _ => Direction::ReadWrite,
        };
        assert_eq!((pointer.direction, pointer.structure.size), (direction, size), "{}", form.form.name);
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn a_signal_a_user_and_a_mode_are_found_by_type() {
    let has = |name: &str, is: fn(Value) -> bool| dune_syscalls::by_name(name).unwrap().form.argument(is);
    assert_eq!(has("tgkill", |value| matches!(value, Value::Signal)), Some(2));
    assert_eq!(has("chown", |value| matches!(value, Value::Gid)), Some(2));
    assert_eq!(has("openat", |value| matches!(value, Value::Mode)), Some(3));
}
