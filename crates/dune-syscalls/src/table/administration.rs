use super::{calls, variants};
use crate::structures::*;

calls! { Administration:
    63 Forwarded uname(buf: Out(&UTSNAME, One)) -> Number;
    99 Forwarded sysinfo(info: Out(&SYSINFO, One)) -> Number;
    103 Refused syslog(r#type: Int, bufp: Out(&BYTES, Filled(len)), len: Int) -> Count;
    136 Forwarded ustat(dev: Device, ubuf: Out(&USTAT, One)) -> Number;
    139 Refused sysfs(option: Int, arg1: Opaque, arg2: Opaque) -> Number by [&variants::SYSFS];
    153 Refused vhangup() -> Number;
    163 Refused acct(filename: Path) -> Number;
    167 Refused swapon(path: Path, swapflags: Hex) -> Number;
    168 Refused swapoff(path: Path) -> Number;
    169 Refused reboot(magic: Hex, magic2: Hex, op: Hex, arg if is(op, 0xa1b2_c3d4): TextOf(256)) -> Number;
    170 Refused sethostname(name: In(&BYTES, AtMost(len, 64)), len: Int) -> Number;
    171 Refused setdomainname(name: In(&BYTES, AtMost(len, 64)), len: Int) -> Number;
    175 Refused init_module(module_image: In(&BYTES, Count(len)), len: Size, param_values: Text) -> Number;
    176 Refused delete_module(name: TextOf(56), flags: Hex) -> Number;
    179 Refused quotactl(cmd: Hex, special: Path, id: Unsigned, addr: Opaque) -> Number by [&variants::QUOTACTL];
    246 Refused kexec_load(entry: LongHex, nr_segments: Size, segments: In(&KEXEC_SEGMENT, AtMost(nr_segments, 16)), flags: LongHex) -> Number;
    313 Refused finit_module(fd: Fd, param_values: Text, flags: Hex) -> Number;
    320 Refused kexec_file_load(kernel_fd: Fd, initrd_fd: OptionalFd, cmdline_len: Size, cmdline: In(&BYTES, AtMost(cmdline_len, 2048)), flags: LongHex) -> Number;
    443 Refused quotactl_fd(fd: Fd, cmd: Hex, id: Unsigned, addr: Opaque) -> Number by [&variants::QUOTACTL_FD];
}
