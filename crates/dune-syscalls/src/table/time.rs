use super::calls;
use crate::names::*;
use crate::structures::*;

calls! { Time:
    35 Forwarded nanosleep(req: In(&TIMESPEC, One), rem: OutInterrupted(&TIMESPEC)) -> Number;
    36 Forwarded getitimer(which: Flags(&INTERVAL_TIMER), curr_value: Out(&ITIMERVAL, One)) -> Number;
    37 Forwarded alarm(seconds: Unsigned) -> Number;
    38 Forwarded setitimer(which: Flags(&INTERVAL_TIMER), new_value: In(&ITIMERVAL, One), old_value: Out(&ITIMERVAL, One)) -> Number;
    96 Forwarded gettimeofday(tv: Out(&TIMEVAL, One), tz: Out(&TIMEZONE, One)) -> Number;
    100 Forwarded times(buf: Out(&TMS, One)) -> Number;
    159 Refused adjtimex(buf: InOut(&TIMEX, One)) -> Number;
    164 Refused settimeofday(tv: In(&TIMEVAL, One), tz: In(&TIMEZONE, One)) -> Number;
    201 Forwarded time(tloc: Out(&LONG, One)) -> Number;
    222 Forwarded timer_create(clockid: Flags(&CLOCK), sevp: In(&SIGEVENT, One), timerid: Out(&INT, One)) -> Number;
    223 Forwarded timer_settime(timerid: Int, flags: Flags(&TIMER), new_value: In(&ITIMERSPEC, One), old_value: Out(&ITIMERSPEC, One)) -> Number;
    224 Forwarded timer_gettime(timerid: Int, curr_value: Out(&ITIMERSPEC, One)) -> Number;
    225 Forwarded timer_getoverrun(timerid: Int) -> Number;
    226 Forwarded timer_delete(timerid: Int) -> Number;
    227 Refused clock_settime(clockid: Flags(&CLOCK), tp: In(&TIMESPEC, One)) -> Number;
    228 Forwarded clock_gettime(clockid: Flags(&CLOCK), tp: Out(&TIMESPEC, One)) -> Number;
    229 Forwarded clock_getres(clockid: Flags(&CLOCK), res: Out(&TIMESPEC, One)) -> Number;
    230 Forwarded clock_nanosleep(clockid: Flags(&CLOCK), flags: Flags(&TIMER), request: In(&TIMESPEC, One), remain: OutInterrupted(&TIMESPEC)) -> Number;
    283 Forwarded timerfd_create(clockid: Flags(&CLOCK), flags: Flags(&TIMERFD)) -> Descriptor;
    286 Forwarded timerfd_settime(fd: Fd, flags: Flags(&TIMERFD_SET), new_value: In(&ITIMERSPEC, One), old_value: Out(&ITIMERSPEC, One)) -> Number;
    287 Forwarded timerfd_gettime(fd: Fd, curr_value: Out(&ITIMERSPEC, One)) -> Number;
    305 Refused clock_adjtime(clockid: Flags(&CLOCK), buf: InOut(&TIMEX, One)) -> Number;
}
