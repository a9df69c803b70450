//! `<asm-generic/socket.h>`, `<linux/tcp.h>`, `<linux/sctp.h>`, `<linux/netfilter_ipv4/ip_tables.h>`: the options that have addresses or
//! descriptors in their values. All others are bytes.

use crate::names::SOCKET_LEVEL;
use crate::structures::*;
use crate::table::forms;
use linux_raw_sys::net as linux;

forms! {
    /// setsockopt(2), SOL_SOCKET
    SETSOCKOPT by 2 & 0xffff_ffff >> 0 where 1 is 1: {
        linux::SO_ATTACH_FILTER => Forwarded SO_ATTACH_FILTER(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: In(&SOCK_FPROG, One), optlen: SocketLength) -> Number;
        linux::SO_ATTACH_REUSEPORT_CBPF => Forwarded SO_ATTACH_REUSEPORT_CBPF(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: In(&SOCK_FPROG, One), optlen: SocketLength) -> Number;
        linux::SO_ATTACH_BPF => Refused SO_ATTACH_BPF(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: In(&DESCRIPTOR, One), optlen: SocketLength) -> Number;
        linux::SO_ATTACH_REUSEPORT_EBPF => Refused SO_ATTACH_REUSEPORT_EBPF(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: In(&DESCRIPTOR, One), optlen: SocketLength) -> Number;
    }
    /// setsockopt(2), SOL_SCTP
    SETSOCKOPT_SCTP by 2 & 0 >> 0 where 1 is 132: {
        0 => Refused SOL_SCTP(sockfd: Fd, level: Int, optname: Int, optval: Opaque, optlen: SocketLength) -> Number;
    }
    /// setsockopt(2), SOL_IP: IPT_SO_SET_REPLACE and ARPT_SO_SET_REPLACE have addresses.
    SETSOCKOPT_IP by 2 & 0xffff_ffe0 >> 0 where 1 is 0: {
        64 => Refused IPT_SO_SET_REPLACE(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: Opaque, optlen: SocketLength) -> Number;
        96 => Refused ARPT_SO_SET_REPLACE(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: Opaque, optlen: SocketLength) -> Number;
        128 => Refused EBT_SO_SET_ENTRIES(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: Opaque, optlen: SocketLength) -> Number;
    }
    /// setsockopt(2), SOL_IPV6: 64 is IP6T_SO_SET_REPLACE. Options like IPV6_TCLASS (67) are not for Netfilter.
    SETSOCKOPT_IPV6 by 2 & 0xffff_ffff >> 0 where 1 is 41: {
        64 => Refused IP6T_SO_SET_REPLACE(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: Opaque, optlen: SocketLength) -> Number;
        65 => Refused IP6T_SO_SET_ADD_COUNTERS(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: Opaque, optlen: SocketLength) -> Number;
    }
    /// getsockopt(2), SOL_TCP
    GETSOCKOPT_TCP by 2 & 0xffff_ffff >> 0 where 1 is 6: {
        linux::TCP_ZEROCOPY_RECEIVE => Refused TCP_ZEROCOPY_RECEIVE(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: InOut(&TCP_ZEROCOPY_RECEIVE, One), optlen: InOut(&INT, One)) -> Number;
    }
    /// getsockopt(2), SOL_SCTP: SCTP_SOCKOPT_CONNECTX3 has an address, SCTP_SOCKOPT_PEELOFF opens a descriptor.
    GETSOCKOPT_SCTP by 2 & 0 >> 0 where 1 is 132: {
        0 => Refused SOL_SCTP(sockfd: Fd, level: Int, optname: Int, optval: Opaque, optlen: InOut(&INT, One)) -> Number;
    }
}
