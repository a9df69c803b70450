//! Policies in files: hosts by their names. The machines have no network: names are in `/etc/hosts`, or a name server of this case's has them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::directories::libraries;
use super::path_of;
use super::policies::Tree;
use crate::case::CaseResult;

/// The computer's own files about hosts, until this is dropped.
struct Own(Vec<(&'static str, Option<Vec<u8>>)>);

impl Own {
    fn put(files: &[(&'static str, &str)]) -> std::io::Result<Own> {
        let mut own = Own(Vec::new());
        for (path, text) in files {
            own.0.push((path, fs::read(path).ok()));
            fs::write(path, text)?;
        }
        Ok(own)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for (path, before) in &self.0 {
            let _ = match before {
                Some(before) => fs::write(path, before),
                None => fs::remove_file(path),
            };
        }
    }
}

/// An address for everybody, which this computer has meanwhile.
struct Public;

/// Of a network for examples (RFC 5737), to which no rule about private networks is to apply.
const PUBLIC: &str = "192.0.2.7";

impl Public {
    fn new() -> Result<Public, Box<dyn std::error::Error>> {
        let status =
            Command::new("ip").args(["addr", "add", &format!("{PUBLIC}/32"), "dev", "lo"]).status()?;
        if status.success() { Ok(Public) } else { Err(format!("ip addr add: {status}").into()) }
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["addr", "del", &format!("{PUBLIC}/32"), "dev", "lo"]).status();
    }
}

/// Answers questions about names, and counts them.
fn name_server() -> std::io::Result<Arc<AtomicUsize>> {
    let socket = UdpSocket::bind("127.0.0.1:53")?;
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            asked.fetch_add(1, Ordering::Relaxed);
            if let Some(answer) = answer(&packet[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(count)
}

/// What the name server says (RFC 1035 §4.1): the owners of these names say what they like.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let mut name = String::new();
    let mut at = 12;
    while let length @ 1.. = usize::from(*question.get(at)?) {
        name.push_str(std::str::from_utf8(question.get(at + 1..=at + length)?).ok()?);
        name.push('.');
        at += 1 + length;
    }
    let is_v4 = question.get(at + 1..at + 3)? == [0, 1];
    let addresses: &[[u8; 4]] = match &*name {
        _ if !is_v4 => &[],
        "public.test." => &[[192, 0, 2, 7]],
        "mixed.test." => &[[127, 0, 0, 1], [192, 0, 2, 7], [169, 254, 169, 254]],
        "rebound.test." => &[[127, 0, 0, 1]],
        "private.test." => &[[10, 0, 0, 1]],
        "cloud.test." => &[[169, 254, 169, 254]],
        _ => {
            return Some(
                [&question[..2], &[0x81, 0x83], &question[4..6], &[0; 6], &question[12..at + 5]].concat(),
            );
        }
    };
    let mut packet = [
        &question[..2],
        &[0x81, 0x80],
        &question[4..6],
        &[0, addresses.len() as u8],
        &[0; 4],
        &question[12..at + 5],
    ]
    .concat();
    for address in addresses {
        // The name of the question, A, IN, a minute, four bytes.
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        packet.extend(address);
    }
    Some(packet)
}

/// Says `name` to whoever comes.
fn serve(listener: &TcpListener, name: &'static str) -> std::io::Result<u16> {
    let taken = listener.try_clone()?;
    std::thread::spawn(move || {
        for mut stream in taken.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
    Ok(listener.local_addr()?.port())
}

fn run(options: &[&str], program: &str, words: &[&str]) -> Result<Output, Box<dyn std::error::Error>> {
    let mut command = Command::new("dune");
    command.arg("run").args(options).arg("--").arg(path_of(program)?).arg("hosts").args(words);
    Ok(command.output()?)
}

const SWITCH: (&str, &str) = ("/etc/nsswitch.conf", "hosts: files dns\n");
const RESOLVER: (&str, &str) = ("/etc/resolv.conf", "nameserver 127.0.0.1\n");

/// A program finds and gets to the hosts that its policy names, and to no others, and asks nobody.
pub fn named() -> CaseResult {
    let tree = Tree::new("hosts")?;
    let own = "127.0.0.1 localhost\n127.0.0.5 listed.test Upper.TEST\n127.0.0.6 other.test\n";
    let _own = Own::put(&[("/etc/hosts", own), SWITCH, RESOLVER])?;
    let _public = Public::new()?;
    let questions = name_server()?;
    let (listed, public) = (TcpListener::bind("127.0.0.5:0")?, TcpListener::bind((PUBLIC, 0))?);
    let (other, local) = (TcpListener::bind("127.0.0.6:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (listed_port, public_port) = (serve(&listed, "listed")?, serve(&public, "public")?);
    let (other_port, local_port) = (serve(&other, "other")?, serve(&local, "local")?);
    // They are open to who is not confined.
    let second = TcpListener::bind(("127.0.0.5", public_port)).and_then(|second| serve(&second, "second"))?;
    let policy = tree.path("policy.toml");
    let text = format!(
        "[files]\nread = [{}, \"/etc\"]\n[network]\nconnect = [\"listed.test:{listed_port}\", \"mixed.test:{public_port}\"]\n",
        libraries()
    );
    fs::write(&policy, text)?;
    let words = [
        format!("listed.test:{listed_port}"),
        format!("mixed.test:{public_port}"),
        format!("other.test:{other_port}"),
        format!("public.test:{public_port}"),
        format!("127.0.0.6:{other_port}"),
        format!("127.0.0.1:{local_port}"),
        format!("127.0.0.5:{second}"),
        format!("127.0.0.1:{public_port}"),
        "169.254.169.254:80".to_owned(),
        "name-server".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let denied = -libc::EACCES;
    let expected = format!(
        "listed.test is [127.0.0.5]\nlisted.test:{listed_port}: 0 listed\n\
         mixed.test is [{PUBLIC}]\nmixed.test:{public_port}: 0 public\n\
         other.test is []\npublic.test is []\n\
         127.0.0.6:{other_port}: {denied}\n127.0.0.1:{local_port}: {denied}\n127.0.0.5:{second}: {denied}\n\
         127.0.0.1:{public_port}: {denied}\n169.254.169.254:80: {denied}\n\
         name server, bound: {denied}\nname server, sent: {denied}\nname server, connected: {denied}\nname server, by TCP: {denied}\n\
         slow: false\n"
    );
    for program in ["confined", "confined-static-pie"] {
        let before = questions.load(Ordering::Relaxed);
        let output = run(&["--policy", &policy], program, &words)?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{program}: {output:?}");
        // The launcher has asked about the one name that is not in the file, IPv4 and IPv6; the program nobody about anything.
        let asked = questions.load(Ordering::Relaxed) - before;
        assert_eq!(asked, 2, "{program}");
    }
    // Natively all of that is there.
    let output = Command::new(path_of("confined")?).arg("hosts").args(&words[2..7]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let open = ["other.test:", "public.test:", "127.0.0.6:", "127.0.0.1:", "127.0.0.5:"];
    let is_open = |name: &&str| said.lines().any(|line| line.starts_with(*name) && line.contains(": 0"));
    assert_eq!(open.iter().filter(|name| is_open(name)).count(), open.len(), "{output:?}");
    drop((listed, public, other, local));
    Ok(())
}

/// What a name's owner chooses does not open this computer, private networks, or what clouds tell their computers; what is not found is said.
pub fn errors() -> CaseResult {
    let tree = Tree::new("hosts-errors")?;
    let _own = Own::put(&[("/etc/hosts", "127.0.0.1 localhost\n"), SWITCH, RESOLVER])?;
    let _questions = name_server()?;
    let policy = tree.path("policy.toml");
    for (rules, line, parts) in [
        ("\"rebound.test:80\"", 2, &["rebound.test leads to 127.0.0.1, which", "name the address, too"][..]),
        ("\"private.test:80\"", 2, &["private.test leads to 10.0.0.1, which"]),
        ("\n\"192.0.2.1:1\",\n\"cloud.test\"", 4, &["cloud.test leads to 169.254.169.254, which"]),
        ("\"none.test:80\"", 2, &["the host none.test is not found", "missing = \"skip\""]),
        ("\"*.test:80\"", 2, &["nobody can list", "name each host"]),
    ] {
        fs::write(&policy, format!("[network]\nconnect = [{rules}]\n"))?;
        let output = run(&["--policy", &policy], "confined-static-pie", &[])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(said.contains(&format!("policy.toml:{line}: ")), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)) && output.stdout.is_empty(), "{said}");
    }
    // A rule about the address is what opens it.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = serve(&listener, "rebound")?;
    let rules = format!("\"rebound.test:{port}\", \"127.0.0.1:{port}\"");
    fs::write(&policy, format!("[network]\nconnect = [{rules}]\n"))?;
    let word = format!("rebound.test:{port}");
    let output = run(&["--policy", &policy], "confined-static-pie", &[&word])?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(&format!("rebound.test is [127.0.0.1]\n{word}: 0 rebound\n")), "{output:?}");
    // The command line names hosts, too, and what it names has to be there.
    let output = run(&["--policy", "cli", "--connect", &word], "confined", &[&word])?;
    assert!(output.status.code() == Some(2), "{output:?}");
    let localhost = format!("localhost:{port}");
    let output = run(&["--policy", "cli", "--connect", &localhost], "confined", &[&localhost])?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.starts_with("localhost is [") && said.contains(&format!("{localhost}: 0 rebound\n")),
        "{output:?}"
    );
    let output = Command::new("dune").args(["run", "--explain", "cli", "--connect", &localhost]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let words = ["which is localhost\n", "for the program the host localhost is 127.0.0.1"];
    assert!(words.iter().all(|part| said.contains(part)), "{said}");
    for name in ["none.test:1", "rebound.test:1"] {
        let output = run(&["--policy", "tool", "--connect", name], "confined", &[])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(&format!("connect to {name}: ")), "{said}");
    }
    Ok(())
}
