//! A line of the table.

use crate::kind::{Kind, Value};
use crate::structure::{Field, Frame, registers};

/// A system call.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call {
    /// The number in RAX.
    pub number: u32,
    /// What it is about.
    pub class: Class,
    /// Name, arguments and result, where no variant says otherwise.
    pub form: Form,
    /// The forms that it has where an argument chooses; the first table counts that has one.
    pub variants: &'static [&'static Variants],
}

/// What a call, or one variant of it, takes and returns.
#[derive(Debug)]
#[non_exhaustive]
pub struct Form {
    /// The name of the call, or the name of the value that chooses this variant.
    pub name: &'static str,
    /// What a supervisor does with it.
    pub treatment: Treatment,
    /// Its arguments, in the order of the registers.
    pub arguments: &'static [Field],
    /// What the result means.
    pub outcome: Outcome,
}

/// Which argument chooses a variant, and the variants: those of ioctl(2), futex(2), prctl(2) and their like.
#[derive(Debug)]
#[non_exhaustive]
pub struct Variants {
    /// The argument.
    pub argument: u8,
    /// Its bits that count.
    pub mask: u32,
    /// How far they are moved to the right.
    pub shift: u8,
    /// An argument that has to have this value; the table does not count otherwise.
    pub only: Option<(u8, u32)>,
    /// The variants, in no order.
    pub list: &'static [Variant],
}

/// A form of a call.
#[derive(Debug)]
#[non_exhaustive]
pub struct Variant {
    /// The value that chooses it.
    pub value: u32,
    /// Its name, arguments and result.
    pub form: Form,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Files by path.
    File,
    /// Open files.
    Descriptor,
    /// Waiting for descriptors, and being told of events.
    Poll,
    /// Sockets.
    Network,
    /// The address space.
    Memory,
    /// Processes and threads.
    Process,
    /// How processes are scheduled.
    Schedule,
    /// Signals.
    Signal,
    /// Clocks and timers.
    Time,
    /// System V's and POSIX' queues, semaphores and shared memory; futexes.
    Ipc,
    /// Users, groups, capabilities, keys, and what a process confines itself with.
    Credential,
    /// Asynchronous input and output.
    Asynchronous,
    /// Mounts and namespaces.
    Mount,
    /// Looking into other processes and into the kernel.
    Observation,
    /// The administration of the computer.
    Administration,
    /// Not there any more, or never: Linux answers ENOSYS.
    Absent,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 16] = [
        Class::File,
        Class::Descriptor,
        Class::Poll,
        Class::Network,
        Class::Memory,
        Class::Process,
        Class::Schedule,
        Class::Signal,
        Class::Time,
        Class::Ipc,
        Class::Credential,
        Class::Asynchronous,
        Class::Mount,
        Class::Observation,
        Class::Administration,
        Class::Absent,
    ];

    /// Its name, as people write it: `file`, `network`…
    pub const fn name(self) -> &'static str {
        match self {
            Class::File => "file",
            Class::Descriptor => "descriptor",
            Class::Poll => "poll",
            Class::Network => "network",
            Class::Memory => "memory",
            Class::Process => "process",
            Class::Schedule => "schedule",
            Class::Signal => "signal",
            Class::Time => "time",
            Class::Ipc => "ipc",
            Class::Credential => "credential",
            Class::Asynchronous => "asynchronous",
            Class::Mount => "mount",
            Class::Observation => "observation",
            Class::Administration => "administration",
            Class::Absent => "absent",
        }
    }
}

/// What a supervisor of untrusted code does with a call, unless a policy says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Treatment {
    /// Makes it for the program when its arguments have been checked.
    Forwarded,
    /// Does itself what it asks for: forwarding would change what belongs to the supervisor.
    Supervised,
    /// Refuses it: with it the program could get out, or harm the computer.
    Refused,
    /// Answers ENOSYS, as Linux does.
    Absent,
}

/// What the result of a call means where it is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// 0, or a number without a type of its own.
    Number,
    /// How many bytes or elements.
    Count,
    /// A descriptor.
    Descriptor,
    /// An address.
    Address,
    /// A process or thread.
    Pid,
    /// A user or group.
    Id,
    /// A file mode.
    Mode,
    /// An offset in a file.
    Offset,
    /// Flags, in hexadecimal.
    Hex,
    /// It does not return.
    Never,
}

/// The errno in the raw result of a call, if it is one: -4095 to -1.
///
/// ```
/// assert_eq!(dune_syscalls::errno(-2), Some(2));
/// assert_eq!(dune_syscalls::errno(-4096), None);
/// ```
pub const fn errno(result: i64) -> Option<u16> {
    if result < 0 && result >= -4095 { Some((-result) as u16) } else { None }
}

impl Variants {
    /// The variant that a value of the argument chooses.
    pub fn choose(&self, value: u32) -> Option<&'static Form> {
        let chosen = (value & self.mask) >> self.shift;
        self.list.iter().find(|variant| variant.value == chosen).map(|variant| &variant.form)
    }
}

/// Whether memory is written through any of the fields.
const fn any_writes(fields: &[Field]) -> bool {
    let (mut writes, mut index) = (false, 0);
    while index < fields.len() {
        writes |= match fields[index].kind {
            Kind::Pointer(pointer) => pointer.direction.writes() || any_writes(pointer.structure.fields),
            Kind::Inline(structure) => any_writes(structure.fields),
            Kind::Opaque => true,
            _ => false,
        };
        index += 1;
    }
    writes
}

impl Call {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.form.name
    }

    /// The arguments that are descriptors in some variant, as a bit each.
    pub const fn descriptor_arguments_of_variants(&self) -> u8 {
        let (mut bits, mut table) = (0, 0);
        while table < self.variants.len() {
            let list = self.variants[table].list;
            let mut index = 0;
            while index < list.len() {
                bits |= list[index].form.descriptor_arguments();
                index += 1;
            }
            table += 1;
        }
        bits
    }

    /// Whether it writes the program's memory, in any variant: see [`Form::may_write`].
    pub const fn may_write(&self) -> bool {
        let (mut writes, mut table) = (self.form.may_write(), 0);
        while table < self.variants.len() {
            let list = self.variants[table].list;
            let mut index = 0;
            while index < list.len() {
                writes |= list[index].form.may_write();
                index += 1;
            }
            table += 1;
        }
        writes
    }

    /// What the call is with these arguments: a variant if one of them chooses one.
    ///
    /// ```
    /// let fcntl = dune_syscalls::by_name("fcntl").unwrap();
    /// assert_eq!(fcntl.form(&[3, 3, 0, 0, 0, 0]).name, "F_GETFL");
    /// assert_eq!(fcntl.form(&[3, 12345, 0, 0, 0, 0]).name, "fcntl");
    /// ```
    #[inline]
    pub fn form(&self, arguments: &[u64; 6]) -> &Form {
        let word = |index: u8| arguments.get(usize::from(index)).map_or(0, |value| *value as u32);
        let counts = |table: &&&Variants| table.only.is_none_or(|(other, value)| word(other) == value);
        let mut tables = self.variants.iter().filter(counts);
        let chosen = tables.find_map(|table| table.choose(word(table.argument)));
        chosen.unwrap_or(&self.form)
    }
}

impl Form {
    /// The arguments that may be descriptors, as a bit each: bit 0 is the first one.
    ///
    /// ```
    /// const TEE: u8 = dune_syscalls::by_number(276).unwrap().form.descriptor_arguments();
    /// assert_eq!(TEE, 0b11);
    /// ```
    pub const fn descriptor_arguments(&self) -> u8 {
        let (mut bits, mut index) = (0, 0);
        while index < self.arguments.len() {
            if matches!(self.arguments[index].kind, Kind::Descriptor(_)) {
                bits |= 1 << index;
            }
            index += 1;
        }
        bits
    }

    /// Whether it writes memory of the program's while it runs, by an argument or by what a structure names. What the table does not know
    /// ([`Kind::Opaque`]) may.
    ///
    /// ```
    /// let may_write = |name| dune_syscalls::by_name(name).unwrap().form.may_write();
    /// assert!(may_write("read") && may_write("recvmsg") && may_write("ioctl"));
    /// assert!(!may_write("write") && !may_write("sendmsg") && !may_write("getpid"));
    /// ```
    pub const fn may_write(&self) -> bool {
        any_writes(self.arguments)
    }

    /// The arguments that are descriptors, with what the registers hold: descriptors that are not given (-1), AT_FDCWD
    /// and the like among them.
    ///
    /// ```
    /// let call = dune_syscalls::by_name("openat").unwrap();
    /// let arguments = [7, 0x1000, 0, 0, 0, 0];
    /// assert!(call.form(&arguments).descriptors(&arguments).eq([(0, 7)]));
    /// ```
    pub fn descriptors(&self, arguments: &[u64; 6]) -> impl Iterator<Item = (usize, i32)> + use<> {
        let (bytes, fields) = (registers(arguments), self.arguments);
        (0..fields.len()).filter_map(move |index| {
            let frame = Frame { bytes: &bytes, fields };
            let is_one = matches!(fields[index].kind, Kind::Descriptor(_)) && frame.has(index as u8);
            is_one.then(|| (index, frame.value(index as u8) as i32))
        })
    }

    /// The arguments that are paths, each with its address and the descriptor of the directory that it starts from.
    ///
    /// ```
    /// let call = dune_syscalls::by_name("linkat").unwrap();
    /// let arguments = [7, 0x1000, 8, 0x2000, 0, 0];
    /// let paths = call.form(&arguments).paths(&arguments);
    /// assert!(paths.eq([(1, 0x1000, Some(7)), (3, 0x2000, Some(8))]));
    /// ```
    pub fn paths(&self, arguments: &[u64; 6]) -> impl Iterator<Item = (usize, u64, Option<i32>)> + use<> {
        let (bytes, fields) = (registers(arguments), self.arguments);
        (0..fields.len()).filter_map(move |index| {
            let frame = Frame { bytes: &bytes, fields };
            let Kind::Path { directory } = fields[index].kind else { return None };
            let directory = directory.map(|place| frame.value(place) as i32);
            frame.has(index as u8).then(|| (index, frame.value(index as u8), directory))
        })
    }

    /// The arguments as Linux takes them: each cut to its width, and sign-extended if it is signed. 0 where the call has none.
    ///
    /// ```
    /// let lseek = dune_syscalls::by_name("lseek").unwrap();
    /// assert_eq!(lseek.form.values(&[0xffff_ffff, !0, 1 << 32, 4, 5, 6]), [!0, !0, 0, 0, 0, 0]);
    /// ```
    #[inline]
    pub fn values(&self, registers: &[u64; 6]) -> [u64; 6] {
        let mut values = [0; 6];
        for ((value, register), field) in values.iter_mut().zip(registers).zip(self.arguments) {
            *value = field.cut.of(*register);
        }
        values
    }

    /// Whether any argument is an address that may be dereferenced.
    pub fn takes_memory(&self) -> bool {
        self.arguments.iter().any(|field| field.kind.is_dereferenced() || matches!(field.kind, Kind::Opaque))
    }

    /// The argument that is a set of signals by its type, a number of a signal, and so on: the first one for which
    /// `is` holds.
    pub fn argument(&self, is: impl Fn(Value) -> bool) -> Option<usize> {
        self.arguments.iter().position(|field| matches!(field.kind, Kind::Value(value) if is(value)))
    }
}
