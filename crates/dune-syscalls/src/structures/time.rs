//! `<linux/time_types.h>`, `<linux/time.h>`, `<linux/times.h>`, `<linux/timex.h>`, `<linux/utime.h>`.

use super::structures;

structures! {
    TIMESPEC: "timespec" 16 { 0 tv_sec: Long, 8 tv_nsec: Long }
    TIMEVAL: "timeval" 16 { 0 tv_sec: Long, 8 tv_usec: Long }
    ITIMERVAL: "itimerval" 32 { 0 it_interval: Kind::Inline(&TIMEVAL), 16 it_value: Kind::Inline(&TIMEVAL) }
    ITIMERSPEC: "itimerspec" 32 { 0 it_interval: Kind::Inline(&TIMESPEC), 16 it_value: Kind::Inline(&TIMESPEC) }
    TIMEZONE: "timezone" 8 { 0 tz_minuteswest: Int, 4 tz_dsttime: Int }
    TMS: "tms" 32 { 0 tms_utime: Long, 8 tms_stime: Long, 16 tms_cutime: Long, 24 tms_cstime: Long }
    UTIMBUF: "utimbuf" 16 { 0 actime: Long, 8 modtime: Long }
    TIMEX: "timex" 208 { 0 modes: Hex, 8 offset: Long, 16 freq: Long, 24 maxerror: Long, 32 esterror: Long, 40 status: Hex }
}

use crate::kind::Kind;
