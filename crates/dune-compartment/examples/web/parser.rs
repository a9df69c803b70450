//! What runs in the compartment of a connection: the parser of what strangers send.

use dune_compartment::Slice;
use dune_compartment::bytemuck::{Pod, Zeroable};

/// What the parser says of a request. It may be anything, if the parser has been taken over.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Request {
    /// [`PARTIAL`], [`WHOLE`] or [`BAD`].
    pub state: u32,
    /// How many bytes it has.
    pub bytes: u32,
    /// Where in these the path is, and its bytes.
    pub path: [u32; 2],
    /// Whether another one may follow.
    pub keep_alive: u32,
    /// Whether `peeked` says something.
    pub has_peeked: u32,
    /// What the attacker has found: see [`parse`].
    pub peeked: u64,
}

pub const PARTIAL: u32 = 0;
pub const WHOLE: u32 = 1;
pub const BAD: u32 = 2;

/// The most headers of a request.
const MOST_HEADERS: usize = 48;

/// Parses the request at the start of `text`.
///
/// It has a hole, for attackers to try: the header `X-Peek: ADDRESS` makes it read there, wherever that is, as a parser that writes over the end
/// of its buffer can be made to.
pub fn parse(text: &Slice) -> Request {
    // SAFETY: granted, or a fault.
    let bytes = unsafe { text.bytes() };
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let mut result = Request::zeroed();
    let (length, path) = match (request.parse(bytes), request.path) {
        (Ok(httparse::Status::Complete(length)), Some(path)) => (length, path),
        (Ok(httparse::Status::Partial), _) => return result,
        _ => {
            result.state = BAD;
            return result;
        }
    };
    result.state = WHOLE;
    result.bytes = length as u32;
    result.path = [(path.as_ptr() as usize - bytes.as_ptr() as usize) as u32, path.len() as u32];
    result.keep_alive = u32::from(request.version == Some(1));
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("connection") {
            result.keep_alive = header.value.eq_ignore_ascii_case(b"keep-alive").into();
        }
        if header.name.eq_ignore_ascii_case("x-peek") {
            let digit = |byte: &u8| (*byte as char).to_digit(16).map(u64::from);
            let address = header.value.iter().map_while(digit).fold(0, |address, digit| address << 4 | digit);
            // SAFETY: none; it is the hole.
            result.peeked =
                unsafe { std::ptr::with_exposed_provenance::<u64>(address as usize).read_unaligned() };
            result.has_peeked = 1;
        }
    }
    result
}
