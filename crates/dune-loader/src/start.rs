//! The last steps: the state of a process that has just been started, then the jump.

use std::convert::Infallible;
use std::fs;
use std::io;

use crate::Program;
use crate::elf::PAGE;
use crate::error::StartError;
use crate::map::{Mapped, pages_by_chance};
use crate::parts;
use crate::raw::heap;
use crate::raw::jump::Jump;
use crate::raw::layout::{self, Layout};
use crate::raw::state;
use crate::stack::{self, Contents};

/// Stack left between the launcher's frames and the program's, which the jump does not touch.
const DISTANCE: u64 = 4096;
/// Pages by which chance moves the heap away from the program (`arch_randomize_brk`: 32 MiB).
const HEAP_SPREAD: u64 = 8192;

impl Program {
    /// Makes the process the program's: resets what execve(2) resets, calls `enter`, and jumps to the program's start. Returns
    /// only if something fails.
    ///
    /// `enter` is where the caller enters Dune mode. Everything is mapped by then, and nothing of Rust's standard library is
    /// used after it.
    ///
    /// # Errors
    ///
    /// [`StartError`]. Then the process goes on as the launcher, which should do no more than tell why: signal handlers and the
    /// break may be the program's already.
    pub fn start<E>(mut self, enter: impl FnOnce() -> Result<(), E>) -> Result<Infallible, StartError<E>>
    where
        E: std::error::Error + 'static,
    {
        let count = fs::read_dir("/proc/self/task").map_err(prepare("list /proc/self/task"))?.count();
        if count != 1 || !state::is_first_thread() {
            return Err(StartError::Threads { count });
        }
        let entry = self.entry();
        let contents = Contents {
            arguments: &self.arguments,
            environment: &self.environment,
            file: &self.file,
            auxiliary: self.auxiliary_vector()?,
            random: stack::random().map_err(prepare("getrandom"))?,
        };
        // Somewhere in the present frame.
        let here = (&raw const count).addr() as u64;
        let stack = stack::compose((here - DISTANCE) & !15, contents);
        let (bytes, limit) = (stack.bytes.len() as u64, state::arguments_limit());
        if bytes > limit {
            return Err(StartError::TooLong { bytes, limit });
        }
        state::grow_stack(stack.rsp).map_err(prepare("grow the stack"))?;
        if self.image.executable_stack {
            state::make_stack_executable().map_err(prepare("make the stack executable"))?;
        }
        let layout = self.layout(&stack).map_err(prepare("getrandom"))?;
        heap::keep_room();
        // Where Linux can not do that, the program still runs: see the crate's documentation.
        let _ = layout::set(&layout, self.executable.take());
        state::set_name(&self.file);
        close_on_exec().map_err(prepare("list /proc/self/fd"))?;
        state::reset_signals();
        state::leave_thread_library();

        let jump = Jump::prepare(stack, entry);
        enter().map_err(StartError::Enter)?;
        let Program { program, interpreter, .. } = self;
        program.keep();
        if let Some((mapped, _)) = interpreter {
            mapped.keep();
        }
        jump.now()
    }

    /// Where the process starts: in the interpreter, if there is one.
    fn entry(&self) -> u64 {
        self.interpreter.as_ref().map_or(self.program_entry(), |(_, entry)| *entry)
    }

    fn program_entry(&self) -> u64 {
        self.program.bias.wrapping_add(self.image.entry)
    }

    /// The launcher's, changed where it is about the program.
    fn auxiliary_vector<E: std::error::Error>(&self) -> Result<Vec<(u64, u64)>, StartError<E>> {
        let base = self.interpreter.as_ref().map_or(0, |(interpreter, _)| interpreter.bias);
        parts::auxiliary_vector(&self.image, self.program.bias, base).map_err(prepare("read /proc/self/auxv"))
    }

    /// What Linux remembers of a process's memory.
    fn layout<'a>(&self, stack: &'a stack::Stack) -> io::Result<Layout<'a>> {
        let Mapped { bias, end, .. } = self.program;
        let segments = &self.image.segments;
        let code = segments.iter().filter(|segment| segment.protection.execute);
        let moved = |address: Option<u64>| bias.wrapping_add(address.unwrap_or(self.image.entry));
        let heap = end + PAGE + pages_by_chance(HEAP_SPREAD)?;
        Ok(Layout {
            code: (
                moved(code.clone().map(|segment| segment.address).min()),
                moved(code.map(|segment| segment.file_end()).max()),
            ),
            data: (
                moved(segments.iter().map(|segment| segment.address).max()),
                moved(segments.iter().map(|segment| segment.file_end()).max()),
            ),
            heap,
            stack: stack.rsp,
            arguments: stack.arguments,
            environment: stack.environment,
            auxiliary: &stack.auxiliary,
        })
    }
}

fn prepare<E: std::error::Error>(what: &'static str) -> impl FnOnce(io::Error) -> StartError<E> {
    move |why| StartError::Prepare { what, why }
}

/// Closes what execve(2) closes: descriptors with FD_CLOEXEC, and those that the launcher's runtime opened.
fn close_on_exec() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    open.into_iter().for_each(state::close_if_on_exec);
    Ok(())
}
