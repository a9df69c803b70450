use super::calls;
use crate::names::*;
use crate::structures::*;

calls! { Memory:
    9 Supervised mmap(addr: Place(length), length: Size, prot: LongFlags(&PROTECTION), flags: LongFlags(&MAP), fd if unless(flags, 0x20): OptionalFd, offset: LongHex) -> Address;
    10 Supervised mprotect(addr: Place(len), len: Size, prot: LongFlags(&PROTECTION)) -> Number;
    11 Supervised munmap(addr: Place(length), length: Size) -> Number;
    12 Supervised brk(addr: Somewhere) -> Address;
    25 Supervised mremap(old_address: Place(old_size), old_size: Size, new_size: Size, flags: LongFlags(&MREMAP), new_address if any(flags, 6): Place(new_size)) -> Address;
    26 Forwarded msync(addr: Place(length), length: Size, flags: Flags(&MSYNC)) -> Number;
    27 Forwarded mincore(addr: Place(length), length: Size, vec: Out(&BYTES, PagesOf(length))) -> Number;
    28 Supervised madvise(addr: Place(length), length: Size, advice: Flags(&ADVICE)) -> Number;
    149 Forwarded mlock(addr: Place(len), len: Size) -> Number;
    150 Forwarded munlock(addr: Place(len), len: Size) -> Number;
    // They would reach the supervisor's pages, too.
    151 Supervised mlockall(flags: Flags(&MLOCKALL)) -> Number;
    152 Supervised munlockall() -> Number;
    216 Supervised remap_file_pages(addr: Place(size), size: Size, prot: LongFlags(&PROTECTION), pgoff: UnsignedLong, flags: LongFlags(&MAP)) -> Number;
    237 Forwarded mbind(addr: Place(len), len: Size, mode: UnsignedLong, nodemask: In(&BYTES, NodeBits(maxnode)), maxnode: Size, flags: Hex) -> Number;
    238 Forwarded set_mempolicy(mode: Int, nodemask: In(&BYTES, NodeBits(maxnode)), maxnode: Size) -> Number;
    239 Forwarded get_mempolicy(mode: Out(&INT, One), nodemask: Out(&BYTES, NodeBits(maxnode)), maxnode: Size, addr: Somewhere, flags: LongHex) -> Number;
    // Of any process of the same user.
    256 Refused migrate_pages(pid: Pid, maxnode: Size, old_nodes: In(&BYTES, NodeBits(maxnode)), new_nodes: In(&BYTES, NodeBits(maxnode))) -> Count;
    279 Refused move_pages(pid: Pid, count: Size, pages: In(&FOREIGN_ADDRESS, Count(count)), nodes: In(&INT, Count(count)), status: Out(&INT, Count(count)), flags: Hex) -> Count;
    325 Forwarded mlock2(addr: Place(len), len: Size, flags: Flags(&MLOCK)) -> Number;
    329 Supervised pkey_mprotect(addr: Place(len), len: Size, prot: LongFlags(&PROTECTION), pkey: Int) -> Number;
    330 Supervised pkey_alloc(flags: LongHex, access_rights: LongHex) -> Number;
    331 Supervised pkey_free(pkey: Int) -> Number;
    440 Refused process_madvise(pidfd: Fd, iovec: In(&IOVEC_FOREIGN, AtMost(vlen, 1024)), vlen: Size, advice: Flags(&ADVICE), flags: Hex) -> Count;
    448 Refused process_mrelease(pidfd: Fd, flags: Hex) -> Number;
    450 Forwarded set_mempolicy_home_node(start: Place(len), len: Size, home_node: UnsignedLong, flags: LongHex) -> Number;
    453 Refused map_shadow_stack(addr: Place(size), size: Size, flags: Hex) -> Address;
    462 Supervised mseal(addr: Place(len), len: Size, flags: LongHex) -> Number;
}
