//! Who may connect to the program's sockets.
//!
//! Linux looks at that: a socket that is to listen gets a filter (socket(7), SO_ATTACH_FILTER), which drops what comes to it from others, and is locked. So
//! there is no connection that another thread could use until it is closed. Only of sockets that others have made, and the program has from its
//! start, what has come before is looked at when it is accepted, and closed.

use std::net::IpAddr;
use std::str::FromStr;

use crate::policy::Rule;

/// Addresses from which connections may come.
#[derive(Clone, Debug, Default)]
pub struct Peers(Vec<Rule>);

/// More are not taken: a filter has 4096 instructions at most.
const MOST: usize = 150;

// `<linux/bpf_common.h>` and `<linux/filter.h>`: loads of a word, half a word and a byte, AND, jumps, RET.
const LOAD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Where the header of IP is (SKF_NET_OFF); that of TCP is at 0.
const HEADER: u32 = -0x0010_0000i32 as u32;

/// `struct sock_filter`, as eight bytes.
fn instruction(code: u16, skips: [usize; 2], number: u32) -> u64 {
    let [then, otherwise] = skips.map(|skip| skip as u64);
    u64::from(code) | then << 16 | otherwise << 24 | u64::from(number) << 32
}

/// What a jump does.
enum Step {
    Do(u16, u32),
    /// To the next rule unless this is so.
    Unless(u16, u32),
    /// To the next rule if this is so.
    If(u16, u32),
}

impl Peers {
    /// These addresses, with ports that the peers have: as in policies in files.
    ///
    /// # Errors
    ///
    /// What is no address, in a sentence; or that there are too many.
    pub fn new<'t>(rules: impl IntoIterator<Item = &'t str>) -> Result<Peers, String> {
        rules.into_iter().try_fold(Peers::default(), |mut peers, rule| peers.add(rule).map(|()| peers))
    }

    pub(crate) fn add(&mut self, rule: &str) -> Result<(), String> {
        if self.0.len() == MOST {
            return Err(format!("there are more than {MOST} rules about whose connections are accepted"));
        }
        self.0.push(Rule::from_str(rule)?);
        Ok(())
    }

    /// The rules, as people read them.
    pub(crate) fn rules(&self) -> Vec<String> {
        match &*self.0 {
            [] => vec!["accept connections from nobody".to_owned()],
            rules => rules.iter().map(|rule| format!("accept connections from {rule}")).collect(),
        }
    }

    /// Whether connections may come from there.
    pub(crate) fn has(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|rule| rule.covers(address, port))
    }

    /// The filter for a socket that listens: instructions, as [`instruction`] makes them.
    pub(crate) fn filter(&self) -> Vec<u64> {
        let mut program = Vec::new();
        for rule in &self.0 {
            let mut steps = Vec::new();
            if let Some((address, length)) = rule.network() {
                let (version, start, bytes) = match address {
                    IpAddr::V4(address) => (0x40, 12, address.octets().to_vec()),
                    IpAddr::V6(address) => (0x60, 8, address.octets().to_vec()),
                };
                steps.push(Step::Do(LOAD_BYTE, HEADER));
                steps.push(Step::Do(AND, 0xf0));
                steps.push(Step::Unless(IF_EQUAL, version));
                for (index, word) in bytes.as_chunks().0.iter().enumerate() {
                    let left = length.saturating_sub(32 * index as u32).min(32);
                    let mask = u32::MAX.checked_shl(32 - left).unwrap_or(0);
                    if mask == 0 {
                        break;
                    }
                    steps.push(Step::Do(LOAD, HEADER + start + 4 * index as u32));
                    steps.push(Step::Do(AND, mask));
                    steps.push(Step::Unless(IF_EQUAL, u32::from_be_bytes(*word)));
                }
            }
            let ports = rule.ports();
            if ports != (0..=u16::MAX) {
                steps.push(Step::Do(LOAD_HALF, 0));
                steps.push(Step::Unless(IF_NOT_LESS, (*ports.start()).into()));
                steps.push(Step::If(IF_GREATER, (*ports.end()).into()));
            }
            let count = steps.len();
            for (index, step) in steps.into_iter().enumerate() {
                // Over those that are left, and the RET behind them.
                let skip = count - index;
                program.push(match step {
                    Step::Do(code, number) => instruction(code, [0, 0], number),
                    Step::Unless(code, number) => instruction(code, [0, skip], number),
                    Step::If(code, number) => instruction(code, [skip, 0], number),
                });
            }
            program.push(instruction(RETURN, [0, 0], u32::MAX));
        }
        program.push(instruction(RETURN, [0, 0], 0));
        program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says of a packet from there.
    fn passes(program: &[u64], from: IpAddr, port: u16) -> bool {
        let mut header = [0u8; 40];
        match from {
            IpAddr::V4(from) => {
                header[0] = 0x45;
                header[12..16].copy_from_slice(&from.octets());
            }
            IpAddr::V6(from) => {
                header[0] = 0x60;
                header[8..24].copy_from_slice(&from.octets());
            }
        }
        let (mut accumulator, mut at) = (0u32, 0);
        loop {
            let word = program[at];
            let (code, number) = (word as u16, (word >> 32) as u32);
            let skips = [word >> 16 & 0xff, word >> 24 & 0xff].map(|skip| skip as usize);
            let place = number.wrapping_sub(HEADER) as usize;
            let jump = |is_so: bool| skips[usize::from(!is_so)];
            at += 1;
            match code {
                LOAD => accumulator = u32::from_be_bytes(*header[place..].first_chunk().expect("there")),
                LOAD_BYTE => accumulator = header[place].into(),
                LOAD_HALF => accumulator = port.into(),
                AND => accumulator &= number,
                IF_EQUAL => at += jump(accumulator == number),
                IF_GREATER => at += jump(accumulator > number),
                IF_NOT_LESS => at += jump(accumulator >= number),
                RETURN => return number != 0,
                other => panic!("{other:#x}"),
            }
        }
    }

    /// Addresses, ports, and whether connections may come from there.
    type From = &'static [(&'static str, u16, bool)];

    #[test]
    fn filters_say_what_rules_say() {
        let all: [(&[&str], From); 6] = [
            (&[], &[("10.0.0.1", 1, false), ("::1", 1, false)]),
            (&["*"], &[("10.0.0.1", 1, true), ("::1", 1, true), ("169.254.169.254", 1, true)]),
            (
                &["10.0.0.0/8", "192.0.2.7:1024-2000"],
                &[
                    ("10.1.2.3", 1, true),
                    ("11.1.2.3", 1, false),
                    ("192.0.2.7", 1023, false),
                    ("192.0.2.7", 1024, true),
                    ("192.0.2.7", 2000, true),
                    ("192.0.2.7", 2001, false),
                    ("192.0.2.6", 1024, false),
                    ("::a01:203", 1, false),
                ],
            ),
            (
                &["[2001:db8::]/33", "[::1]"],
                &[
                    ("2001:db8::1", 1, true),
                    ("2001:db8:8000::1", 1, false),
                    ("2001:db9::1", 1, false),
                    ("::1", 1, true),
                    ("::2", 1, false),
                    ("0.0.0.1", 1, false),
                ],
            ),
            (&["*:0-1023"], &[("10.0.0.1", 1023, true), ("::1", 1024, false)]),
            (&["[::]/0"], &[("10.0.0.1", 1, false), ("fe80::1", 1, true)]),
        ];
        for (rules, cases) in all {
            let peers = Peers::new(rules.iter().copied()).expect("rules");
            let program = peers.filter();
            for (address, port, wanted) in cases {
                let address: IpAddr = address.parse().expect("an address");
                assert_eq!(passes(&program, address, *port), *wanted, "{rules:?} {address} {port}");
                assert_eq!(peers.has(address, *port), *wanted, "{rules:?} {address} {port}");
            }
        }
        assert!(Peers::new(["10.0.0.0/8"]).expect("a rule").has("::ffff:10.0.0.1".parse().expect("one"), 1));
    }

    #[test]
    fn filters_are_as_long_as_linux_takes_them() {
        let longest = Peers::new(std::iter::repeat_n("[2001:db8::1]:1-2", MOST)).expect("rules");
        assert!(longest.filter().len() <= 4096, "BPF_MAXINSNS");
        let error = Peers::new(std::iter::repeat_n("*", MOST + 1)).expect_err("too many");
        assert!(error.contains("more than 150"), "{error}");
    }
}
