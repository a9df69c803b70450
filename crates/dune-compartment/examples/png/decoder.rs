//! Debian's libpng, in a compartment.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use dune::Dune;
use dune_compartment::{
    CallError, CallOptions, Compartments, Library, LibraryError, LibraryOptions, PagePermissions, Slice,
    SpaceMemory, TimeLimit,
};

/// Rows of pixels of four bytes: red, green, blue, alpha.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<u8>,
}

/// Why there is no picture.
#[derive(Debug)]
pub enum DecodeError {
    /// The decoder says what is wrong with the file.
    Refused(String),
    /// The decoder did what it must not, and what it used that is not there.
    Stopped(CallError, Option<String>),
    /// There was no decoder to be had.
    Library(LibraryError),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Refused(why) => write!(f, "the decoder says: {why}"),
            DecodeError::Stopped(why, None) => write!(f, "{why}"),
            DecodeError::Stopped(why, Some(missing)) => write!(f, "{why}: it has used {missing}"),
            DecodeError::Library(why) => write!(f, "{why}"),
        }
    }
}

impl Error for DecodeError {}

/// A decoder, with memory for files and pictures.
#[derive(Debug)]
pub struct Decoder {
    dune: Dune,
    pub library: Library,
    functions: [u64; 3],
    file: Arc<SpaceMemory>,
    pixels: Arc<SpaceMemory>,
}

/// What the function in the compartment is told.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Order {
    functions: [u64; 3],
    file: Slice,
    pixels: Slice,
}

/// And what it says. A stranger may have written it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Outcome {
    is_done: u32,
    size: [u32; 2],
    message: [u8; 64],
}

/// `png_image` of png.h (libpng 1.6).
#[repr(C)]
struct Image {
    opaque: usize,
    version: u32,
    width: u32,
    height: u32,
    format: u32,
    flags: u32,
    colormap_entries: u32,
    warning_or_error: u32,
    message: [u8; 64],
}

const VERSION: u32 = 1;
/// PNG_FORMAT_RGBA.
const RGBA: u32 = 3;

impl Decoder {
    /// One for files and pictures of up to so many bytes.
    pub fn new(
        dune: Dune,
        compartments: &Compartments,
        options: &LibraryOptions,
        bytes: u64,
    ) -> Result<Decoder, LibraryError> {
        let library = Library::load(dune, compartments, "libpng16.so.16", options)?;
        let (file, pixels) = (compartments.memory(dune, bytes)?, compartments.memory(dune, bytes)?);
        library.compartment().grant(dune, &file, PagePermissions::READ)?;
        library.compartment().grant(dune, &pixels, PagePermissions::READ_WRITE)?;
        let functions = [
            library.symbol("png_image_begin_read_from_memory")?,
            library.symbol("png_image_finish_read")?,
            library.symbol("png_image_free")?,
        ];
        Ok(Decoder { dune, library, functions, file, pixels })
    }

    /// The picture in `file`. After an error the decoder is as new.
    pub fn decode(&mut self, file: &[u8], limit: Option<Duration>) -> Result<Picture, DecodeError> {
        let picture = self.try_to_decode(file, limit);
        if picture.is_err() {
            self.library.reset(self.dune).map_err(DecodeError::Library)?;
        }
        picture
    }

    fn try_to_decode(&mut self, file: &[u8], limit: Option<Duration>) -> Result<Picture, DecodeError> {
        self.file.write(0, file).map_err(|why| DecodeError::Library(why.into()))?;
        let order = Order {
            functions: self.functions,
            file: Slice::new(&self.file, 0..file.len() as u64),
            pixels: Slice::new(&self.pixels, 0..u64::MAX),
        };
        let limit = limit.map(|limit| TimeLimit::new(self.dune, limit)).transpose();
        let limit = limit.map_err(|why| DecodeError::Stopped(why.into(), None))?;
        let mut options = CallOptions::new();
        if let Some(limit) = &limit {
            options = options.limit(limit);
        }
        let outcome = self.library.call(self.dune, options, decode, &order);
        let outcome = outcome
            .map_err(|why| DecodeError::Stopped(why, self.library.missing(&why).map(str::to_owned)))?;
        let [width, height] = outcome.size;
        let bytes = (u64::from(width) * u64::from(height)).saturating_mul(4);
        if outcome.is_done != 1 || bytes > order.pixels.len() {
            let text = outcome.message.split(|byte| *byte == 0).next().unwrap_or_default();
            return Err(DecodeError::Refused(text.escape_ascii().to_string()));
        }
        let mut pixels = vec![0; bytes as usize];
        self.pixels.read(0, &mut pixels).map_err(|why| DecodeError::Library(why.into()))?;
        Ok(Picture { width, height, pixels })
    }
}

/// In the compartment: libpng's "simplified API".
fn decode(order: &Order) -> Outcome {
    let [begin, finish, end] = order.functions;
    // SAFETY: png.h declares them so. Whatever they do harms the compartment alone.
    let (begin, finish, end) = unsafe {
        (
            std::mem::transmute::<u64, extern "C" fn(*mut Image, u64, u64) -> i32>(begin),
            std::mem::transmute::<u64, extern "C" fn(*mut Image, u64, u64, i32, u64) -> i32>(finish),
            std::mem::transmute::<u64, extern "C" fn(*mut Image)>(end),
        )
    };
    let mut image = Image {
        opaque: 0,
        version: VERSION,
        width: 0,
        height: 0,
        format: 0,
        flags: 0,
        colormap_entries: 0,
        warning_or_error: 0,
        message: [0; 64],
    };
    let mut outcome = Outcome { is_done: 0, size: [0; 2], message: [0; 64] };
    if begin(&raw mut image, order.file.address(), order.file.len()) != 0 {
        outcome.size = [image.width, image.height];
        image.format = RGBA;
        if u64::from(image.width) * u64::from(image.height) > order.pixels.len() / 4 {
            outcome.message[..9].copy_from_slice(b"too large");
        } else if finish(&raw mut image, 0, order.pixels.address(), 0, 0) != 0 {
            outcome.is_done = 1;
        }
    }
    if image.warning_or_error != 0 {
        outcome.message = image.message;
    }
    end(&raw mut image);
    outcome
}
