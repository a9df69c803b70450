use super::calls;

// Numbers that Linux 6.12 keeps for calls that it does not have, or not any more.
calls! { Absent:
    134 Absent uselib() -> Number;
    156 Absent _sysctl() -> Number;
    174 Absent create_module() -> Number;
    177 Absent get_kernel_syms() -> Number;
    178 Absent query_module() -> Number;
    180 Absent nfsservctl() -> Number;
    181 Absent getpmsg() -> Number;
    182 Absent putpmsg() -> Number;
    183 Absent afs_syscall() -> Number;
    184 Absent tuxcall() -> Number;
    185 Absent security() -> Number;
    205 Absent set_thread_area() -> Number;
    211 Absent get_thread_area() -> Number;
    212 Absent lookup_dcookie() -> Number;
    214 Absent epoll_ctl_old() -> Number;
    215 Absent epoll_wait_old() -> Number;
    236 Absent vserver() -> Number;
}
