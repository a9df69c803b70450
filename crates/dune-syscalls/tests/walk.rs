//! What structures name, and that each byte of them is read once.

use dune_syscalls::kind::Direction;
use dune_syscalls::{AccessError, Fault, Memory, RobustEntry, WalkError, What, robust_list};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Bytes at addresses, and how often each has been read.
#[derive(Default)]
struct Arena {
    bytes: BTreeMap<u64, u8>,
    reads: RefCell<BTreeMap<u64, u32>>,
}

impl Arena {
    fn put(&mut self, address: u64, words: &[u64]) {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        self.bytes.extend((address..).zip(bytes));
    }
}

impl Memory for Arena {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        for (at, byte) in (address..).zip(into) {
            *byte = *self.bytes.get(&at).ok_or(Fault { address: at })?;
            *self.reads.borrow_mut().entry(at).or_default() += 1;
        }
        Ok(())
    }
}

/// What was found, in words.
fn walk(name: &str, arguments: [u64; 6], arena: &Arena) -> Result<Vec<String>, WalkError> {
    arena.reads.take();
    let mut all = Vec::new();
    let mut covered = BTreeMap::<u64, u32>::new();
    let form = dune_syscalls::by_name(name).unwrap().form(&arguments);
    form.walk(&arguments, arena, &mut |found| {
        let sign = |direction| match direction {
            Direction::Read => "<",
            Direction::Write => ">",
            Direction::ReadWrite => "<>",
        };
        all.push(match found.what {
            What::Structure { structure, address, bytes, direction } => {
                (address..).zip(bytes).for_each(|(at, _)| *covered.entry(at).or_default() += 1);
                format!("{}{address:x}{}{}", structure.name, sign(direction), bytes.len())
            }
            What::Range { address, length, direction } => {
                (address..address + length.min(4096)).for_each(|at| *covered.entry(at).or_default() += 1);
                format!("{address:x}{}{length}", sign(direction))
            }
            What::Text { address, .. } => format!("text {address:x}"),
            What::Path { address, directory } => format!("path {address:x} {directory:?}"),
            What::Descriptor { number, .. } => format!("fd {number}"),
            What::Place { address, length } => format!("place {address:x} {length}"),
            What::Kept { address, length } => format!("kept {address:x} {length}"),
            What::Opaque { value } => format!("opaque {value:x}"),
            _ => unreachable!(),
        });
        Ok::<(), WalkError>(())
    })?;
    assert!(covered.values().all(|&times| times == 1), "found twice: {covered:x?}");
    let reads = arena.reads.take();
    assert!(reads.values().all(|&times| times == 1), "read twice: {reads:x?}");
    assert!(reads.keys().all(|at| covered.contains_key(at)), "read, and not handed on");
    Ok(all)
}

#[test]
fn a_message_to_be_sent_names_all_its_parts_and_descriptors() {
    let mut arena = Arena::default();
    // struct msghdr: name and length, two parts, ancillary data, flags.
    arena.put(0x1000, &[0x2000, 16, 0x3000, 2, 0x4000, 24 + 32, 0]);
    arena.put(0x3000, &[0x5000, 10, 0x6000, 20]);
    // Two descriptors (SCM_RIGHTS), then credentials (SCM_CREDENTIALS, 12 bytes and 4 of padding).
    arena.put(0x4000, &[24, 1 << 32 | 1, 8 << 32 | 7, 28, 2 << 32 | 1, 0, 0]);
    assert_eq!(
        walk("sendmsg", [3, 0x1000, 0, 0, 0, 0], &arena).unwrap(),
        [
            "fd 3",
            "msghdr1000<56",
            "2000<16",
            "iovec3000<16",
            "5000<10",
            "iovec3010<16",
            "6000<20",
            "cmsghdr4000<16",
            "fd4010<4",
            "fd 7",
            "fd4014<4",
            "fd 8",
            "cmsghdr4018<16",
            "4028<16"
        ]
    );
}

#[test]
fn ancillary_data_of_other_protocols_is_not_known() {
    let mut arena = Arena::default();
    // RDS_CMSG_RDMA_ARGS of SOL_RDS, which has addresses in it.
    arena.put(0x1000, &[0, 0, 0, 0, 0x4000, 32, 0]);
    arena.put(0x4000, &[32, 1 << 32 | 276, 0x9000, 0]);
    let found = walk("sendmsg", [3, 0x1000, 0, 0, 0, 0], &arena).unwrap();
    assert_eq!(found[2..4], ["cmsghdr4000<16", &format!("opaque {:x}", 276u64 << 32 | 1)], "{found:?}");
}

#[test]
fn a_message_to_be_received_is_written() {
    let mut arena = Arena::default();
    arena.put(0x1000, &[0x2000, 128, 0x3000, 1, 0x4000, 64, 0]);
    arena.put(0x3000, &[0x5000, 10]);
    assert_eq!(
        walk("recvmsg", [3, 0x1000, 0, 0, 0, 0], &arena).unwrap(),
        ["fd 3", "msghdr1000<>56", "2000>128", "iovec3000<16", "5000>10", "4000>64"]
    );
}

#[test]
fn many_messages_are_each_followed() {
    let mut arena = Arena::default();
    arena.put(0x1000, &[0, 0, 0x3000, 1, 0, 0, 0, 0]);
    arena.put(0x1040, &[0, 0, 0x3010, 1, 0, 0, 0, 0]);
    arena.put(0x3000, &[0x5000, 10, 0x6000, 20]);
    assert_eq!(
        walk("sendmmsg", [3, 0x1000, 2, 0, 0, 0], &arena).unwrap(),
        ["fd 3", "mmsghdr1000<>64", "iovec3000<16", "5000<10", "mmsghdr1040<>64", "iovec3010<16", "6000<20"]
    );
}

#[test]
fn lengths_in_memory_are_read_once() {
    let mut arena = Arena::default();
    arena.put(0x2000, &[0xffff_ffff_0000_0010]);
    assert_eq!(
        walk("accept4", [3, 0x1000, 0x2000, 0, 0, 0], &arena).unwrap(),
        ["fd 3", "1000>16", "int2000<>4"]
    );
    arena.put(0x2000, &[u64::MAX]);
    let negative = walk("accept4", [3, 0x1000, 0x2000, 0, 0, 0], &arena).unwrap_err();
    assert!(matches!(negative, WalkError::Access(AccessError::Negative { count: -1, .. })), "{negative}");
    assert_eq!(walk("accept4", [3, 0x1000, 0, 0, 0, 0], &arena), Err(WalkError::Fault(Fault { address: 0 })));
    // Without a buffer nobody asks for a length.
    assert_eq!(walk("accept4", [3, 0, 0, 0, 0, 0], &arena).unwrap(), ["fd 3"]);
}

#[test]
fn programs_have_arguments_up_to_a_null_pointer() {
    let mut arena = Arena::default();
    arena.put(0x1000, &[0x5000, 0x6000, 0, 0x7000]);
    arena.put(0x2000, &[0]);
    assert_eq!(
        walk("execve", [0x4000, 0x1000, 0x2000, 0, 0, 0], &arena).unwrap(),
        [
            "path 4000 None",
            "char *1000<8",
            "text 5000",
            "char *1008<8",
            "text 6000",
            "char *1010<8",
            "char *2000<8"
        ]
    );
    // No end: until memory has one.
    arena.put(0x3ff8, &[0x5000]);
    let fault = walk("execve", [0x4000, 0x3ff8, 0, 0, 0, 0], &arena).unwrap_err();
    assert_eq!((fault, fault.errno()), (WalkError::Fault(Fault { address: 0x4000 }), 14));
}

#[test]
fn a_structure_that_grows_may_be_short_or_long() {
    let mut arena = Arena::default();
    // CLONE_PIDFD | CLONE_INTO_CGROUP.
    arena.put(0x1000, &[0x2_0000_1000, 0x5000, 0x6000, 0x7000, 17, 0x8000, 0x100, 0, 0x9000, 1, 9, 0]);
    assert_eq!(
        walk("clone3", [0x1000, 88, 0, 0, 0, 0], &arena).unwrap(),
        ["clone_args1000<88", "5000>4", "kept 8000 256", "9000<4", "fd 9"]
    );
    // The first version has neither set_tid nor cgroup; what the caller does not know is 0.
    assert_eq!(
        walk("clone3", [0x1000, 64, 0, 0, 0, 0], &arena).unwrap(),
        ["clone_args1000<64", "5000>4", "kept 8000 256", "fd 0"]
    );
    assert_eq!(walk("clone3", [0x1000, 96, 0, 0, 0, 0], &arena).unwrap()[1], "1058<8");
    let large = walk("clone3", [0x1000, 4097, 0, 0, 0, 0], &arena).unwrap_err();
    assert_eq!(large.errno(), 7, "{large}");
}

#[test]
fn a_structure_that_tells_its_size_is_read_in_two_pieces() {
    let mut arena = Arena::default();
    arena.put(0x1000, &[56]);
    let attributes = |arena: &Arena| walk("sched_setattr", [0, 0x1000, 0, 0, 0, 0], arena);
    assert_eq!(attributes(&arena).unwrap(), ["sched_attr1000<>4", "1004<>52"]);
    arena.put(0x1000, &[0]);
    assert_eq!(attributes(&arena).unwrap(), ["sched_attr1000<>4", "1004<>44"]);
    arena.put(0x1000, &[1 << 20]);
    assert_eq!(attributes(&arena).unwrap_err().errno(), 7);
    arena.put(0x1000, &[128]);
    assert_eq!(
        walk("open_by_handle_at", [3, 0x1000, 0, 0, 0, 0], &arena).unwrap(),
        ["fd 3", "file_handle1000<8", "1008<128"]
    );
}

#[test]
fn linux_limits_hold() {
    let arena = Arena::default();
    let error = |name, arguments| walk(name, arguments, &arena).unwrap_err();
    let many = error("writev", [1, 0x1000, 1025, 0, 0, 0]);
    assert!(matches!(many, WalkError::Access(AccessError::TooMany { most: 1024, .. })), "{many}");
    assert_eq!(many.errno(), 22);
    let wrap = error("write", [1, u64::MAX - 4, 6, 0, 0, 0]);
    assert!(matches!(wrap, WalkError::Access(AccessError::Overflow { .. })) && wrap.errno() == 14, "{wrap}");
    // 2^62 elements of 4 bytes are none, modulo 2^64.
    let many = error("move_pages", [0, 1 << 62, 0, 0x1000, 0, 0]);
    assert!(matches!(many, WalkError::Access(AccessError::Overflow { .. })), "{many}");
    let wide = error("poll", [0xffff_ffff_ffff_0000, 1 << 20, 0, 0, 0, 0]);
    assert_eq!(wide.errno(), 14, "{wide}");
    let mut arena = Arena::default();
    arena.put(0x1000, &[0, 0, 0x3000, 1025, 0, 0, 0]);
    assert_eq!(walk("sendmsg", [3, 0x1000, 0, 0, 0, 0], &arena).unwrap_err().errno(), 90);
    arena.put(0x1000, &[0, 0, 0, 0, 0x4000, 16, 0]);
    for wrong in [0, 15, 17, u64::MAX] {
        arena.put(0x4000, &[wrong, 0]);
        let wrong = walk("sendmsg", [3, 0x1000, 0, 0, 0, 0], &arena).unwrap_err();
        assert!(matches!(wrong, WalkError::Control { .. }) && wrong.errno() == 22, "{wrong}");
    }
    // 254 descriptors, one more than SCM_MAX_FD.
    arena.put(0x1000, &[0, 0, 0, 0, 0x4000, 16 + 254 * 4, 0]);
    arena.put(0x4000, &[16 + 254 * 4, 1 << 32 | 1]);
    arena.put(0x4010, &[0; 127]);
    assert_eq!(walk("sendmsg", [3, 0x1000, 0, 0, 0, 0], &arena).unwrap_err().errno(), 22);
}

#[test]
fn forms_have_their_own_types() {
    let mut arena = Arena::default();
    // ioctl(TIOCGWINSZ), FICLONE: by value; futex(FUTEX_WAIT_PRIVATE) and FUTEX_REQUEUE: a time, or a number.
    assert_eq!(walk("ioctl", [0, 0x5413, 0x1000, 0, 0, 0], &arena).unwrap(), ["fd 0", "1000>8"]);
    assert_eq!(walk("ioctl", [0, 0x4004_9409, 5, 0, 0, 0], &arena).unwrap(), ["fd 0", "fd 5"]);
    assert_eq!(walk("ioctl", [0, 0xdead, 5, 0, 0, 0], &arena).unwrap(), ["fd 0", "opaque 5"]);
    assert_eq!(walk("futex", [0x1000, 128, 0, 0x2000, 0x3000, 0], &arena).unwrap(), ["1000<4", "2000<16"]);
    assert_eq!(walk("futex", [0x1000, 131, 0, 1, 0x3000, 0], &arena).unwrap(), ["1000<4", "3000<4"]);
    assert_eq!(walk("waitid", [3, 9, 0, 0, 0, 0], &arena).unwrap(), ["fd 9"]);
    assert_eq!(walk("waitid", [1, 9, 0, 0, 0, 0], &arena).unwrap(), [""; 0]);
    // setsockopt(SO_ATTACH_FILTER): only of SOL_SOCKET.
    arena.put(0x1000, &[2, 0x2000]);
    assert_eq!(
        walk("setsockopt", [3, 1, 26, 0x1000, 16, 0], &arena).unwrap(),
        ["fd 3", "sock_fprog1000<16", "2000<16"]
    );
    assert_eq!(walk("setsockopt", [3, 6, 26, 0x1000, 16, 0], &arena).unwrap(), ["fd 3", "1000<16"]);
    // A pointer that does not count by the flags.
    assert_eq!(walk("clone", [17, 0, 0x1000, 0x2000, 0, 0], &arena).unwrap(), [""; 0]);
    assert_eq!(walk("clone", [0x0010_0011, 0, 0x1000, 0x2000, 0, 0], &arena).unwrap(), ["1000>4"]);
    // mmap: a place, and a descriptor unless it is anonymous.
    assert_eq!(walk("mmap", [0x1000, 99, 0, 2, 7, 0], &arena).unwrap(), ["place 1000 99", "fd 7"]);
    assert_eq!(walk("mmap", [0, 99, 0, 0x22, 7, 0], &arena).unwrap(), ["place 0 99"]);
}

#[test]
fn asynchronous_requests_name_their_buffers() {
    let mut arena = Arena::default();
    arena.put(0x1000, &[0x2000]);
    // struct iocb: PWRITE (1) to descriptor 5 of 100 bytes at 0x3000, telling eventfd 6 (IOCB_FLAG_RESFD).
    arena.put(0x2000, &[0, 0, 5 << 32 | 1, 0x3000, 100, 0, 0, 6 << 32 | 1]);
    assert_eq!(
        walk("io_submit", [7, 1, 0x1000, 0, 0, 0], &arena).unwrap(),
        ["iocb *1000<8", "iocb2000<64", "fd 5", "3000<100", "fd 6"]
    );
}

#[test]
fn robust_futexes_are_followed_as_linux_does() {
    let mut arena = Arena::default();
    // Head: the first link, the offset of the futex word, what is pending. Links: 0x2000, 0x3000 with priority, the head.
    arena.put(0x1000, &[0x2000, 0xffff_ffff_ffff_fff8, 0x4000]);
    arena.put(0x2000, &[0x3001]);
    arena.put(0x3000, &[0x1000]);
    let mut found = Vec::new();
    robust_list(&arena, 0x1000, &mut |entry: RobustEntry| {
        found.push((entry.futex, entry.inherits_priority, entry.is_pending));
    })
    .unwrap();
    assert_eq!(found, [(0x1ff8, false, false), (0x2ff8, true, false), (0x3ff8, false, true)]);
    // A ring without its head ends all the same.
    arena.put(0x3000, &[0x2000]);
    let mut count = 0;
    robust_list(&arena, 0x1000, &mut |_| count += 1).unwrap();
    assert_eq!(count, 2049);
}

#[test]
fn fields_tell_where_an_address_stands() {
    let mut arena = Arena::default();
    // The second of two messages: its header is behind 64 bytes, and within it the parts at 16.
    arena.put(0x1000, &[0, 0, 0x3000, 1, 0, 0, 0, 0]);
    arena.put(0x1040, &[0x2000, 4, 0x3010, 1, 0, 0, 0, 0]);
    arena.put(0x3000, &[0x5000, 10, 0x6000, 20]);
    let call = dune_syscalls::by_name("sendmmsg").unwrap();
    let arguments = [3, 0x1000, 2, 0, 0, 0];
    let mut all = Vec::new();
    call.form(&arguments)
        .walk(&arguments, &arena, &mut |found| {
            all.push((found.depth, found.field));
            Ok::<(), WalkError>(())
        })
        .unwrap();
    assert_eq!(all, [(0, 0), (0, 8), (1, 16), (2, 0), (0, 8), (1, 0), (1, 16), (2, 0)]);
}
