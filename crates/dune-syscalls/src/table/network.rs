use super::{calls, variants};
use crate::names::*;
use crate::structures::*;

calls! { Network:
    41 Refused socket(domain: Flags(&FAMILY), r#type: Flags(&SOCKET_TYPE), protocol: Int) -> Descriptor by [&variants::SOCKET];
    42 Forwarded connect(sockfd: Fd, addr: In(&SOCKADDR, Count(addrlen)), addrlen: SocketLength) -> Number;
    43 Forwarded accept(sockfd: Fd, addr: Out(&SOCKADDR, Stored(addrlen)), addrlen: InOut(&INT, One)) -> Descriptor;
    44 Forwarded sendto(sockfd: Fd, buf: In(&BYTES, Count(len)), len: Size, flags: Flags(&MESSAGE), dest_addr: In(&SOCKADDR, Count(addrlen)), addrlen: SocketLength) -> Count;
    45 Forwarded recvfrom(sockfd: Fd, buf: Out(&BYTES, Filled(len)), len: Size, flags: Flags(&MESSAGE), src_addr: Out(&SOCKADDR, Stored(addrlen)), addrlen: InOut(&INT, One)) -> Count;
    46 Forwarded sendmsg(sockfd: Fd, msg: In(&MSGHDR_IN, One), flags: Flags(&MESSAGE)) -> Count;
    47 Forwarded recvmsg(sockfd: Fd, msg: InOut(&MSGHDR_OUT, One), flags: Flags(&MESSAGE)) -> Count;
    48 Forwarded shutdown(sockfd: Fd, how: Flags(&SHUTDOWN)) -> Number;
    49 Forwarded bind(sockfd: Fd, addr: In(&SOCKADDR, Count(addrlen)), addrlen: SocketLength) -> Number;
    50 Forwarded listen(sockfd: Fd, backlog: Int) -> Number;
    51 Forwarded getsockname(sockfd: Fd, addr: Out(&SOCKADDR, Stored(addrlen)), addrlen: InOut(&INT, One)) -> Number;
    52 Forwarded getpeername(sockfd: Fd, addr: Out(&SOCKADDR, Stored(addrlen)), addrlen: InOut(&INT, One)) -> Number;
    53 Refused socketpair(domain: Flags(&FAMILY), r#type: Flags(&SOCKET_TYPE), protocol: Int, sv: Out(&DESCRIPTOR, Exactly(2))) -> Number by [&variants::SOCKETPAIR];
    // What an option is that has no line may have addresses in it.
    54 Refused setsockopt(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: Opaque, optlen: SocketLength) -> Number by [
        &variants::SETSOCKOPT, &variants::SETSOCKOPT_SCTP, &variants::SETSOCKOPT_IP, &variants::SETSOCKOPT_IPV6, &variants::SET_SOCKET, &variants::SET_IP,
        &variants::SET_IPV6, &variants::SET_TCP, &variants::SET_UDP, &variants::SET_ICMPV6, &variants::SET_RAW, &variants::SET_NETLINK, &variants::SET_TLS,
    ];
    55 Refused getsockopt(sockfd: Fd, level: Flags(&SOCKET_LEVEL), optname: Int, optval: Opaque, optlen: InOut(&INT, One)) -> Number by [
        &variants::GETSOCKOPT_TCP, &variants::GETSOCKOPT_SCTP, &variants::GET_SOCKET, &variants::GET_IP, &variants::GET_IPV6, &variants::GET_TCP,
        &variants::GET_UDP, &variants::GET_ICMPV6, &variants::GET_RAW, &variants::GET_NETLINK, &variants::GET_TLS,
    ];
    288 Forwarded accept4(sockfd: Fd, addr: Out(&SOCKADDR, Stored(addrlen)), addrlen: InOut(&INT, One), flags: Flags(&SOCKET_FLAGS)) -> Descriptor;
    299 Forwarded recvmmsg(sockfd: Fd, msgvec: InOut(&MMSGHDR_OUT, Messages(vlen)), vlen: Unsigned, flags: Flags(&MESSAGE), timeout: InOut(&TIMESPEC, One)) -> Count;
    // What is more than 1024 messages stays unsent (net/socket.c, __sys_sendmmsg).
    307 Forwarded sendmmsg(sockfd: Fd, msgvec: InOut(&MMSGHDR_IN, Messages(vlen)), vlen: Unsigned, flags: Flags(&MESSAGE)) -> Count;
}
