//! Libraries of C in compartments: each with variables, a heap and a stack of its own.

mod error;
mod find;
mod link;
mod object;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};
use dune::Dune;
use dune::memory::PagePermissions;
use dune::user::SpaceMemory;

use crate::raw::entry;
use crate::{CallError, CallOptions, Compartment, Compartments};
pub use error::LibraryError;
use link::{Linked, MISSING_STEP, Plan};

/// A shared library of C's, loaded into a compartment of its own, with the libraries that it needs: an image decoder, a parser, a
/// decompressor, as the distribution has it.
///
/// It runs where it can read and write its own memory and nothing else of the process. Its functions are called by a function of the program,
/// in the compartment:
///
/// ```no_run
/// use dune_compartment::{CallOptions, Compartments, Library, LibraryOptions, PagePermissions};
///
/// dune_compartment::memory_functions!();
///
/// /// A checksum: by the function at the first word's address, of the bytes at the second's, as many as the third says.
/// fn checksum(&[function, text, bytes]: &[u64; 3]) -> u64 {
///     // SAFETY: zlib.h says so. In a compartment a mistake is an error of the call.
///     let crc32: extern "C" fn(u64, u64, u32) -> u64 = unsafe { std::mem::transmute(function) };
///     crc32(0, text, bytes as u32)
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dune = dune::enter()?;
/// // SAFETY: nothing in this program protects or unmaps its stacks and heap.
/// let compartments = unsafe { Compartments::new(dune)? };
/// let mut zlib = Library::load(dune, &compartments, "libz.so.1", &LibraryOptions::new())?;
/// let text = compartments.memory(dune, 4096)?;
/// text.write(0, b"123456789")?;
/// zlib.compartment().grant(dune, &text, PagePermissions::READ)?;
/// let words = [zlib.symbol("crc32")?, text.start().as_u64(), 9];
/// assert_eq!(zlib.call(dune, CallOptions::new(), checksum, &words)?, 0xcbf4_3926);
/// # Ok(())
/// # }
/// ```
///
/// # What it finds there
///
/// Of the C library: `malloc` and its like, copies, comparisons and searches of bytes and texts, `setjmp` and `longjmp`, errno, and the common
/// functions of `math.h`. No files and streams, no threads, no locale, no thread-local variables. What nobody supplies is no error as
/// long as it is not used; then the call ends with a fault, and [`missing`](Self::missing) tells what it was.
/// [`LibraryOptions::import`] supplies more.
///
/// After a call that ended with an error the library's variables are as the error left them: [`reset`](Self::reset) makes it as it was
/// loaded.
#[derive(Debug)]
pub struct Library {
    compartment: Compartment,
    /// Its code and variables, with the bytes of those that can be written to, as they were loaded.
    image: Arc<SpaceMemory>,
    variables: Vec<(u64, Vec<u8>)>,
    heap: Arc<SpaceMemory>,
    /// Where addresses of what nobody has are; it is granted to nobody.
    missing: (Arc<SpaceMemory>, Vec<String>),
    symbols: BTreeMap<String, u64>,
    constructors: Vec<(u64, std::path::PathBuf)>,
}

/// What a library is loaded with.
#[derive(Clone, Debug)]
pub struct LibraryOptions {
    heap: u64,
    imports: BTreeMap<String, u64>,
}

impl Default for LibraryOptions {
    fn default() -> Self {
        LibraryOptions::new()
    }
}

impl LibraryOptions {
    /// A heap of 16 MiB, of which what is used takes memory, and nothing else.
    pub fn new() -> LibraryOptions {
        LibraryOptions { heap: 16 << 20, imports: BTreeMap::new() }
    }

    /// How many bytes `malloc` and its like may hand out, with what they need themselves.
    #[must_use]
    pub fn heap(self, bytes: u64) -> LibraryOptions {
        LibraryOptions { heap: bytes, ..self }
    }

    /// What the libraries find as `name`, in place of what another of them or the C library here has: a function of the program that keeps C's
    /// calling convention, by its address.
    #[must_use]
    pub fn import(mut self, name: &str, address: usize) -> LibraryOptions {
        self.imports.insert(name.into(), address as u64);
        self
    }
}

impl Library {
    /// What all libraries of one compartment may take, without their heap.
    pub const MOST_BYTES: u64 = 256 << 20;

    /// Loads the library at `path`, and those that it needs, and runs their constructors. A mere name, such as `libz.so.1`, is looked for where
    /// distributions have libraries.
    ///
    /// # Errors
    ///
    /// [`LibraryError`].
    pub fn load(
        dune: Dune,
        compartments: &Compartments,
        path: impl AsRef<Path>,
        options: &LibraryOptions,
    ) -> Result<Library, LibraryError> {
        let files = find::with_needed(path.as_ref())?;
        let plan = Plan::new(&files)?;
        let image = compartments.memory(dune, plan.bytes)?;
        let heap = compartments.memory(dune, options.heap)?;
        let missing = compartments.memory(dune, plan.most_missing() * MISSING_STEP)?;
        let linked = plan.link(image.start().as_u64(), &options.imports, missing.start().as_u64())?;
        let Linked { bytes, parts, symbols, constructors, missing: names } = linked;
        image.write(0, &bytes)?;
        let compartment = compartments.create_with_heap(dune, Some(&heap))?;
        compartment.grant(dune, &heap, PagePermissions::READ_WRITE)?;
        for (range, permissions) in &parts {
            compartment.grant_part(dune, &image, range.clone(), *permissions)?;
        }
        let writable = parts.iter().filter(|(_, permissions)| permissions.contains(PagePermissions::WRITE));
        let variables = writable
            .map(|(range, _)| (range.start, bytes[range.start as usize..range.end as usize].to_vec()));
        let constructors =
            constructors.into_iter().map(|(function, file)| (function, files[file].path.clone()));
        let library = Library {
            compartment,
            image,
            variables: variables.collect(),
            heap,
            missing: (missing, names),
            symbols,
            constructors: constructors.collect(),
        };
        library.construct(dune)?;
        Ok(library)
    }

    /// The address of the function or variable `name`, for functions of the program that run in the compartment.
    ///
    /// # Errors
    ///
    /// [`LibraryError::Symbol`].
    pub fn symbol(&self, name: &str) -> Result<u64, LibraryError> {
        self.symbols.get(name).copied().ok_or_else(|| LibraryError::Symbol { name: name.into() })
    }

    /// The compartment: to grant it memory, and to revoke it.
    pub fn compartment(&self) -> &Compartment {
        &self.compartment
    }

    /// Calls `function`, which may call the library's ([`symbol`](Self::symbol)), in the compartment. One call at a time, since C's libraries and
    /// the heap know of no threads.
    ///
    /// # Errors
    ///
    /// [`CallError`]: what the function did instead of returning.
    pub fn call<A: NoUninit, R: NoUninit + AnyBitPattern>(
        &mut self,
        dune: Dune,
        options: CallOptions<'_, '_>,
        function: fn(&A) -> R,
        argument: &A,
    ) -> Result<R, CallError> {
        self.compartment.call_with(dune, options, function, argument)
    }

    /// The name of what nobody supplies and a call has used, if that is why it has ended with `error`.
    pub fn missing(&self, error: &CallError) -> Option<&str> {
        let CallError::Fault { address, .. } = error else { return None };
        let (memory, names) = &self.missing;
        let offset = address.checked_sub(memory.start().as_u64())?;
        Some(names.get(usize::try_from(offset / MISSING_STEP).ok()?)?)
    }

    /// Makes variables, heap and stack as they were when it was loaded, and runs its constructors. Takes time for what was written to and for
    /// the variables. Memory that the compartment was granted stays.
    ///
    /// # Errors
    ///
    /// [`LibraryError`]; it is to be reset again then, or dropped.
    pub fn reset(&mut self, dune: Dune) -> Result<(), LibraryError> {
        self.compartment.renew(dune)?;
        self.compartment.clear(dune, &self.heap)?;
        for (offset, bytes) in &self.variables {
            self.image.write(*offset, bytes)?;
        }
        self.construct(dune)
    }

    fn construct(&self, dune: Dune) -> Result<(), LibraryError> {
        for (function, path) in &self.constructors {
            let done = self.compartment.call(dune, entry::construct, function);
            done.map_err(|why| LibraryError::Constructor { path: path.clone(), why })?;
        }
        Ok(())
    }
}
