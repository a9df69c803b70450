//! Linux's compartment: another process, which is asked by a pipe and answers by another.

use super::Refused;
use super::children::wait;

/// A process that sends back each byte that it is sent.
#[derive(Debug)]
pub(crate) struct Echo {
    child: libc::pid_t,
    ask: i32,
    answer: i32,
}

impl Echo {
    /// Starts it.
    pub(crate) fn start() -> Result<Echo, Refused> {
        let (mut questions, mut answers) = ([0; 2], [0; 2]);
        // SAFETY: two descriptors each.
        if unsafe { libc::pipe(questions.as_mut_ptr()) != 0 || libc::pipe(answers.as_mut_ptr()) != 0 } {
            return Err(Refused::last("pipe"));
        }
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => Err(Refused::last("fork")),
            0 => {
                let mut byte = 0u8;
                // SAFETY: as above; the byte is this function's. Without the other end there is nobody to ask.
                unsafe {
                    libc::close(questions[1]);
                    while libc::read(questions[0], (&raw mut byte).cast(), 1) == 1 {
                        libc::write(answers[1], (&raw const byte).cast(), 1);
                    }
                    libc::_exit(0)
                }
            }
            child => {
                // SAFETY: the child's ends.
                unsafe {
                    libc::close(questions[0]);
                    libc::close(answers[1]);
                }
                Ok(Echo { child, ask: questions[1], answer: answers[0] })
            }
        }
    }

    /// Sends `byte`, and waits for the answer.
    #[inline(always)]
    pub(crate) fn ask(&self, byte: u8) -> Result<u8, Refused> {
        let mut answer = 0u8;
        // SAFETY: one byte each.
        let done = unsafe {
            libc::write(self.ask, (&raw const byte).cast(), 1) == 1
                && libc::read(self.answer, (&raw mut answer).cast(), 1) == 1
        };
        if done { Ok(answer) } else { Err(Refused::last("read")) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // SAFETY: descriptors of this value's own; the child ends when there is nobody to ask.
        unsafe {
            libc::close(self.ask);
            libc::close(self.answer);
        }
        let _ = wait(self.child, &mut 0);
    }
}
