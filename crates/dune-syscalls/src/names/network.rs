use super::names;
use linux_raw_sys::net as linux;

names! {
    /// socket(2): `domain`; the family of an address.
    FAMILY "AF_" choice in 0xffff_ffff [AF_UNSPEC, AF_UNIX, AF_INET, AF_AX25, AF_IPX, AF_APPLETALK, AF_NETROM, AF_BRIDGE, AF_ATMPVC,
        AF_X25, AF_INET6, AF_ROSE, AF_DECnet, AF_NETBEUI, AF_SECURITY, AF_KEY, AF_NETLINK, AF_PACKET, AF_ASH, AF_ECONET, AF_ATMSVC,
        AF_RDS, AF_SNA, AF_IRDA, AF_PPPOX, AF_WANPIPE, AF_LLC, AF_IB = 27, AF_MPLS = 28, AF_CAN, AF_TIPC, AF_BLUETOOTH, AF_IUCV, AF_RXRPC,
        AF_ISDN, AF_PHONET, AF_IEEE802154, AF_CAIF, AF_ALG, AF_NFC, AF_VSOCK, AF_KCM, AF_QIPCRTR, AF_SMC, AF_XDP, AF_MCTP];
    /// socket(2): `type`. The flags are those of open(2).
    SOCKET_TYPE "SOCK_" choice in 0xf [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, SOCK_DCCP = 6, SOCK_PACKET = 10]
        flags [SOCK_CLOEXEC = 0o2000000, SOCK_NONBLOCK = 0o4000];
    /// accept4(2): `flags`.
    SOCKET_FLAGS "SOCK_" flags [SOCK_CLOEXEC = 0o2000000, SOCK_NONBLOCK = 0o4000];
    /// send(2), recv(2): `flags`.
    MESSAGE "MSG_" flags [MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_CTRUNC, MSG_PROBE, MSG_TRUNC, MSG_DONTWAIT, MSG_EOR, MSG_WAITALL,
        MSG_FIN, MSG_SYN, MSG_CONFIRM, MSG_RST, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_MORE, MSG_WAITFORONE = 0x10000, MSG_BATCH = 0x40000, MSG_ZEROCOPY = 0x400_0000,
        MSG_FASTOPEN = 0x2000_0000, MSG_CMSG_CLOEXEC];
    /// shutdown(2): `how`.
    SHUTDOWN "SHUT_" choice in 0xffff_ffff [SHUT_RD, SHUT_WR, SHUT_RDWR];
    /// getsockopt(2): `level`.
    SOCKET_LEVEL "SOL_" choice in 0xffff_ffff [SOL_IP = 0, SOL_SOCKET, SOL_TCP = 6, SOL_UDP = 17, SOL_IPV6 = 41, SOL_RAW = 255,
        SOL_NETLINK = 270];
}
