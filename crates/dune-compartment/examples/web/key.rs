//! The private key: only one compartment can read it.

use std::io::Read;
use std::sync::Arc;

use dune::Dune;
use dune_compartment::bytemuck::{Pod, Zeroable};
use dune_compartment::{Compartment, Compartments, PagePermissions, Slice, SpaceMemory};
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use rustls::SignatureScheme;
use rustls::sign::Signer;
use sha2::{Digest, Sha256};

/// A key of the curve P-256, which signs what it is given and is told to nobody.
#[derive(Clone, Debug)]
pub struct Key(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    compartment: Compartment,
    /// Whether everybody signs for himself.
    trusting: bool,
    memory: Arc<SpaceMemory>,
    public: Vec<u8>,
}

/// The bytes of the key.
const BYTES: usize = 32;

/// In the compartment: the public key of the one that lies there, as SEC 1 writes it, or zeros if there can be none.
fn public(key: &Slice) -> [u8; 65] {
    // SAFETY: granted, or a fault.
    let Ok(key) = SigningKey::from_slice(unsafe { key.bytes() }) else { return [0; 65] };
    let point = key.verifying_key().to_encoded_point(false);
    point.as_bytes().try_into().unwrap_or([0; 65])
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Order {
    key: Slice,
    hash: [u8; 32],
}

/// In the compartment: the signature, as 64 bytes; zeros if there is none.
fn sign(order: &Order) -> [u8; 64] {
    // SAFETY: granted, or a fault.
    let key = SigningKey::from_slice(unsafe { order.key.bytes() });
    let signature: Option<Signature> = key.ok().and_then(|key| key.sign_prehash(&order.hash).ok());
    signature.map_or([0; 64], |signature| signature.to_bytes().into())
}

impl Key {
    /// A new key. The program has it for a moment, and from then on only what is in its compartment.
    pub fn new(
        dune: Dune,
        compartments: &Compartments,
        trusting: bool,
    ) -> Result<Key, Box<dyn std::error::Error>> {
        let (compartment, memory) = (compartments.create(dune)?, compartments.memory(dune, BYTES as u64)?);
        compartment.grant(dune, &memory, PagePermissions::READ)?;
        let mut random = std::fs::File::open("/dev/urandom")?;
        loop {
            let mut bytes = [0; BYTES];
            random.read_exact(&mut bytes)?;
            memory.write(0, &bytes)?;
            let public = compartment.call(dune, public, &Slice::new(&memory, 0..BYTES as u64))?;
            // Not every number is a key.
            if public != [0; 65] {
                return Ok(Key(Arc::new(Inner { compartment, trusting, memory, public: public.to_vec() })));
            }
        }
    }

    /// Where it lies: for an attacker.
    pub fn address(&self) -> u64 {
        self.0.memory.start().as_u64()
    }

    /// The signature of `message`, by ECDSA with SHA-256, in DER.
    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let dune = dune::current().ok_or("the thread is not in Dune mode")?;
        let key = Slice::new(&self.0.memory, 0..BYTES as u64);
        let order = Order { key, hash: Sha256::digest(message).into() };
        let signature = if self.0.trusting {
            sign(&order)
        } else {
            self.0.compartment.call(dune, sign, &order).map_err(|why| why.to_string())?
        };
        let signature = Signature::from_slice(&signature).map_err(|why| why.to_string())?;
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

impl rustls::sign::SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme()).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signature(message).map_err(rustls::Error::General)
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

// For the certificate, which it signs itself.

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.0.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
