use std::net::Ipv4Addr;

use super::*;
use crate::policy::hosts::Own;

/// The policy, where hosts have these addresses.
fn read(text: &str, more: &Additions) -> Result<FromFile, PolicyError> {
    let find = |name: &str| match name {
        "good.example" => Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into()]),
        "rebound.example" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    FromFile::looked_up(Path::new("p.toml"), text, more, &Lookup { find: &find, own: &Own::default })
}

fn error(text: &str) -> String {
    read(text, &Additions::default()).expect_err(text).to_string()
}

#[test]
fn errors_name_line_and_key() {
    for (text, line, parts) in [
        ("[files]\nread = [\"/usr\"]\nraed = [\"/etc\"]\n", 3, &["unknown field `raed`", "`read`"][..]),
        ("[filse]\n", 1, &["unknown field `filse`"]),
        ("\n[files]\nread = \"/usr\"\n", 3, &["invalid type", "read = "]),
        ("[files]\nread = [\"/usr\",\n  \"usr\"]\n", 3, &["usr is not absolute"]),
        ("[files]\nwrite = [\"/no/such/file\"]\n", 2, &["/no/such/file cannot be had", "write = "]),
        ("[files]\nread = [\"/usr\"]\nwrite = [\"/usr\"]\n", 3, &["with another access", "write = "]),
        ("[network]\nfamilies = [\"unix\"]\n", 2, &["unknown variant `unix`", "families = "]),
        ("[limits]\ncpu_seconds = -1\n", 2, &["cpu_seconds = -1"]),
        ("[limits]\nmemory = 1\n", 2, &["unknown field `memory`", "`memory_bytes`"]),
        ("denial = \"shrug\"\n", 1, &["unknown variant `shrug`", "denial = "]),
        ("[environment.set]\n\"A=B\" = \"c\"\n", 2, &["\"A=B\" can not be a variable"]),
        ("denial = \"kill\"\ndenial = \"kill\"\n", 2, &["duplicate key"]),
        ("files =\n", 1, &["files ="]),
        ("[files]\nhidden = [\"/usr\"]\nexecute = [\"/usr\"]\n", 3, &["with another access", "execute = "]),
        ("children = 1\n", 1, &["children = 1"]),
        ("[files]\nlayer = [\"/etc/passwd\"]\n", 2, &["/etc/passwd is no directory", "layer = "]),
        ("[files]\nlayer = [\"/usr\"]\nmemory = [\"/usr\"]\n", 3, &["with another access", "memory = "]),
        (
            "[files]\nmemory = [\"/usr\"]\nexecute = [\"/usr/bin\"]\n",
            3,
            &["with another access", "execute = "],
        ),
        ("[files]\nread = [\"/usr\"]\nabsent = [\"usr\"]\n", 3, &["usr is not absolute", "absent = "]),
        ("[files]\nlayer_bytes = -1\n", 2, &["layer_bytes = -1"]),
        (
            "[network]\nconnect = [\"*:1\",\n \"there:80\"]\n",
            3,
            &["the host there is not found: ", "missing = \"skip\""],
        ),
        ("[network]\nconnect = [\"*.example:80\"]\n", 2, &["nobody can list", "connect = "]),
        ("[network]\nsend = [\"rebound.example:80\"]\n", 2, &["leads to 127.0.0.1, which is", "send = "]),
        ("[network]\nbind = [\"good.example:80\"]\n", 2, &["hosts are for `connect` and `send`", "bind = "]),
        (
            "[files]\nwrite = [\"/etc/hosts\"]\n[network]\nconnect = [\"good.example:80\"]\n",
            2,
            &["/etc/hosts is there already", "write = "],
        ),
        ("[network]\nbind = [\"10.0.0.1/8\"]\n", 2, &["has bits behind the first 8"]),
        ("[network]\naccept = [\"10.0.0.1/8\"]\n", 2, &["has bits behind the first 8", "accept = "]),
        ("[network]\naccept = [\"/socket\"]\n", 2, &["\"/socket\" is not an address like"]),
        ("[network]\nconnect = [\"/etc/passwd\"]\n", 2, &["/etc/passwd is neither a socket nor"]),
        ("[network]\nconnect = [\"/no/such/socket\"]\n", 2, &["/no/such/socket cannot be had"]),
        ("[network]\nsend = [\"/etc\"]\n", 2, &["the directory /etc is below nothing"]),
        (
            "[files]\nread = [\"/etc\"]\n[network]\nbind = [\"/etc/socket\"]\n",
            4,
            &["no socket can be made at /etc/socket", "`write`"],
        ),
    ] {
        let said = error(text);
        assert!(said.starts_with(&format!("p.toml:{line}: ")), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)) && !said.contains('\n'), "{said}");
    }
}

#[test]
fn the_environment_is_what_is_named() {
    let text = "[environment]\nkeep = [\"A\", \"B\"]\n[environment.set]\nB = \"2\"\nC = \"3\"\n";
    let policy = FromFile::of_text(Path::new("p.toml"), text).expect("a policy");
    let given = ["A=1", "AB=1", "B=1", "D=1"].map(|text| CString::new(text).expect("no NUL"));
    let said: Vec<_> = policy.environment(given.to_vec());
    assert_eq!(said, [c"A=1", c"B=2", c"C=3"].map(CString::from));
}

/// Two lists may name the same directory twice: it is one root, which gets one place.
#[test]
fn a_layer_is_one_root() {
    let text = "[files]\nlayer = [\"/usr\", \"/usr/./\"]\nexecute = [\"/usr\", \"/usr/bin\"]\n";
    let policy = FromFile::of_text(Path::new("p.toml"), text).expect("a policy");
    let roots = policy.files().expect("files").roots();
    let said: Vec<_> = roots.iter().map(|root| (root.path.to_str(), root.access, root.executes)).collect();
    let expected = [(Some("/usr"), Access::Layer, true), (Some("/usr/bin"), Access::Layer, true)];
    assert_eq!(said, expected);
    assert!(roots.iter().all(|root| root.place().is_none()), "nothing is made when a policy is read");
}

/// About addresses that no rule names, and nothing else; Linux then lets all ports be used.
#[test]
fn who_is_asked_is_asked_about_addresses() {
    let text = "denial = \"ask\"\n[network]\nconnect = [\"192.0.2.1:80\"]\n";
    let policy = FromFile::of_text(Path::new("p.toml"), text).expect("a policy");
    let of = |name| Request::of_registers(dune_syscalls::by_name(name).expect("a call"), &[0; 6]);
    assert_eq!(policy.denial(), Decision::Ask);
    for (name, errno) in [("open", libc::EACCES), ("chown", libc::EPERM), ("ptrace", libc::EACCES)] {
        assert_eq!(policy.decide(&of(name)), Decision::Deny(errno), "{name}");
    }
    let connect = |path: &[u8]| {
        let mut request = of("connect");
        request.name_socket(path);
        policy.decide(&request)
    };
    let address = |port: u8| [2, 0, 0, port, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!([connect(&address(80)), connect(&address(81))], [Decision::Allow, Decision::Ask]);
    assert_eq!(connect(b"\x01\0/socket"), Decision::Deny(libc::EACCES));
    assert_eq!(connect(b"\x02\0"), Decision::Deny(libc::EACCES));
}

#[test]
fn who_executes_has_children() {
    let may = |text: &str, name| {
        let policy = FromFile::of_text(Path::new("p.toml"), text).expect("a policy");
        let call = dune_syscalls::by_name(name).expect("a call");
        policy.may_allow(call, &call.form)
    };
    let execute = "[files]\nexecute = [\"/usr\"]\n";
    assert!(may(execute, "execve") && may(execute, "fork"));
    let alone = format!("children = false\n{execute}");
    assert!(may(&alone, "execve") && !may(&alone, "fork"));
    assert!(!may("children = true\n", "execve") && may("children = true\n", "vfork"));
}

#[test]
fn nothing_is_allowed_that_is_not_named() {
    let policy = FromFile::of_text(Path::new("p.toml"), "").expect("a policy");
    assert!(policy.files().is_none() && policy.environment(vec![c"A=1".into()]).is_empty());
    for name in ["open", "socket", "execve", "fork"] {
        let call = dune_syscalls::by_name(name).expect("a call");
        assert!(!policy.may_allow(call, &call.form), "{name}");
    }
}

/// What a policy says to connecting there.
fn connecting(policy: &FromFile, address: [u8; 4], port: u8) -> Decision {
    let mut request = Request::of_registers(dune_syscalls::by_name("connect").expect("a call"), &[0; 6]);
    let [a, b, c, d] = address;
    request.name_socket(&[2, 0, 0, port, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]);
    policy.decide(&request)
}

#[test]
fn hosts_are_connected_to_and_found() {
    let text = "[files]\nread = [\"/etc/hosts\", \"/etc\"]\n[network]\nconnect = [\"good.example:80\"]\n";
    let policy = read(text, &Additions::default()).expect("a policy");
    let denied = Decision::Deny(libc::EACCES);
    for (address, port, expected) in [
        ([192, 0, 2, 1], 80, Decision::Allow),
        ([192, 0, 2, 1], 81, denied),
        ([192, 0, 2, 2], 80, denied),
        ([127, 0, 0, 1], 80, denied),
        // A name server.
        ([127, 0, 0, 1], 53, denied),
        ([192, 0, 2, 1], 53, denied),
    ] {
        assert_eq!(connecting(&policy, address, port), expected, "{address:?}:{port}");
    }
    assert_eq!(policy.network_rules(), ["connect to 192.0.2.1/32:80, which is good.example"]);
    assert_eq!(policy.hosts().len(), 1);
    // What the program reads is served, and nobody reads what is there.
    let files = policy.files().expect("files");
    let root = files.root_of(Path::new("/etc/hosts")).map(|(root, _)| root.access);
    assert_eq!(root, Some(Access::Served));
    let served = policy.served.iter().find(|(path, _)| path.ends_with("hosts")).expect("served");
    assert!(served.1.ends_with("192.0.2.1 good.example\n"), "{}", served.1);
    // Another process makes the same.
    assert!(policy.recipe().is_some());
}

#[test]
fn hosts_that_are_not_found_can_be_left_out() {
    let text = "[files]\nmissing = \"skip\"\n[network]\nconnect = [\"no.example:80\", \"good.example:81\"]\n";
    let policy = read(text, &Additions::default()).expect("a policy");
    assert_eq!(policy.network_rules(), ["connect to 192.0.2.1/32:81, which is good.example"]);
    let words = crate::effective::Effective::of(&policy).words();
    for part in ["left out: the host no.example\n", "the host good.example is 192.0.2.1\n"] {
        assert!(words.contains(part), "{words}");
    }
    let refused = read(&text.replace("good", "rebound"), &Additions::default()).expect_err("it is there");
    assert!(refused.to_string().contains("leads to 127.0.0.1"), "{refused}");
}

#[test]
fn the_command_line_adds_whom_to_connect_to() {
    let more = |rule: &str| Additions { write: Vec::new(), connect: vec![rule.to_owned()] };
    let text = "[files]\nmissing = \"skip\"\n[network]\nconnect = [\"192.0.2.9:9\", \"no.example:8\", \"/no/socket\"]\n";
    let policy = read(text, &more("good.example:80")).expect("a policy");
    assert_eq!(connecting(&policy, [192, 0, 2, 1], 80), Decision::Allow);
    assert_eq!(connecting(&policy, [192, 0, 2, 9], 9), Decision::Allow);
    assert_eq!(policy.additions, more("good.example:80"));
    for (rule, part) in [
        ("no.example:80", "is not found"),
        ("10.0.0.1/8", "behind the first 8"),
        ("/no/socket", "cannot be had"),
    ] {
        let said = read(text, &more(rule)).expect_err(rule).to_string();
        assert!(said.starts_with(&format!("the program can not be let connect to {rule}: ")), "{said}");
        assert!(said.contains(part), "{said}");
    }
}
