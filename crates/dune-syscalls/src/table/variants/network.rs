//! `<asm-generic/socket.h>`, `<linux/in.h>`, `<linux/in6.h>`, `<linux/tcp.h>`, `<linux/udp.h>`, `<linux/netlink.h>`, `<linux/tls.h>`: families of
//! sockets, and the options whose values are bytes, as many as the length says. All others are refused: to each level its protocol gives
//! another meaning, and some options have addresses in their values (MPTCP_FULL_INFO, IPT_SO_SET_REPLACE), or Linux writes more than the
//! length says (TCP_AO_GET_KEYS: as many times as the value says; MCAST_MSFILTER; SO_GET_FILTER, which counts instructions).

use crate::names::{FAMILY, SOCKET_LEVEL, SOCKET_TYPE};
use crate::structures::*;
use crate::table::forms;
use linux_raw_sys::net as linux;

forms! {
    /// socket(2)
    SOCKET by 0 & 0xffff_ffff >> 0: {
        1 => Forwarded AF_UNIX(domain: Flags(&FAMILY), r#type: Flags(&SOCKET_TYPE), protocol: Int) -> Descriptor;
        2 => Forwarded AF_INET(domain: Flags(&FAMILY), r#type: Flags(&SOCKET_TYPE), protocol: Int) -> Descriptor;
        10 => Forwarded AF_INET6(domain: Flags(&FAMILY), r#type: Flags(&SOCKET_TYPE), protocol: Int) -> Descriptor;
        16 => Forwarded AF_NETLINK(domain: Flags(&FAMILY), r#type: Flags(&SOCKET_TYPE), protocol: Int) -> Descriptor;
    }
    /// socketpair(2)
    SOCKETPAIR by 0 & 0xffff_ffff >> 0: {
        1 => Forwarded AF_UNIX(domain: Flags(&FAMILY), r#type: Flags(&SOCKET_TYPE), protocol: Int, sv: Out(&DESCRIPTOR, Exactly(2))) -> Number;
    }
    /// setsockopt(2), SOL_SOCKET: those that are more than bytes.
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

/// `level: both { options that are set and asked for } set { those that are only set }`, by their names in the headers.
macro_rules! options {
    ($($(#[$about:meta])* $set:ident $get:ident $level:literal:
        both { $($both:ident $(= $number:literal)?)* }
        set { $($only:ident $(= $value:literal)?)* }
    )*) => {$(
        $crate::table::forms! {
            $(#[$about])*
            $set by 2 & 0xffff_ffff >> 0 where 1 is $level: {
                $($crate::names::value!($both $($number)?) => Forwarded $both(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: In(&BYTES, Count(optlen)), optlen: SocketLength) -> Number;)*
                $($crate::names::value!($only $($value)?) => Forwarded $only(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: In(&BYTES, Count(optlen)), optlen: SocketLength) -> Number;)*
            }
            $(#[$about])*
            $get by 2 & 0xffff_ffff >> 0 where 1 is $level: {
                $($crate::names::value!($both $($number)?) => Forwarded $both(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: InOut(&BYTES, Stored(optlen)), optlen: InOut(&INT, One)) -> Number;)*
            }
        }
    )*};
}

options! {
    /// SOL_SOCKET
    SET_SOCKET GET_SOCKET 1:
        both {
            SO_DEBUG SO_REUSEADDR SO_TYPE SO_ERROR SO_DONTROUTE SO_BROADCAST SO_SNDBUF SO_RCVBUF SO_KEEPALIVE SO_OOBINLINE SO_NO_CHECK
            SO_PRIORITY SO_LINGER SO_BSDCOMPAT SO_REUSEPORT SO_PASSCRED SO_PEERCRED SO_RCVLOWAT SO_SNDLOWAT SO_RCVTIMEO_OLD SO_SNDTIMEO_OLD
            SO_BINDTODEVICE SO_DETACH_FILTER SO_PEERNAME SO_TIMESTAMP_OLD SO_ACCEPTCONN SO_PEERSEC SO_SNDBUFFORCE SO_RCVBUFFORCE SO_PASSSEC
            SO_TIMESTAMPNS_OLD SO_MARK SO_TIMESTAMPING_OLD SO_PROTOCOL SO_DOMAIN SO_RXQ_OVFL SO_WIFI_STATUS SO_PEEK_OFF SO_NOFCS
            SO_LOCK_FILTER SO_SELECT_ERR_QUEUE SO_BUSY_POLL SO_MAX_PACING_RATE SO_BPF_EXTENSIONS SO_INCOMING_CPU SO_CNX_ADVICE SO_MEMINFO
            SO_INCOMING_NAPI_ID SO_COOKIE SO_PEERGROUPS SO_ZEROCOPY SO_TXTIME SO_BINDTOIFINDEX SO_TIMESTAMP_NEW SO_TIMESTAMPNS_NEW
            SO_TIMESTAMPING_NEW SO_RCVTIMEO_NEW SO_SNDTIMEO_NEW SO_DETACH_REUSEPORT_BPF SO_PREFER_BUSY_POLL SO_BUSY_POLL_BUDGET
            SO_NETNS_COOKIE SO_BUF_LOCK SO_RESERVE_MEM SO_TXREHASH SO_RCVMARK SO_PASSPIDFD = 76 SO_PEERPIDFD = 77
        }
        set {}
    /// SOL_IP
    SET_IP GET_IP 0:
        both {
            IP_TOS IP_TTL IP_HDRINCL IP_OPTIONS IP_ROUTER_ALERT IP_RECVOPTS IP_RETOPTS IP_PKTINFO IP_PKTOPTIONS IP_MTU_DISCOVER IP_RECVERR
            IP_RECVTTL IP_RECVTOS IP_MTU IP_FREEBIND IP_PASSSEC IP_TRANSPARENT IP_RECVORIGDSTADDR IP_MINTTL IP_NODEFRAG IP_CHECKSUM
            IP_BIND_ADDRESS_NO_PORT IP_RECVFRAGSIZE IP_RECVERR_RFC4884 IP_MULTICAST_IF IP_MULTICAST_TTL IP_MULTICAST_LOOP IP_MULTICAST_ALL
            IP_UNICAST_IF IP_LOCAL_PORT_RANGE IP_PROTOCOL = 52 SO_ORIGINAL_DST = 80
        }
        set {
            IP_ADD_MEMBERSHIP IP_DROP_MEMBERSHIP IP_UNBLOCK_SOURCE IP_BLOCK_SOURCE IP_ADD_SOURCE_MEMBERSHIP IP_DROP_SOURCE_MEMBERSHIP
            IP_MSFILTER MCAST_JOIN_GROUP MCAST_BLOCK_SOURCE MCAST_UNBLOCK_SOURCE MCAST_LEAVE_GROUP MCAST_JOIN_SOURCE_GROUP
            MCAST_LEAVE_SOURCE_GROUP MCAST_MSFILTER
        }
    /// SOL_IPV6
    SET_IPV6 GET_IPV6 41:
        both {
            IPV6_ADDRFORM IPV6_2292PKTINFO IPV6_2292HOPOPTS IPV6_2292DSTOPTS IPV6_2292RTHDR IPV6_2292PKTOPTIONS IPV6_CHECKSUM
            IPV6_2292HOPLIMIT IPV6_NEXTHOP IPV6_FLOWINFO IPV6_UNICAST_HOPS IPV6_MULTICAST_IF IPV6_MULTICAST_HOPS IPV6_MULTICAST_LOOP
            IPV6_ROUTER_ALERT IPV6_MTU_DISCOVER IPV6_MTU IPV6_RECVERR IPV6_V6ONLY IPV6_MULTICAST_ALL IPV6_ROUTER_ALERT_ISOLATE
            IPV6_RECVERR_RFC4884 IPV6_FLOWLABEL_MGR IPV6_FLOWINFO_SEND IPV6_HDRINCL IPV6_RECVPKTINFO IPV6_PKTINFO IPV6_RECVHOPLIMIT
            IPV6_HOPLIMIT IPV6_RECVHOPOPTS IPV6_HOPOPTS IPV6_RTHDRDSTOPTS IPV6_RECVRTHDR IPV6_RTHDR IPV6_RECVDSTOPTS IPV6_DSTOPTS
            IPV6_RECVPATHMTU IPV6_PATHMTU IPV6_DONTFRAG IPV6_RECVTCLASS IPV6_TCLASS IPV6_AUTOFLOWLABEL IPV6_ADDR_PREFERENCES
            IPV6_MINHOPCOUNT IPV6_RECVORIGDSTADDR IPV6_TRANSPARENT IPV6_UNICAST_IF IPV6_RECVFRAGSIZE IPV6_FREEBIND
            IP6T_SO_ORIGINAL_DST = 80
        }
        set {
            IPV6_ADD_MEMBERSHIP IPV6_DROP_MEMBERSHIP IPV6_JOIN_ANYCAST IPV6_LEAVE_ANYCAST MCAST_JOIN_GROUP MCAST_BLOCK_SOURCE
            MCAST_UNBLOCK_SOURCE MCAST_LEAVE_GROUP MCAST_JOIN_SOURCE_GROUP MCAST_LEAVE_SOURCE_GROUP MCAST_MSFILTER
        }
    /// SOL_TCP
    SET_TCP GET_TCP 6:
        both {
            TCP_NODELAY TCP_MAXSEG TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2 TCP_DEFER_ACCEPT TCP_WINDOW_CLAMP
            TCP_INFO TCP_QUICKACK TCP_CONGESTION TCP_MD5SIG TCP_THIN_LINEAR_TIMEOUTS TCP_THIN_DUPACK TCP_USER_TIMEOUT TCP_REPAIR
            TCP_REPAIR_QUEUE TCP_QUEUE_SEQ TCP_REPAIR_OPTIONS TCP_FASTOPEN TCP_TIMESTAMP TCP_NOTSENT_LOWAT TCP_CC_INFO TCP_SAVE_SYN
            TCP_SAVED_SYN TCP_REPAIR_WINDOW TCP_FASTOPEN_CONNECT TCP_ULP TCP_MD5SIG_EXT TCP_FASTOPEN_KEY TCP_FASTOPEN_NO_COOKIE TCP_INQ
            TCP_TX_DELAY TCP_IS_MPTCP = 43
        }
        set {}
    /// SOL_UDP
    SET_UDP GET_UDP 17:
        both { UDP_CORK = 1 UDP_NO_CHECK6_TX = 101 UDP_NO_CHECK6_RX = 102 UDP_SEGMENT = 103 UDP_GRO = 104 }
        set {}
    /// SOL_ICMPV6
    SET_ICMPV6 GET_ICMPV6 58:
        both { ICMPV6_FILTER = 1 }
        set {}
    /// SOL_RAW
    SET_RAW GET_RAW 255:
        both { ICMP_FILTER = 1 }
        set {}
    /// SOL_NETLINK
    SET_NETLINK GET_NETLINK 270:
        both {
            NETLINK_ADD_MEMBERSHIP = 1 NETLINK_DROP_MEMBERSHIP = 2 NETLINK_PKTINFO = 3 NETLINK_BROADCAST_ERROR = 4 NETLINK_NO_ENOBUFS = 5
            NETLINK_LISTEN_ALL_NSID = 8 NETLINK_LIST_MEMBERSHIPS = 9 NETLINK_CAP_ACK = 10 NETLINK_EXT_ACK = 11 NETLINK_GET_STRICT_CHK = 12
        }
        set {}
    /// SOL_TLS
    SET_TLS GET_TLS 282:
        both { TLS_TX = 1 TLS_RX = 2 TLS_TX_ZEROCOPY_RO = 3 TLS_RX_EXPECT_NO_PAD = 4 }
        set {}
}
