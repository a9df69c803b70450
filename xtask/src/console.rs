//! The machine's serial console: the command's output between marks of the init script, noise around it.

/// What opens each mark of the init script. No program prints this by accident.
const MARK: &[u8] = b"\x01dune:";

/// The last words of a kernel.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Sorts what comes over the console.
#[derive(Debug, Default)]
pub struct Console {
    /// Everything, for the tail that is shown when something goes wrong.
    all: Vec<u8>,
    /// What is not sorted yet: perhaps the start of a mark.
    pending: Vec<u8>,
    place: Place,
    ended: Option<End>,
    panicked: bool,
}

/// Between which marks we are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Firmware, kernel, init script.
    #[default]
    Boot,
    /// The command's output.
    Command,
    /// What the machine's kernel complained about meanwhile.
    Complaints,
}

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It ended with this status.
    Status(u8),
    /// The machine could not run it.
    Failure(String),
}

impl Console {
    /// Takes the next bytes; gives the command's output among them.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let unseen = self.all.len().saturating_sub(PANIC.len());
        self.all.extend_from_slice(bytes);
        self.panicked |= find(&self.all[unseen..], PANIC).is_some();
        self.pending.extend_from_slice(bytes);
        let mut output = Vec::new();
        loop {
            let mark = find(&self.pending, MARK);
            let text = mark.unwrap_or_else(|| self.pending.len() - unfinished_mark(&self.pending));
            let text: Vec<u8> = self.pending.drain(..text).collect();
            match self.place {
                Place::Command => output.extend(text),
                Place::Boot | Place::Complaints => (),
            }
            let Some(end) = mark.and_then(|_| self.pending.iter().position(|&byte| byte == b'\n')) else {
                return output;
            };
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.note(String::from_utf8_lossy(&line[MARK.len()..]).trim());
        }
    }

    /// Takes note of a mark's words.
    fn note(&mut self, mark: &str) {
        let (word, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        match word {
            "begin" if self.place == Place::Boot => self.place = Place::Command,
            "begin" => self.end(End::Failure("it booted a second time".to_owned())),
            "kernel" => self.place = Place::Complaints,
            "exit" => match rest.parse() {
                Ok(status) => self.end(End::Status(status)),
                Err(_) => self.end(End::Failure(format!("its init script gave the exit status {rest:?}"))),
            },
            _ => self.end(End::Failure(rest.to_owned())),
        }
    }

    fn end(&mut self, end: End) {
        self.ended.get_or_insert(end);
    }

    /// Whether the command has been started.
    pub fn begun(&self) -> bool {
        self.place != Place::Boot
    }

    /// How the command ended, if it has.
    pub fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// Whether the machine's kernel has given up.
    pub fn panicked(&self) -> bool {
        self.panicked
    }

    /// What the machine's kernel complained about while the command ran.
    pub fn complaints(&self) -> String {
        let start = find(&self.all, b"\x01dune:kernel").unwrap_or(self.all.len());
        let text = clean(&self.all[start..]);
        text.lines().filter(|line| !line.starts_with("dune:")).map(|line| format!("{line}\n")).collect()
    }

    /// Everything that came, readable.
    pub fn text(&self) -> String {
        clean(&self.all)
    }
}

/// `bytes` without the carriage returns, marks' control characters and colours of a serial line.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.replace("\r\n", "\n").replace(['\x01', '\x1b', '\r'], "")
}

/// Where `needle` starts in `haystack`.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// How many bytes at the end of `bytes` may be the start of a mark.
fn unfinished_mark(bytes: &[u8]) -> usize {
    (1..MARK.len()).rev().find(|&length| bytes.ends_with(&MARK[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &[u8] =
        b"SeaBIOS\r\nLinux\r\n\x01dune:begin\nhello\nno newline\x01dune:kernel\nWARNING: x\n\x01dune:exit 7\n";

    #[test]
    fn output_is_what_lies_between_the_marks() {
        let mut console = Console::default();
        assert_eq!(console.feed(SESSION), b"hello\nno newline");
        assert_eq!(console.ended(), Some(&End::Status(7)));
        assert_eq!(console.complaints(), "WARNING: x\n");
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        for size in 1..20 {
            let mut console = Console::default();
            let output: Vec<u8> = SESSION.chunks(size).flat_map(|piece| console.feed(piece)).collect();
            assert_eq!(output, b"hello\nno newline", "pieces of {size}");
            assert_eq!(console.ended(), Some(&End::Status(7)));
        }
    }

    #[test]
    fn an_unfinished_line_is_not_held_back() {
        let mut console = Console::default();
        assert_eq!(console.feed(b"\x01dune:begin\nworking..."), b"working...");
        assert_eq!(console.feed(b"\x01"), b"");
        assert_eq!(console.feed(b"x"), b"\x01x");
    }

    #[test]
    fn a_failure_a_reboot_and_a_panic_are_told() {
        let mut console = Console::default();
        console.feed(b"\x01dune:fail no /dev/kvm\n");
        assert_eq!(console.ended(), Some(&End::Failure("no /dev/kvm".to_owned())));
        let mut console = Console::default();
        console.feed(b"\x01dune:begin\n\x01dune:begin\n");
        assert!(matches!(console.ended(), Some(End::Failure(_))));
        assert!(!console.panicked());
        console.feed(b"[    1.0] Kernel panic - not syncing: x\r\n");
        assert!(console.panicked());
    }
}
