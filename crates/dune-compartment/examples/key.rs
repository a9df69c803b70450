//! A key that one function can read, and a parser of what strangers send that can be made to read anything.
//!
//! ```sh
//! cargo run --release -p dune-compartment --example key
//! ```

use std::hash::Hasher;
use std::sync::Arc;

use dune::Dune;
use dune_compartment::{
    CallError, CallOptions, Compartment, Compartments, Gate, Gates, PagePermissions, Slice, SpaceMemory,
};
use siphasher::sip::SipHasher24;

dune_compartment::memory_functions!();

/// A tag for what lies in the memory that the parser shares with its caller.
const TAG: Gate<Slice, u64> = Gate::new(0);

/// In the key's compartment: the tag of `words[1]` bytes at `words[0]`, by the key at `words[2]`.
fn tag(words: &[Slice; 2]) -> u64 {
    let [text, key] = words;
    // SAFETY: granted, or a fault.
    let (text, key) = unsafe { (text.bytes(), key.bytes()) };
    let mut hasher = SipHasher24::new_with_key(key.try_into().unwrap_or(&[0; 16]));
    hasher.write(text);
    hasher.finish()
}

/// In the parser's compartment: the tag of the first word of a request. A request that begins with `@` and an address is what an attacker
/// makes of a buffer overflow: the parser reads that address.
fn parse(request: &Slice) -> u64 {
    // SAFETY: granted, or a fault.
    let text = unsafe { request.bytes() };
    if let [b'@', digits @ ..] = text {
        let digit = |byte: &u8| (*byte as char).to_digit(16).map(u64::from);
        let address = digits.iter().map_while(digit).fold(0, |address, digit| address << 4 | digit);
        // SAFETY: none; it is an attack.
        return unsafe { std::ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() };
    }
    let word = text.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count() as u64;
    TAG.ask(&request.first(word)).unwrap_or(0)
}

/// The program: two compartments, and what it knows itself.
struct Program {
    dune: Dune,
    parser: Compartment,
    signer: Compartment,
    request: Arc<SpaceMemory>,
    key: Arc<SpaceMemory>,
}

impl Program {
    fn new(dune: Dune) -> Result<Program, Box<dyn std::error::Error>> {
        // SAFETY: nothing in this program protects or unmaps its stacks and heap.
        let compartments = unsafe { Compartments::new(dune)? };
        let (parser, signer) = (compartments.create(dune)?, compartments.create(dune)?);
        let (request, key) = (compartments.memory(dune, 4096)?, compartments.memory(dune, 4096)?);
        key.write(0, &rand_key()?)?;
        parser.grant(dune, &request, PagePermissions::READ)?;
        signer.grant(dune, &request, PagePermissions::READ)?;
        signer.grant(dune, &key, PagePermissions::READ)?;
        Ok(Program { dune, parser, signer, request, key })
    }

    fn answer(&self, text: &[u8]) -> Result<u64, CallError> {
        self.request.write(0, text)?;
        let key = Slice::new(&self.key, 0..16);
        // The parser says which bytes, and may say anything: the signer has the request and the key, so it could be asked to tag the key,
        // but not to tell it.
        let mut gates =
            Gates::new().with(TAG, |text| self.signer.call(self.dune, tag, &[text, key]).unwrap_or(0));
        let request = Slice::new(&self.request, 0..text.len() as u64);
        self.parser.call_with(self.dune, CallOptions::new().gates(&mut gates), parse, &request)
    }
}

fn rand_key() -> std::io::Result<[u8; 16]> {
    let mut key = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
    Ok(key)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = Program::new(dune::enter()?)?;
    let secret = Box::new(0x5ec2e7u64);
    println!("\"hello\" has the tag {:016x}", program.answer(b"hello world")?);
    for (what, address) in [
        ("the key", program.key.start().as_u64()),
        ("the heap", (&raw const *secret).expose_provenance() as u64),
    ] {
        match program.answer(format!("@{address:x}").as_bytes()) {
            Ok(word) => return Err(format!("the attacker has read {word:#x} from {what}").into()),
            Err(error) => println!("an attack on {what}: {error}"),
        }
    }
    println!("\"hello\" has the tag {:016x} still", program.answer(b"hello again")?);
    Ok(())
}
