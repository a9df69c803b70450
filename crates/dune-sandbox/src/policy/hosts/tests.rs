use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

/// Who owns these names has chosen these addresses.
fn answer(name: &str) -> io::Result<Vec<IpAddr>> {
    let all: &[&str] = match name {
        "good.example" => &["192.0.2.1", "2001:db8::1", "192.0.2.1"],
        "mixed.example" => &["127.0.0.1", "192.0.2.2", "169.254.169.254", "::ffff:10.0.0.1"],
        "local.example" => &["127.0.0.1", "::1"],
        "private.example" => &["10.0.0.7"],
        "cloud.example" => &["169.254.169.254"],
        "app.localhost" => &["127.0.0.1", "10.0.0.7"],
        "translated.example" => &["64:ff9b::c000:203", "64:ff9b::a00:1"],
        "empty.example" => &[],
        _ => return Err(io::ErrorKind::NotFound.into()),
    };
    Ok(all.iter().map(|text| address(text)).collect())
}

const OWN: &str = "127.0.0.1 localhost me\n# 10.0.0.8 no.example\n10.0.0.7 db PRIVATE.example # of the office\n\
    169.254.169.254 cloud.example\nno address\n127.0.1.1\tfull.name this-computer\n192.0.2.77 this-computer\n";

fn own_of(hosts: &str) -> Own {
    Own { name: "this-computer".into(), hosts: hosts.into() }
}

/// The rules for a host, as people read them; the host as it is told; its lines in the program's file.
fn rules(rule: &str, others: &[&str], own: &str) -> (Result<Vec<String>, NoHost>, Vec<Host>, Vec<String>) {
    let mut hosts = Hosts::default();
    let others: Vec<Rule> = others.iter().map(|text| text.parse().expect(text)).collect();
    let lookup = Lookup { find: &answer, own: &|| own_of(own) };
    let rules = hosts.rules(&HostRule::of(rule).expect(rule), &others, &lookup);
    let texts = rules.map(|rules| rules.iter().map(Rule::to_string).collect());
    let [(_, file), ..] = hosts.files("");
    let own_lines =
        file.lines().filter(|line| line.contains(".example") || line.contains("app.")).map(str::to_owned);
    (texts, hosts.list(), own_lines.collect())
}

fn texts(rule: &str, others: &[&str], own: &str) -> Vec<String> {
    rules(rule, others, own).0.expect(rule)
}

#[test]
fn hosts_are_told_from_addresses() {
    for (rule, is_host) in [
        ("crates.io:443", true),
        ("db", true),
        ("xn--bcher-kva.example:1-2", true),
        ("a_b.example.", true),
        ("*.example:80", true),
        ("b\u{fc}cher.example", true),
        ("*:443", false),
        ("10.0.0.1:80", false),
        ("127.1", false),
        ("0x7f000001:80", false),
        ("1.2.3.4:x", false),
        ("a.example/8", false),
        ("[::1]:80", false),
        ("::1", false),
        ("", false),
    ] {
        assert_eq!(HostRule::is_meant(rule), is_host, "{rule}");
    }
    let long = format!("{}.example:80", "a".repeat(64));
    for (rule, part) in [
        ("*.example:80", "nobody can list"),
        ("b\u{fc}cher.example", "neither an address nor a host"),
        ("a..example", "neither an address nor a host"),
        ("-a.example", "neither an address nor a host"),
        ("a b:80", "neither an address nor a host"),
        (&long, "neither an address nor a host"),
        ("a.example:", "no port"),
        ("a.example:90-80", "no port"),
        ("a.example:70000", "no port"),
        ("a.example:80:90", "no port"),
    ] {
        let error = HostRule::of(rule).expect_err(rule);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_host_is_its_addresses_and_its_ports() {
    let expected =
        ["192.0.2.1/32:443, which is good.example", "[2001:db8::1]/128:443, which is good.example"];
    assert_eq!(texts("Good.Example.:443", &[], OWN), expected);
    let (_, hosts, lines) = rules("good.example:443", &[], OWN);
    assert_eq!(lines, ["192.0.2.1 good.example", "2001:db8::1 good.example"]);
    let addresses = ["192.0.2.1", "2001:db8::1"].map(address).to_vec();
    assert_eq!(hosts, [Host { name: "good.example".into(), addresses, withheld: vec![] }]);
    // For the program Linux's address counts, for its resolver the one of the answer.
    let expected = ["192.0.2.3/32:1, which is translated.example"];
    assert_eq!(texts("translated.example:1", &[], OWN), expected);
}

#[test]
fn a_name_opens_nothing_that_its_owner_can_not_reach() {
    let (found, hosts, lines) = rules("mixed.example:80", &[], OWN);
    assert_eq!(found.expect("one is open"), ["192.0.2.2/32:80, which is mixed.example"]);
    assert_eq!(lines, ["192.0.2.2 mixed.example"]);
    let withheld = ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"].map(address).to_vec();
    assert_eq!(hosts[0].withheld, withheld);
    for name in ["local.example", "private.example", "cloud.example"] {
        let (found, hosts, lines) = rules(name, &["192.0.2.0/24"], "");
        let Err(NoHost::Withheld(why)) = found else { panic!("{name}: {found:?}") };
        assert!(why.contains(name) && why.contains("name the address, too"), "{why}");
        assert!(lines.is_empty() && hosts[0].addresses.is_empty(), "{lines:?}");
    }
}

#[test]
fn the_computer_and_the_policy_open_what_they_name() {
    // By its own file, but for what a cloud's computers have there.
    assert_eq!(texts("private.example:80", &[], OWN), ["10.0.0.7/32:80, which is private.example"]);
    assert!(matches!(rules("cloud.example:80", &[], OWN).0, Err(NoHost::Withheld(_))));
    // By the name itself, and only what that says.
    assert_eq!(texts("app.localhost:80", &[], ""), ["127.0.0.1/32:80, which is app.localhost"]);
    // By another rule, which then is the one.
    let (found, _, lines) = rules("private.example:80", &["10.0.0.0/8:70-90"], "");
    assert_eq!((found.expect("open"), lines), (vec![], vec!["10.0.0.7 private.example".to_owned()]));
    assert!(matches!(rules("private.example:80", &["10.0.0.0/8:81-90"], "").0, Err(NoHost::Withheld(_))));
    assert!(matches!(rules("cloud.example:80", &["169.254.0.0/16"], "").0, Err(NoHost::Withheld(_))));
    let (found, _, lines) = rules("cloud.example:80", &["169.254.169.254:80"], "");
    assert_eq!((found.expect("open"), lines), (vec![], vec!["169.254.169.254 cloud.example".to_owned()]));
}

#[test]
fn who_is_not_found_is_said() {
    for name in ["none.example:1", "empty.example:1"] {
        let (found, hosts, lines) = rules(name, &[], OWN);
        let Err(NoHost::NotFound(why)) = found else { panic!("{found:?}") };
        assert!(why.contains(".example is not found: ") && lines.is_empty(), "{why}");
        assert!(hosts[0].addresses.is_empty() && hosts[0].withheld.is_empty());
    }
}

#[test]
fn the_files_have_the_hosts_and_no_name_server() {
    let mut hosts = Hosts::default();
    let lookup = Lookup { find: &answer, own: &|| own_of(OWN) };
    hosts.rules(&HostRule::of("good.example:1").expect("a host"), &[], &lookup).expect("found");
    let [(_, names), (_, switch), (_, resolver)] =
        hosts.files("passwd: files\n  hosts: files mdns4 dns\n#hosts: dns\n");
    let expected = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 full.name this-computer\n\
        192.0.2.1 good.example\n2001:db8::1 good.example\n";
    assert_eq!(names, expected);
    assert_eq!(switch, "passwd: files\n#hosts: dns\nhosts: files\n");
    assert!(!resolver.contains("nameserver"));
}
