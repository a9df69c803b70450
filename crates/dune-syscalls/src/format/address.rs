//! The addresses of sockets.

use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};

use super::text;
use crate::memory::Memory;
use crate::names::FAMILY;
use linux_raw_sys::net as linux;

/// `struct sockaddr_storage`.
const LARGEST: usize = 128;

/// A `struct sockaddr` of so many bytes.
pub(super) fn socket<M: Memory + ?Sized>(
    out: &mut dyn Write,
    memory: &M,
    address: u64,
    length: u64,
) -> fmt::Result {
    let mut bytes = [0; LARGEST];
    let bytes = &mut bytes[..usize::try_from(length).unwrap_or(LARGEST).min(LARGEST)];
    if bytes.len() < 2 || memory.read(address, bytes).is_err() {
        return write!(out, "{address:#x}");
    }
    let (family, data) = bytes.split_at(2);
    let family = u16::from_le_bytes([family[0], family[1]]);
    out.write_str("{sa_family=")?;
    match FAMILY.choice(family.into()) {
        Some(name) => out.write_str(name)?,
        None => write!(out, "{family:#x}")?,
    }
    match (u32::from(family), data) {
        (linux::AF_UNIX, [0, name @ ..]) if !name.is_empty() => {
            out.write_str(", sun_path=@")?;
            text::quoted(out, name, "")?;
        }
        (linux::AF_UNIX, [_, ..]) => {
            let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
            out.write_str(", sun_path=")?;
            text::quoted(out, &data[..end], "")?;
        }
        (linux::AF_INET, &[high, low, a, b, c, d, ..]) => {
            let (port, address) = (u16::from_be_bytes([high, low]), Ipv4Addr::new(a, b, c, d));
            write!(out, ", sin_port=htons({port}), sin_addr=inet_addr(\"{address}\")")?;
        }
        (linux::AF_INET6, &[high, low, f0, f1, f2, f3, ref rest @ ..]) if rest.len() >= 20 => {
            let (address, scope) = rest.split_at(16);
            let address = <[u8; 16]>::try_from(address).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from);
            let port = u16::from_be_bytes([high, low]);
            let flow = u32::from_be_bytes([f0, f1, f2, f3]);
            let scope = u32::from_le_bytes([scope[0], scope[1], scope[2], scope[3]]);
            write!(out, ", sin6_port=htons({port}), sin6_flowinfo=htonl({flow}), ")?;
            write!(out, "inet_pton(AF_INET6, \"{address}\", &sin6_addr), sin6_scope_id={scope}")?;
        }
        (linux::AF_NETLINK, &[_, _, p0, p1, p2, p3, g0, g1, g2, g3, ..]) => {
            let (process, groups) =
                (u32::from_le_bytes([p0, p1, p2, p3]), u32::from_le_bytes([g0, g1, g2, g3]));
            write!(out, ", nl_pid={process}, nl_groups={groups:08x}")?;
        }
        (_, []) => (),
        _ => {
            out.write_str(", sa_data=")?;
            text::quoted(out, data, "")?;
        }
    }
    out.write_char('}')
}
