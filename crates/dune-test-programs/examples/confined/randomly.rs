//! Random calls with random arguments, for which the runtime's memory is the favourite.

use std::time::{Duration, Instant};

use dune_syscalls::{Call, Class};

use super::attempts::Aims;
use super::call;

/// Where the runtime's part of the address space begins.
const RUNTIME: u64 = 1 << 46;
/// Memory that it gives to calls, and memory that it unmaps and maps.
const SCRATCH: usize = 64 << 10;
const PLAYGROUND: u64 = 1 << 20;

/// Calls that would end the program or wait for others, take the machine from the suite, or fill its memory: the other attacks are about these.
const LEFT_OUT: [&str; 75] = [
    "exit",
    "exit_group",
    "fork",
    "vfork",
    "clone",
    "clone3",
    "execve",
    "execveat",
    "rt_sigreturn",
    "kill",
    "tkill",
    "tgkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_send_signal",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "signalfd",
    "signalfd4",
    "sigaltstack",
    "setitimer",
    "alarm",
    "timer_create",
    "timer_settime",
    "mq_notify",
    "pause",
    "nanosleep",
    "clock_nanosleep",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "io_pgetevents",
    "mq_timedreceive",
    "mq_timedsend",
    "msgrcv",
    "msgsnd",
    "semop",
    "semtimedop",
    "msgctl",
    "semctl",
    "shmctl",
    "fallocate",
    "ftruncate",
    "truncate",
    "sendfile",
    "copy_file_range",
    "close_range",
    "setrlimit",
    "prlimit64",
    "setpriority",
    "ioprio_set",
    "sched_setscheduler",
    "sched_setparam",
    "sched_setattr",
    "sched_setaffinity",
    "chroot",
    "chdir",
    "vhangup",
    "sync",
    "syncfs",
    "landlock_restrict_self",
    "set_tid_address",
    "arch_prctl",
    "ioctl",
    "setsid",
    "setpgid",
    "waitid",
    "wait4",
    "flock",
];

/// Marsaglia's xorshift (Journal of Statistical Software 8 (14), 2003).
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 1
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn choose(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }

    /// An address that is not the program's.
    fn foreign(&mut self, aims: Aims) -> u64 {
        let page = aims.page;
        let near = page + self.below(4096);
        self.choose(&[
            page,
            near,
            page + 4092,
            page - 4,
            RUNTIME,
            RUNTIME - 4,
            RUNTIME - 4096,
            0xffff_8000_0000_0000,
            1 << 47,
            u64::MAX,
            u64::MAX - 7,
            8,
        ])
    }

    fn argument(&mut self, aims: Aims, scratch: u64) -> u64 {
        match self.below(16) {
            0..5 => self.below(256),
            5..8 => self.foreign(aims),
            8..11 => scratch + self.below(SCRATCH as u64),
            11 => self.choose(&[0, 1, 8, 64, 4096, 1 << 31, 1 << 46, 1 << 63, u64::MAX, u64::MAX - 4095]),
            12 => 1 << self.below(64),
            13 => u64::MAX,
            _ => self.next() << 1,
        }
    }

    /// For calls about pages: lengths that fill no memory, and do not reach beyond the playground.
    fn about_pages(&mut self, aims: Aims, playground: Option<u64>) -> u64 {
        match self.below(8) {
            0..3 => self.choose(&[0, 1, 4096, 8192, 65536, 1 << 46, 1 << 63, u64::MAX, u64::MAX - 4095]),
            3 | 4 => self.foreign(aims) & !4095,
            5 => playground.map_or(4096, |start| start + (self.below(PLAYGROUND / 4 / 4096) << 12)),
            6 => self.below(128),
            _ => 1 << self.below(20),
        }
    }
}

/// Whether the call is none to be made with any arguments.
pub fn is_left_out(line: &Call) -> bool {
    let is_of_computer = matches!(line.class, Class::Administration | Class::Mount | Class::Credential);
    is_of_computer || LEFT_OUT.contains(&line.name())
}

extern "C" fn nothing(_: i32) {}

/// A signal every 10 ms, so that what waits is over soon.
pub struct Alarms;

impl Alarms {
    pub fn start() -> Alarms {
        // SAFETY: the handler does nothing, and the structures are there.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
            let often = libc::timeval { tv_sec: 0, tv_usec: 10_000 };
            let timer = libc::itimerval { it_interval: often, it_value: often };
            libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
        }
        Alarms
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        // SAFETY: all zero bytes are a timer that is off.
        unsafe {
            let never: libc::itimerval = std::mem::zeroed();
            libc::setitimer(libc::ITIMER_REAL, &raw const never, std::ptr::null_mut());
        }
    }
}

/// So many calls, from a seed on.
pub fn calls(aims: Aims, count: &str, seed: &str) {
    let (count, seed): (u64, u64) = (count.parse().expect("a number"), seed.parse().expect("a number"));
    let mut generator = Generator(seed | 1 << 63);
    let kept = keep_streams();
    for signal in [libc::SIGPIPE, libc::SIGIO, libc::SIGURG, libc::SIGXFSZ] {
        // SAFETY: they are ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let alarms = Alarms::start();
    let lines: Vec<&Call> = dune_syscalls::all().filter(|line| !is_left_out(line)).collect();
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u64;
    // What is written there may be longer than that, and has to end.
    let scratch_at = call(libc::SYS_mmap as u64, [0, SCRATCH as u64 * 2, 3, flags, u64::MAX, 0]) as u64;
    call(libc::SYS_mprotect as u64, [scratch_at + SCRATCH as u64, SCRATCH as u64, 0, 0, 0, 0]);
    // SAFETY: its own memory, which nobody else writes to but calls.
    let scratch = unsafe { std::slice::from_raw_parts_mut(scratch_at as *mut u64, SCRATCH / 8) };
    let playground = call(libc::SYS_mmap as u64, [0, PLAYGROUND, 3, flags, u64::MAX, 0]) as u64;
    let start = Instant::now();
    for turn in 0..count {
        if turn % 1024 == 0 {
            scratch.iter_mut().for_each(|word| *word = generator.argument(aims, scratch_at));
        }
        if turn % 512 == 0 {
            call(libc::SYS_close_range as u64, [3, 500, 0, 0, 0, 0]);
        }
        let line = lines[generator.below(lines.len() as u64) as usize];
        let arguments: [u64; 6] = std::array::from_fn(|index| match line.class {
            // Where something is, or is to be: the first one, and mremap's last.
            _ if line.name() == "shmat" && index == 1 => generator.about_pages(aims, Some(playground)),
            Class::Memory => generator.about_pages(aims, [0, 4].contains(&index).then_some(playground)),
            _ => generator.argument(aims, scratch_at),
        });
        // Numbers that are nobody's, too.
        let number = match generator.below(64) {
            0 => 300 + generator.below(400),
            1 if turn % 1000 == 0 => generator.next(),
            _ => line.number.into(),
        };
        // One of those by the number that is nobody's: close_range(2) takes the streams away, seccomp(2) and limits end the program.
        let is_left_out =
            |number: u64| dune_syscalls::by_number(number & 0xffff_ffff).is_some_and(is_left_out);
        if number != u64::from(line.number) && is_left_out(number) {
            continue;
        }
        // A segment may be longer than the playground, and would come in the place of the program's own code.
        let arguments = match line.name() {
            "shmat" => [arguments[0], arguments[1], arguments[2] & !(libc::SHM_REMAP as u64), 0, 0, 0],
            _ => arguments,
        };
        // The strict mode would end the program.
        if number == libc::SYS_prctl as u64 && arguments[0] as i32 == libc::PR_SET_SECCOMP {
            continue;
        }
        call(number, arguments);
    }
    let took: Duration = start.elapsed();
    drop(alarms);
    restore_streams(kept);
    println!("calls {count} of {}, {} us each", lines.len(), took.as_micros() / u128::from(count));
}

/// The standard streams where no random number finds them, and nothing in their place.
fn keep_streams() -> [i32; 2] {
    // SAFETY: its own descriptors.
    unsafe {
        let kept = [0, 1].map(|number| libc::fcntl(number, libc::F_DUPFD, 600));
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        (0..2).for_each(|number| _ = libc::dup2(nothing, number));
        kept
    }
}

fn restore_streams(kept: [i32; 2]) {
    for (number, kept) in (0..).zip(kept) {
        // SAFETY: its own descriptors.
        unsafe { libc::dup2(kept, number) };
    }
}
