//! Rules about addresses of the Internet.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// Who has what a cloud tells its computers, keys among it: of Amazon (also for containers), Google, Azure, Alibaba, Oracle.
const METADATA: [IpAddr; 10] = [
    v4([169, 254, 169, 254]),
    v4([169, 254, 170, 2]),
    v4([169, 254, 170, 23]),
    v4([168, 63, 129, 16]),
    v4([100, 100, 100, 200]),
    v4([192, 0, 0, 192]),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23]),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]),
    v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]),
];

const fn v4(parts: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(parts[0], parts[1], parts[2], parts[3]))
}

const fn v6(p: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]))
}

/// Addresses and ports: `192.0.2.0/24:80-89`, `[2001:db8::]/32:443`, `*:53`; without ports all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The first bits of the addresses, and how many those are; `None` for all of both families.
    network: Option<(IpAddr, u32)>,
    ports: RangeInclusive<u16>,
    /// The host whose address it is, if the policy names that.
    host: Option<Arc<str>>,
}

/// The ports that a rule has behind its colon; without one all of them.
pub(super) fn ports(text: Option<&str>) -> Option<RangeInclusive<u16>> {
    let text = match text {
        None | Some("*") => return Some(0..=u16::MAX),
        Some(text) => text,
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Rule, String> {
        let wrong =
            || format!("{text:?} is not an address like 192.0.2.0/24:80-89, [2001:db8::]/32:443 or *:53");
        let (address, rest) = match text.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or_else(wrong)?,
            None => text.split_at(text.find(['/', ':']).unwrap_or(text.len())),
        };
        let (prefix, ports) = match rest.split_once(':') {
            Some((prefix, text)) => (prefix, ports(Some(text))),
            None => (rest, ports(None)),
        };
        let ports = ports.ok_or_else(wrong)?;
        if address == "*" && prefix.is_empty() {
            return Ok(Rule { network: None, ports, host: None });
        }
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        if address.is_ipv6() != text.starts_with('[') {
            return Err(wrong());
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match prefix.strip_prefix('/') {
            Some(length) => length.parse().ok().filter(|length| *length <= most).ok_or_else(wrong)?,
            None if prefix.is_empty() => most,
            None => return Err(wrong()),
        };
        let others = if length == most { 0 } else { u128::MAX >> (128 - (most - length)) };
        if bits(address) & others != 0 {
            return Err(format!("{text:?} has bits behind the first {length}"));
        }
        let network = match canonical(address) {
            IpAddr::V4(inner) if most == 128 && length >= 96 => (inner.into(), length - 96),
            _ => (address, length),
        };
        Ok(Rule { network: Some(network), ports, host: None })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.network {
            None => f.write_str("*")?,
            Some((IpAddr::V4(address), length)) => write!(f, "{address}/{length}")?,
            Some((IpAddr::V6(address), length)) => write!(f, "[{address}]/{length}")?,
        }
        match (self.ports.start(), self.ports.end()) {
            (0, &u16::MAX) => f.write_str(", all ports")?,
            (first, last) if first == last => write!(f, ":{first}")?,
            (first, last) => write!(f, ":{first}-{last}")?,
        }
        self.host.as_ref().map_or(Ok(()), |host| write!(f, ", which is {host}"))
    }
}

impl Rule {
    /// About an address, [as Linux means it](canonical), that a host has.
    pub(super) fn of_host(address: IpAddr, ports: RangeInclusive<u16>, host: Arc<str>) -> Rule {
        let length = if address.is_ipv4() { 32 } else { 128 };
        Rule { network: Some((address, length)), ports, host: Some(host) }
    }

    /// Whether it has one of these ports of the address.
    pub(super) fn has_some(&self, address: IpAddr, ports: &RangeInclusive<u16>) -> bool {
        let first = *self.ports.start().max(ports.start());
        first <= *ports.end() && self.has(address, first)
    }

    pub(super) fn has(&self, address: IpAddr, port: u16) -> bool {
        let is_exact = matches!(self.network, Some((own, _)) if own == address && self.is_one());
        (is_exact || !is_of_cloud(address)) && self.covers(address, port)
    }

    /// The same, whoever has the address.
    pub(crate) fn covers(&self, address: IpAddr, port: u16) -> bool {
        let is_in = self.network.is_none_or(|network| is_within(address, network));
        is_in && self.ports.contains(&port)
    }

    /// The first bits of the addresses, and how many those are.
    pub(crate) fn network(&self) -> Option<(IpAddr, u32)> {
        self.network
    }

    pub(crate) fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }

    /// Whether it is about one address.
    fn is_one(&self) -> bool {
        self.network.is_some_and(|(own, length)| length == if own.is_ipv4() { 32 } else { 128 })
    }

    pub(super) fn has_family(&self, is_v4: bool) -> bool {
        self.network.is_none_or(|(own, _)| own.is_ipv4() == is_v4)
    }
}

/// Whether a cloud tells its computers keys there.
pub(super) fn is_of_cloud(address: IpAddr) -> bool {
    METADATA.contains(&address)
}

/// Networks that are this computer's, or that others than everybody have (RFC 6890 and the registries of IANA that it began), and those in which other
/// addresses are wrapped (6to4, Teredo, translators' own).
const NOT_PUBLIC: [(IpAddr, u32); 20] = [
    (v4([0, 0, 0, 0]), 8),
    (v4([10, 0, 0, 0]), 8),
    (v4([100, 64, 0, 0]), 10),
    (v4([127, 0, 0, 0]), 8),
    (v4([169, 254, 0, 0]), 16),
    (v4([172, 16, 0, 0]), 12),
    (v4([192, 0, 0, 0]), 24),
    (v4([192, 168, 0, 0]), 16),
    (v4([198, 18, 0, 0]), 15),
    (v4([224, 0, 0, 0]), 3),
    // ::, ::1, and IPv4 addresses as IPv6 once had them.
    (v6([0; 8]), 96),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0]), 48),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0]), 64),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0]), 23),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0]), 16),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0]), 16),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0]), 7),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0]), 10),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0]), 10),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8),
];

/// Whether an address, [as Linux means it](canonical), is one that everybody can reach.
pub(super) fn is_public(address: IpAddr) -> bool {
    !is_of_cloud(address) && !NOT_PUBLIC.iter().any(|network| is_within(address, *network))
}

/// Whether the first bits are those.
fn is_within(address: IpAddr, (network, length): (IpAddr, u32)) -> bool {
    let most: u32 = if network.is_ipv4() { 32 } else { 128 };
    let differs = bits(network) ^ bits(address);
    network.is_ipv4() == address.is_ipv4() && differs.checked_shr(most - length).unwrap_or(0) == 0
}

/// The address that Linux means: an IPv4 address may be within one of IPv6 (RFC 4291 §2.5.5.2), and in one for a translator (RFC 6052).
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    let is_translated = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    match v6.to_ipv4_mapped() {
        Some(v4) => v4.into(),
        None if is_translated => Ipv4Addr::from(bits(address) as u32).into(),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().expect(text)
    }

    fn has(rule_text: &str, address: &str, port: u16) -> bool {
        rule(rule_text).has(canonical(address.parse().expect("an address")), port)
    }

    #[test]
    fn rules_have_addresses_and_ports() {
        for (text, address, port, wanted) in [
            ("10.0.0.0/8:80", "10.1.2.3", 80, true),
            ("10.0.0.0/8:80", "10.1.2.3", 81, false),
            ("10.0.0.0/8:80", "11.0.0.1", 80, false),
            ("10.0.0.0/8:80", "::ffff:10.0.0.1", 80, true),
            ("10.0.0.0/8:80", "64:ff9b::10.0.0.1", 80, true),
            ("10.0.0.0/8:80", "::10.0.0.1", 80, false),
            ("127.0.0.1", "127.0.0.1", 9, true),
            ("127.0.0.1:8000-8010", "127.0.0.1", 8010, true),
            ("127.0.0.1:8000-8010", "127.0.0.1", 8011, false),
            ("[2001:db8::]/32:443", "2001:db8:1::1", 443, true),
            ("[2001:db8::]/32:443", "2001:db9::1", 443, false),
            ("[::]/0", "2001:db9::1", 1, true),
            ("[::]/0", "1.2.3.4", 1, false),
            ("0.0.0.0/0:*", "1.2.3.4", 1, true),
            ("*:53", "1.2.3.4", 53, true),
            ("*:53", "::1", 53, true),
            ("*", "169.254.169.254", 80, false),
            ("*", "::ffff:169.254.169.254", 80, false),
            ("*", "64:ff9b::169.254.169.254", 80, false),
            ("*", "fd00:ec2::254", 80, false),
            ("169.254.0.0/16", "169.254.169.254", 80, false),
            ("169.254.0.0/16", "169.254.1.1", 80, true),
            ("169.254.169.254:80", "169.254.169.254", 80, true),
            ("[fd00:ec2::254]", "fd00:ec2::254", 80, true),
            ("[::ffff:10.0.0.0]/104:80", "10.1.1.1", 80, true),
            ("[::ffff:10.0.0.0]/104:80", "11.1.1.1", 80, false),
        ] {
            assert_eq!(has(text, address, port), wanted, "{text} {address} {port}");
        }
    }

    #[test]
    fn what_is_no_rule_is_said() {
        for text in [
            "",
            "localhost:80",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::1",
            "[10.0.0.1]:80",
            "1.2.3.4:90-80",
            "1.2.3.4:x",
            "1.2.3.4:70000",
            "[::1",
            "*/8",
            "1.2.3.4/:80",
            "[2001:db8::1]/32",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }
}
