use super::{calls, variants};
use crate::build::In;
use crate::kind::{Kind, Length};
use crate::names::*;
use crate::structures::*;

/// The size is in the structure (fs/namespace.c, copy_mnt_id_req).
const REQUEST: Kind = In(&MNT_ID_REQ_SIZE, Length::Own { at: 0, plus: 0, default: 0, most: 4096 });

calls! { Mount:
    155 Refused pivot_root(new_root: Path, put_old: Path) -> Number;
    // What `data` is depends on the file system: a string, or a structure of at most a page.
    165 Refused mount(source: Path, target: Path, filesystemtype: TextOf(4096), mountflags: LongFlags(&MOUNT), data: Opaque) -> Number;
    166 Refused umount2(target: Path, flags: Flags(&UNMOUNT)) -> Number;
    428 Refused open_tree(dirfd: Directory, filename: PathAt(dirfd), flags: Hex) -> Descriptor;
    429 Refused move_mount(from_dirfd: Directory, from_pathname: PathAt(from_dirfd), to_dirfd: Directory, to_pathname: PathAt(to_dirfd), flags: Hex) -> Number;
    430 Refused fsopen(fs_name: TextOf(4096), flags: Hex) -> Descriptor;
    431 Refused fsconfig(fd: Fd, cmd: Unsigned, key: TextOf(256), value: Opaque, aux: OptionalFd) -> Number by [&variants::FSCONFIG];
    432 Refused fsmount(fs_fd: Fd, flags: Hex, attr_flags: Hex) -> Descriptor;
    433 Refused fspick(dirfd: Directory, path: PathAt(dirfd), flags: Hex) -> Descriptor;
    442 Refused mount_setattr(dirfd: Directory, pathname: PathAt(dirfd), flags: Hex, attr: In(&MOUNT_ATTR, Extensible(size)), size: Size) -> Number;
    // They tell of mounts that the program does not see.
    457 Refused statmount(req: REQUEST, buf: Out(&STATMOUNT, Count(bufsize)), bufsize: Size, flags: Hex) -> Number;
    458 Refused listmount(req: REQUEST, mnt_ids: Out(&LONG, Filled(nr_mnt_ids)), nr_mnt_ids: Size, flags: Hex) -> Count;
    // Newer than Linux 6.12.
    467 Refused open_tree_attr(dirfd: Directory, filename: PathAt(dirfd), flags: Hex, attr: In(&MOUNT_ATTR, Extensible(size)), size: Size) -> Descriptor;
}
