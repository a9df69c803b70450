//! What libraries in compartments find of the C library: functions that need no variables but errno and a heap of their own, and no system
//! call. They run in ring 3; whoever breaks C's rules there harms the compartment alone.

mod heap;
mod jump;
mod memory;
mod text;

use std::arch::asm;

use super::thread_block::{ERROR, word};

/// Ends the call with a trap: abort(3), and what the compiler calls when it sees that something is broken.
extern "C" fn stop() -> ! {
    // SAFETY: a trap.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

extern "C" fn error_location() -> u64 {
    word::<0>() + ERROR as u64
}

/// Nothing is torn down: the compartment ends as a whole.
extern "C" fn register_end() -> i32 {
    0
}

unsafe extern "C" fn frexp(number: f64, exponent: *mut i32) -> f64 {
    let (fraction, power) = libm::frexp(number);
    // SAFETY: C's rules.
    unsafe { exponent.write(power) };
    fraction
}

unsafe extern "C" fn modf(number: f64, whole: *mut f64) -> f64 {
    let (fraction, integer) = libm::modf(number);
    // SAFETY: C's rules.
    unsafe { whole.write(integer) };
    fraction
}

extern "C" fn lrint(number: f64) -> i64 {
    libm::rint(number) as i64
}

/// Functions of libm's, by C's ABI.
macro_rules! by_c {
    ($($name:ident($($argument:ident),*) -> $kind:ty;)*) => {
        $(extern "C" fn $name($($argument: $kind),*) -> $kind { libm::$name($($argument),*) })*
    };
}

by_c! {
    acos(x) -> f64; asin(x) -> f64; atan(x) -> f64; atan2(y, x) -> f64; cbrt(x) -> f64; ceil(x) -> f64; cos(x) -> f64; exp(x) -> f64;
    exp2(x) -> f64; expm1(x) -> f64; fabs(x) -> f64; floor(x) -> f64; fmax(x, y) -> f64; fmin(x, y) -> f64; fmod(x, y) -> f64;
    hypot(x, y) -> f64; log(x) -> f64; log10(x) -> f64; log1p(x) -> f64; log2(x) -> f64; pow(x, y) -> f64; rint(x) -> f64;
    round(x) -> f64; sin(x) -> f64; sqrt(x) -> f64; tan(x) -> f64; tanh(x) -> f64; trunc(x) -> f64;
    ceilf(x) -> f32; cosf(x) -> f32; expf(x) -> f32; fabsf(x) -> f32; floorf(x) -> f32; fmodf(x, y) -> f32; logf(x) -> f32;
    powf(x, y) -> f32; roundf(x) -> f32; sinf(x) -> f32; sqrtf(x) -> f32; tanf(x) -> f32;
}

extern "C" fn ldexp(number: f64, exponent: i32) -> f64 {
    libm::ldexp(number, exponent)
}

/// The address of what C calls `name`; names that are the same as the function's stand alone.
macro_rules! functions {
    ($name:ident: $($module:ident.$function:ident $(= $($alias:literal)|+)?,)*) => {
        match $name {
            $(stringify!($function) $($(| $alias)+)? => $module::$function as *const () as u64,)*
            _ => return None,
        }
    };
}

/// Where the function is that C calls `name`.
pub(crate) fn address(name: &str) -> Option<u64> {
    Some(functions! { name:
        heap.malloc, heap.calloc, heap.realloc, heap.reallocarray, heap.aligned_alloc = "memalign", heap.posix_memalign, heap.free,
        memory.memcpy, memory.memmove, memory.memset, memory.memcpy_chk = "__memcpy_chk" | "__memmove_chk",
        memory.memset_chk = "__memset_chk",
        text.memcmp = "bcmp", text.memchr, text.memrchr, text.strlen, text.strnlen, text.strcmp = "strcoll", text.strncmp, text.strcasecmp,
        text.strncasecmp, text.strchr = "index", text.strrchr = "rindex", text.strstr, text.strspn, text.strcspn, text.strcpy,
        text.strncpy, text.strcat, text.strdup = "__strdup", text.tolower, text.toupper, text.abs, text.getenv = "secure_getenv",
        jump.setjmp = "_setjmp" | "__sigsetjmp", jump.longjmp = "_longjmp" | "siglongjmp" | "__longjmp_chk",
        self.stop = "abort" | "exit" | "_exit" | "__stack_chk_fail" | "__assert_fail" | "__fortify_fail" | "__chk_fail",
        self.error_location = "__errno_location",
        self.register_end = "__cxa_finalize" | "__cxa_atexit" | "atexit",
        self.frexp, self.modf, self.ldexp = "scalbn", self.lrint,
        self.acos, self.asin, self.atan, self.atan2, self.cbrt, self.ceil, self.cos, self.exp, self.exp2, self.expm1, self.fabs, self.floor,
        self.fmax, self.fmin, self.fmod, self.hypot, self.log, self.log10, self.log1p, self.log2, self.pow, self.rint, self.round, self.sin,
        self.sqrt, self.tan, self.tanh, self.trunc, self.ceilf, self.cosf, self.expf, self.fabsf, self.floorf, self.fmodf, self.logf,
        self.powf, self.roundf, self.sinf, self.sqrtf, self.tanf,
    })
}
