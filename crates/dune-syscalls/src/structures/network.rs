//! `<linux/socket.h>`, `<linux/tcp.h>`, `<linux/if.h>`, `<linux/if_arp.h>`; `struct user_msghdr` and `struct mmsghdr` from Linux's own
//! include/linux/socket.h.

use super::{BYTES, IOVEC_IN, IOVEC_OUT, SOCKADDR, structures};
use crate::kind::Kind;
use crate::names::MESSAGE;

structures! {
    /// To be sent.
    MSGHDR_IN: "msghdr" 56 {
        0 msg_name: In(&SOCKADDR, AtMost(msg_namelen, 0x7fff_ffff)), 8 msg_namelen: SocketLength,
        16 msg_iov: In(&IOVEC_IN, AtMost(msg_iovlen, 1024)), 24 msg_iovlen: Size,
        32 msg_control: In(&BYTES, Control(msg_controllen)), 40 msg_controllen: Size, 48 msg_flags: Flags(&MESSAGE),
    }
    /// To be received.
    MSGHDR_OUT: "msghdr" 56 {
        0 msg_name: Out(&SOCKADDR, AtMost(msg_namelen, 0x7fff_ffff)), 8 msg_namelen: SocketLength,
        16 msg_iov: In(&IOVEC_OUT, AtMost(msg_iovlen, 1024)), 24 msg_iovlen: Size,
        32 msg_control: Out(&BYTES, Count(msg_controllen)), 40 msg_controllen: Size, 48 msg_flags: Flags(&MESSAGE),
    }
    /// `<linux/socket.h>`, what starts each piece of ancillary data.
    CMSGHDR: "cmsghdr" 16 { 0 cmsg_len: Size, 8 cmsg_level: Int, 12 cmsg_type: Int }
    MMSGHDR_IN: "mmsghdr" 64 { 0 msg_hdr: Kind::Inline(&MSGHDR_IN), 56 msg_len: Unsigned }
    MMSGHDR_OUT: "mmsghdr" 64 { 0 msg_hdr: Kind::Inline(&MSGHDR_OUT), 56 msg_len: Unsigned }
    /// `address` is where pages of the socket's get mapped; `copybuf_address` a buffer for the rest.
    TCP_ZEROCOPY_RECEIVE: "tcp_zerocopy_receive" 64 {
        0 address: Place(length), 8 length: Unsigned, 12 recv_skip_hint: Unsigned, 16 inq: Unsigned, 20 err: Int,
        24 copybuf_address: Out(&BYTES, Count(copybuf_len)), 32 copybuf_len: Int, 36 flags: Hex,
        40 msg_control: Out(&BYTES, Count(msg_controllen)), 48 msg_controllen: UnsignedLong, 56 msg_flags: Hex,
    }
    IFREQ: "ifreq" 40 {}
    /// `ifc_buf` may be null: then the call tells the size.
    IFCONF: "ifconf" 16 { 0 ifc_len: Int, 8 ifc_buf: Out(&BYTES, Count(ifc_len)) }
    ARPREQ: "arpreq" 68 {}
}
