//! A policy in words.

use std::fmt::{Display, Write};
use std::net::IpAddr;

use super::{ClassRule, Effective, here};
use crate::files::Access;

pub(super) fn of(policy: &Effective) -> String {
    let mut out = Out(String::new());
    out.line(format_args!("The policy {}", policy.name));
    files(&mut out, policy);
    out.part("Network");
    if policy.families.is_empty() {
        out.item("no sockets can be made");
    } else {
        out.item(format_args!("sockets of these families can be made: {}", policy.families.join(", ")));
        policy.network.iter().for_each(|rule| out.item(rule));
        if policy.network.is_empty() {
            out.item("no rules about addresses are in the policy");
        }
    }
    for host in &policy.hosts {
        let addresses = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        match &*host.addresses {
            [] => out.item(format_args!("not found, and left out: the host {}", host.name)),
            all => out.item(format_args!("for the program the host {} is {}", host.name, addresses(all))),
        }
        if !host.withheld.is_empty() {
            let withheld = addresses(&host.withheld);
            out.item(format_args!(
                "not opened by its name: {withheld}, of this computer, a private network or a cloud"
            ));
        }
    }
    out.part("Environment (names; of the variables that are set now)");
    out.list("the program gets", &policy.variables);
    out.list("it does not get", &policy.variables_withheld);
    limits(&mut out, policy);
    out.part("Memory");
    let code = if policy.writable_code { "can" } else { "can not" };
    out.item(format_args!("pages {code} be writable and executable at once"));
    out.part("What is not allowed");
    out.item(match &*policy.denial {
        "kill" => "ends the program, by SIGSYS".to_owned(),
        "ask" => "is asked about where it is an address of the Internet; all else, and what nobody answers in time, is not done: the program gets the error EACCES, and goes on".to_owned(),
        errno => format!("is not done: the program gets the error {errno}, and goes on"),
    });
    calls(&mut out, &policy.calls);
    walls(&mut out, policy);
    out.0
}

struct Out(String);

impl Out {
    fn line(&mut self, text: impl Display) {
        // A String takes everything.
        let _ = writeln!(self.0, "{text}");
    }

    fn part(&mut self, title: &str) {
        self.line(format_args!("\n{title}"));
    }

    fn item(&mut self, text: impl Display) {
        self.line(format_args!("  {text}"));
    }

    fn list(&mut self, title: &str, names: &[String]) {
        if !names.is_empty() {
            self.item(format_args!("{title}: {}", names.join(", ")));
        }
    }
}

fn files(out: &mut Out, policy: &Effective) {
    out.part("Files");
    let Some(rules) = &policy.files else {
        let opens = policy
            .calls
            .iter()
            .any(|rule| !rule.denied.iter().any(|call| call == "openat") && rule.class == "file");
        return out.item(if opens {
            "by any path, as the user may who runs the program"
        } else {
            "none can be opened by a path; the standard streams can be used"
        });
    };
    for rule in rules {
        let path = rule.path.display();
        let what = if rule.path.is_dir() { " and what is below" } else { "" };
        let but = if rule.narrows { " (less than the rule for what is above it)" } else { "" };
        match rule.access {
            Access::Read => out.item(format_args!("read, list, ask about: {path}{what}{but}")),
            Access::Layer => out.item(format_args!(
                "the same, in a private copy, whose changes are told at the end: {path}{what}{but}"
            )),
            Access::Memory => out.item(format_args!(
                "the same, in an empty directory in memory that vanishes at the end: {path}{what}{but}"
            )),
            Access::Served => {
                out.item(format_args!("read, list, ask about, as the policy serves it: {path}{what}{but}"))
            }
            Access::Write => out.item(format_args!("the same, and write and make files: {path}{what}{but}")),
            _ => out.item(format_args!("not there (ENOENT): {path}{what}{but}")),
        }
        if rule.executes {
            out.item(format_args!("execute: {path}{what}"));
        }
    }
    for path in &policy.absent {
        out.item(format_args!("not there (ENOENT): all else below {}", path.display()));
    }
    out.item("all other paths are not allowed");
}

fn limits(out: &mut Out, policy: &Effective) {
    out.part("Limits");
    // By their keys, as the file has them.
    let all = serde_json::to_value(policy.limits).unwrap_or_default();
    let set = all.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let mut is_none = true;
    for (key, value) in set {
        is_none = false;
        out.item(format_args!("{key}: {value}"));
    }
    if is_none {
        out.item("none but those of this shell (`ulimit -a`)");
    }
}

fn calls(out: &mut Out, rules: &[ClassRule]) {
    out.part("System calls, by class: what is made, what with some arguments only, what the policy denies, what nobody gets");
    for rule in rules {
        out.item(rule.class);
        for (title, names) in [
            ("made", &rule.allowed),
            ("depends on arguments", &rule.depends),
            ("denied", &rule.denied),
            ("refused by the supervisor, or not there", &rule.refused),
        ] {
            out.list(&format!("  {title}"), names);
        }
    }
}

fn walls(out: &mut Out, policy: &Effective) {
    out.part("Enforced");
    out.item("by the supervisor, which sees each call before Linux does: all of the above");
    if !policy.second_wall {
        out.item("by Linux: nothing but what it does for every process of the user");
        return;
    }
    let mut is_missing = false;
    for (what, is_there) in here::walls() {
        is_missing |= !is_there;
        out.item(format_args!("by Linux{}: {what}", if is_there { "" } else { ", but NOT on this kernel" }));
    }
    out.list("not by Linux", &policy.only_by_supervisor);
    if is_missing {
        out.item(
            "the program is not run here, unless by `--best-effort`, which does without what is missing",
        );
    }
}
