//! `<asm-generic/ioctls.h>`, `<linux/fs.h>`, `<linux/blkdev.h>`, `<linux/sockios.h>`, `<linux/nsfs.h>`: the requests of ioctl(2) that ordinary
//! programs make, and some that are refused by name. All others are refused without one.

use crate::structures::*;
use linux_raw_sys::ioctl as linux;

/// `treatment NAME(its argument);`
macro_rules! requests {
    ($($(#[$about:meta])* $table:ident {
        $($treatment:ident $name:ident $(= $number:literal)? ($($argument:ident: $kind:expr)?) $(-> $outcome:ident)?;)*
    })*) => {$(
        $crate::table::forms! {
            $(#[$about])*
            $table by 1 & 0xffff_ffff >> 0: {
                $($crate::names::value!($name $($number)?) => $treatment $name(fd: Fd, request: Hex $(, $argument: $kind)?) -> Number;)*
            }
        }
    )*};
}

requests! {
    /// Terminals, and what all descriptors have.
    IOCTL {
        Forwarded TCGETS(argp: Out(&TERMIOS, One));
        Forwarded TCSETS(argp: In(&TERMIOS, One));
        Forwarded TCSETSW(argp: In(&TERMIOS, One));
        Forwarded TCSETSF(argp: In(&TERMIOS, One));
        Forwarded TCGETA(argp: Out(&TERMIO, One));
        Forwarded TCSETA(argp: In(&TERMIO, One));
        Forwarded TCSETAW(argp: In(&TERMIO, One));
        Forwarded TCSETAF(argp: In(&TERMIO, One));
        Forwarded TCSBRK(arg: Int);
        Forwarded TCXONC(arg: Int);
        Forwarded TCFLSH(arg: Int);
        Forwarded TIOCEXCL();
        Forwarded TIOCNXCL();
        Forwarded TIOCSCTTY(arg: Int);
        Forwarded TIOCGPGRP(argp: Out(&INT, One));
        Forwarded TIOCSPGRP(argp: In(&INT, One));
        Forwarded TIOCOUTQ(argp: Out(&INT, One));
        // It types into the terminal, for whoever reads it next.
        Refused TIOCSTI(argp: In(&BYTES, One));
        Forwarded TIOCGWINSZ(argp: Out(&WINSIZE, One));
        Forwarded TIOCSWINSZ(argp: In(&WINSIZE, One));
        Forwarded TIOCMGET(argp: Out(&INT, One));
        Forwarded TIOCMBIS(argp: In(&INT, One));
        Forwarded TIOCMBIC(argp: In(&INT, One));
        Forwarded TIOCMSET(argp: In(&INT, One));
        Forwarded TIOCGSOFTCAR(argp: Out(&INT, One));
        Forwarded TIOCSSOFTCAR(argp: In(&INT, One));
        Forwarded FIONREAD(argp: Out(&INT, One));
        // Pastes what is selected on a virtual console.
        Refused TIOCLINUX(argp: Opaque);
        Refused TIOCCONS();
        Forwarded TIOCPKT(argp: In(&INT, One));
        Forwarded FIONBIO(argp: In(&INT, One));
        Forwarded TIOCNOTTY();
        Refused TIOCSETD(argp: In(&INT, One));
        Forwarded TIOCGETD(argp: Out(&INT, One));
        Forwarded TCSBRKP(arg: Int);
        Forwarded TIOCGSID(argp: Out(&INT, One));
        Forwarded TCGETS2(argp: Out(&TERMIOS2, One));
        Forwarded TCSETS2(argp: In(&TERMIOS2, One));
        Forwarded TCSETSW2(argp: In(&TERMIOS2, One));
        Forwarded TCSETSF2(argp: In(&TERMIOS2, One));
        Forwarded TIOCGPTN(argp: Out(&UNSIGNED, One));
        Forwarded TIOCSPTLCK(argp: In(&INT, One));
        Forwarded TIOCGPTLCK(argp: Out(&INT, One));
        // It opens the other end of a pseudoterminal.
        Forwarded TIOCGPTPEER(flags: Flags(&crate::names::OPEN));
        Forwarded TIOCGDEV(argp: Out(&UNSIGNED, One));
        Forwarded TIOCGPKT(argp: Out(&INT, One));
        Forwarded TIOCGEXCL(argp: Out(&INT, One));
        Forwarded TIOCSIG(sig: Signal);
        Refused TIOCVHANGUP();
        Forwarded FIONCLEX();
        Forwarded FIOCLEX();
        Forwarded FIOASYNC(argp: In(&INT, One));
        Forwarded FIOQSIZE(argp: Out(&OFFSET, One));
    }
    /// Files and block devices.
    IOCTL_BLOCK {
        // The headers say long, Linux reads and writes int.
        Forwarded FS_IOC_GETFLAGS(argp: Out(&INT, One));
        Forwarded FS_IOC_SETFLAGS(argp: In(&INT, One));
        Forwarded FS_IOC_GETVERSION(argp: Out(&INT, One));
        Forwarded FS_IOC_SETVERSION(argp: In(&INT, One));
        Forwarded FS_IOC_FSGETXATTR(argp: Out(&FSXATTR, One));
        Forwarded FS_IOC_FSSETXATTR(argp: In(&FSXATTR, One));
        Refused FIBMAP(argp: InOut(&INT, One));
        Forwarded FIGETBSZ(argp: Out(&INT, One));
        Refused FIFREEZE();
        Refused FITHAW();
        Refused FITRIM(argp: InOut(&FSTRIM_RANGE, One));
        Forwarded FICLONE(src_fd: Fd);
        Forwarded FICLONERANGE(argp: In(&FILE_CLONE_RANGE, One));
        Refused BLKROSET(argp: In(&INT, One));
        Forwarded BLKROGET(argp: Out(&INT, One));
        Refused BLKRRPART();
        Forwarded BLKGETSIZE(argp: Out(&LONG, One));
        Refused BLKFLSBUF();
        Forwarded BLKSSZGET(argp: Out(&INT, One));
        Forwarded BLKBSZGET(argp: Out(&INT, One));
        Forwarded BLKGETSIZE64(argp: Out(&LONG, One));
        Forwarded BLKIOMIN(argp: Out(&UNSIGNED, One));
        Forwarded BLKIOOPT(argp: Out(&UNSIGNED, One));
        Forwarded BLKALIGNOFF(argp: Out(&INT, One));
        Forwarded BLKPBSZGET(argp: Out(&UNSIGNED, One));
        Forwarded BLKDISCARDZEROES(argp: Out(&UNSIGNED, One));
        Forwarded BLKROTATIONAL(argp: Out(&SHORT, One));
        Refused BLKDISCARD(argp: In(&LONG, Exactly(2)));
        Refused BLKSECDISCARD(argp: In(&LONG, Exactly(2)));
        Refused BLKZEROOUT(argp: In(&LONG, Exactly(2)));
    }
    /// Sockets and network interfaces. What changes these needs CAP_NET_ADMIN.
    IOCTL_SOCKET {
        Forwarded SIOCGIFNAME(argp: InOut(&IFREQ, One));
        Forwarded SIOCGIFCONF(argp: InOut(&IFCONF, One));
        Forwarded SIOCGIFFLAGS(argp: InOut(&IFREQ, One));
        Refused SIOCSIFFLAGS(argp: In(&IFREQ, One));
        Forwarded SIOCGIFADDR(argp: InOut(&IFREQ, One));
        Refused SIOCSIFADDR(argp: In(&IFREQ, One));
        Forwarded SIOCGIFDSTADDR(argp: InOut(&IFREQ, One));
        Forwarded SIOCGIFBRDADDR(argp: InOut(&IFREQ, One));
        Forwarded SIOCGIFNETMASK(argp: InOut(&IFREQ, One));
        Refused SIOCSIFNETMASK(argp: In(&IFREQ, One));
        Forwarded SIOCGIFMETRIC(argp: InOut(&IFREQ, One));
        Forwarded SIOCGIFMTU(argp: InOut(&IFREQ, One));
        Refused SIOCSIFMTU(argp: In(&IFREQ, One));
        Forwarded SIOCGIFHWADDR(argp: InOut(&IFREQ, One));
        Forwarded SIOCGIFINDEX(argp: InOut(&IFREQ, One));
        Forwarded SIOCGIFTXQLEN(argp: InOut(&IFREQ, One));
        Forwarded SIOCGIFMAP(argp: InOut(&IFREQ, One));
        Forwarded SIOCGARP(argp: InOut(&ARPREQ, One));
        Forwarded SIOCGPGRP(argp: Out(&INT, One));
        Forwarded SIOCSPGRP(argp: In(&INT, One));
        Forwarded SIOCATMARK(argp: Out(&INT, One));
    }
    /// Refused, with a name for the log: what they take has addresses or descriptors in it, or lengths that the table has no word for.
    IOCTL_REFUSED {
        Refused FIDEDUPERANGE(argp: Opaque);
        Refused FS_IOC_FIEMAP(argp: Opaque);
        Refused SIOCADDRT(argp: Opaque);
        Refused SIOCDELRT(argp: Opaque);
        // <linux/sockios.h>
        Refused SIOCETHTOOL = 0x8946 (argp: Opaque);
        // <linux/kvm.h>
        Refused KVM_GET_API_VERSION = 0xae00 ();
        Refused KVM_CREATE_VM = 0xae01 (r#type: UnsignedLong);
        Refused KVM_CREATE_VCPU = 0xae41 (id: UnsignedLong);
        Refused KVM_RUN = 0xae80 ();
        Refused NS_GET_USERNS();
        Refused NS_GET_PARENT();
    }
}
