//! What a policy comes to: asked of the policy itself, call by call, and shown as data and in words.
//!
//! Nothing here knows what a policy says. For each form of each call of the table the policy is asked what it would do, as the supervisor and
//! the filter of system calls ask; files, limits, variables and the wall are what those get that enforce them.

mod here;
mod words;

use std::ffi::CString;
use std::path::PathBuf;

use dune_syscalls::{Call, Class, Form, Treatment, Variants};
use serde::Serialize;

use crate::checked::Request;
use crate::files::{Access, Files};
use crate::policy::{Decision, Host, Limits, Policy};

/// What a policy comes to, here.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Effective {
    /// The policy's name, or its file.
    pub name: String,
    /// The files that it names; `None` where it does not look at paths.
    pub files: Option<Vec<FileRule>>,
    /// Where all else is not there for the program.
    pub absent: Vec<PathBuf>,
    /// Families of sockets that the program may make.
    pub families: Vec<&'static str>,
    /// With which addresses, if the policy has rules about that.
    pub network: Vec<String>,
    /// The hosts that the policy names, with their addresses in this run.
    pub hosts: Vec<Host>,
    /// The names of variables of this environment that the program gets, and of those that the policy adds.
    pub variables: Vec<String>,
    /// The names of those that it does not get.
    pub variables_withheld: Vec<String>,
    /// Limits.
    pub limits: Limits,
    /// What becomes of a call that is not allowed: the error's name, `kill` or `ask`.
    pub denial: String,
    /// Whether memory may be writable and executable at once.
    pub writable_code: bool,
    /// What becomes of the system calls, class by class.
    pub calls: Vec<ClassRule>,
    /// Whether Linux is to confine the process, too.
    pub second_wall: bool,
    /// What is only enforced by the supervisor, since Linux can not, or need not, see it.
    pub only_by_supervisor: Vec<String>,
}

/// What the program may do with a file, or a directory and all that is below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileRule {
    /// Its canonical path.
    pub path: PathBuf,
    /// What it may do.
    pub access: Access,
    /// Whether it may execute it.
    pub executes: bool,
    /// Whether another rule, for what is above, allows more.
    pub narrows: bool,
}

/// What becomes of the calls of a class, by their names in the table of `dune-syscalls`; forms as `ioctl TCGETS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClassRule {
    /// The class.
    pub class: &'static str,
    /// They are made, with whatever arguments.
    pub allowed: Vec<String>,
    /// They are made with some arguments.
    pub depends: Vec<String>,
    /// The policy denies them, or answers them itself.
    pub denied: Vec<String>,
    /// The supervisor refuses them, whatever the policy says, or does not have them.
    pub refused: Vec<String>,
}

impl Effective {
    /// What `policy` comes to for a program that is started in this process's environment.
    pub fn of(policy: &dyn Policy) -> Effective {
        let files = policy.files().map(|files| {
            let rule = |root: &crate::files::Root| {
                let allows_more = |other: &&crate::files::Root| {
                    other.path != root.path
                        && root.path.starts_with(&other.path)
                        && other.access > root.access
                        // What is narrower there is not in the directory that the program has in that one's place.
                        && !other.access.is_elsewhere()
                };
                let narrows = files.roots().iter().any(|other| allows_more(&other));
                FileRule { path: root.path.clone(), access: root.access, executes: root.executes, narrows }
            };
            files.roots().iter().map(rule).collect::<Vec<_>>()
        });
        let name = |variable: &CString| {
            let text = variable.to_string_lossy();
            text.split('=').next().unwrap_or_default().to_owned()
        };
        let all = dune_loader::environment();
        let given: Vec<_> = all.iter().map(name).collect();
        let variables: Vec<_> = policy.environment(all).iter().map(name).collect();
        let variables_withheld = given.into_iter().filter(|name| !variables.contains(name)).collect();
        let mut only_by_supervisor = Vec::new();
        if policy.wall().is_some() {
            let narrower = files.iter().flatten().filter(|rule| rule.narrows);
            only_by_supervisor
                .extend(narrower.map(|rule| format!("the narrower rule for {}", rule.path.display())));
            if policy.files().is_some_and(Files::has_unix_sockets) {
                only_by_supervisor.push("which unix sockets are connected and sent to".to_owned());
            }
            if policy.denial() == Decision::Ask {
                only_by_supervisor
                    .push("which addresses of the network are used, since others may be allowed".to_owned());
            }
            only_by_supervisor.push("all that pointers in arguments lead to".to_owned());
        } else {
            only_by_supervisor.push("everything".to_owned());
        }
        Effective {
            name: policy.name().to_owned(),
            files,
            absent: policy.files().map(|files| files.absent().to_vec()).unwrap_or_default(),
            families: families(policy),
            network: policy.network_rules(),
            hosts: policy.hosts().to_vec(),
            variables,
            variables_withheld,
            limits: policy.limits(),
            denial: match policy.denial() {
                Decision::Deny(errno) => {
                    let name = u16::try_from(errno).ok().and_then(dune_syscalls::names::errno_name);
                    name.map_or_else(|| errno.to_string(), str::to_owned)
                }
                Decision::Ask => "ask".to_owned(),
                Decision::Answer(_) => "EACCES".to_owned(),
                _ => "kill".to_owned(),
            },
            writable_code: policy.allows_writable_code(),
            calls: Class::ALL.into_iter().map(|class| rule_of(policy, class)).collect(),
            second_wall: policy.wall().is_some(),
            only_by_supervisor,
        }
    }

    /// The same in words, with what of it this computer can enforce.
    pub fn words(&self) -> String {
        words::of(self)
    }
}

/// The registers by which a call has this form of a sub-table.
fn registers(table: &Variants, value: u32) -> [Option<u64>; 6] {
    let mut registers = [None; 6];
    registers[usize::from(table.argument)] = Some(u64::from(value) << table.shift);
    if let Some((other, value)) = table.only {
        registers[usize::from(other)] = Some(value.into());
    }
    registers
}

fn families(policy: &dyn Policy) -> Vec<&'static str> {
    let Some(socket) = dune_syscalls::by_name("socket") else { return Vec::new() };
    let forms =
        socket.variants.iter().flat_map(|table| table.list.iter().map(move |variant| (table, variant)));
    forms
        .filter(|(table, variant)| {
            // Streams or datagrams, of the protocol that is usual for them.
            let is_allowed = |kind: i32| {
                let mut registers = registers(table, variant.value).map(Option::unwrap_or_default);
                registers[1] = kind as u64;
                policy.decide(&Request::of_registers(socket, &registers)) == Decision::Allow
            };
            is_made(&variant.form) && (is_allowed(libc::SOCK_STREAM) || is_allowed(libc::SOCK_DGRAM))
        })
        .map(|(_, variant)| variant.form.name)
        .collect()
}

fn is_made(form: &Form) -> bool {
    matches!(form.treatment, Treatment::Forwarded | Treatment::Supervised)
}

fn rule_of(policy: &dyn Policy, class: Class) -> ClassRule {
    let mut rule = ClassRule {
        class: class.name(),
        allowed: Vec::new(),
        depends: Vec::new(),
        denied: Vec::new(),
        refused: Vec::new(),
    };
    for call in dune_syscalls::all().filter(|call| call.class == class) {
        let variants = call.variants.iter().flat_map(|table| {
            table.list.iter().map(move |variant| (&variant.form, registers(table, variant.value)))
        });
        let forms: Vec<_> = variants.chain([(&call.form, [None; 6])]).collect();
        let fates: Vec<_> =
            forms.iter().map(|(form, registers)| fate(policy, call, form, registers)).collect();
        // A call whose forms all have the same fate is one word.
        let is_one = fates.iter().all(|fate| *fate == fates[0]);
        for (index, ((form, _), fate)) in forms.iter().zip(&fates).enumerate() {
            let list = match fate {
                Fate::Allowed => &mut rule.allowed,
                Fate::Depends => &mut rule.depends,
                Fate::Denied => &mut rule.denied,
                Fate::Refused => &mut rule.refused,
            };
            if is_one && index > 0 {
                continue;
            }
            let own = call.name();
            list.push(if is_one || form.name == own {
                own.to_owned()
            } else {
                format!("{own} {}", form.name)
            });
        }
    }
    rule
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Allowed,
    Depends,
    Denied,
    Refused,
}

fn fate(policy: &dyn Policy, call: &'static Call, form: &Form, registers: &[Option<u64>; 6]) -> Fate {
    if !is_made(form) {
        return Fate::Refused;
    }
    if !policy.may_allow(call, form) {
        return Fate::Denied;
    }
    // Both with nothing in the other arguments and with all in them; what the policy looks at besides, it may allow.
    let is_allowed = |fill: u64| {
        let filled = registers.map(|value| value.unwrap_or(fill));
        policy.decide(&Request::of_registers(call, &filled)) == Decision::Allow
    };
    let takes_paths =
        form.arguments.iter().any(|field| matches!(field.kind, dune_syscalls::kind::Kind::Path { .. }));
    if is_allowed(0) && is_allowed(u64::MAX) && !takes_paths { Fate::Allowed } else { Fate::Depends }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{AllowAll, Compute};

    fn class<'e>(effective: &'e Effective, name: &str) -> &'e ClassRule {
        effective.calls.iter().find(|rule| rule.class == name).expect("a class")
    }

    #[test]
    fn what_policies_come_to_is_what_they_decide() {
        let compute = Effective::of(&Compute);
        let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
        assert!(has(&class(&compute, "descriptor").allowed, "read"));
        assert!(
            has(&class(&compute, "file").denied, "openat")
                && has(&class(&compute, "process").depends, "clone")
        );
        assert!(has(&class(&compute, "signal").depends, "kill"));
        assert!(compute.families.is_empty() && compute.files.is_none() && compute.second_wall);
        let all = Effective::of(&AllowAll);
        assert!(has(&class(&all, "observation").refused, "ptrace") && all.families.contains(&"AF_INET"));
        assert!(!all.second_wall && all.calls.iter().all(|rule| rule.denied.is_empty()));
    }

    #[test]
    fn each_call_is_in_one_class() {
        let compute = Effective::of(&Compute);
        let count: usize = dune_syscalls::all().count();
        let named = |rule: &ClassRule| {
            let lists = [&rule.allowed, &rule.depends, &rule.denied, &rule.refused];
            let names =
                lists.into_iter().flatten().map(|name| name.split(' ').next().unwrap_or_default().to_owned());
            names.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(compute.calls.iter().map(named).sum::<usize>(), count);
    }

    #[test]
    fn words_name_what_there_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("p.toml");
        let text = format!(
            "[files]\nread = [{:?}]\n[network]\nfamilies = [\"inet\"]\nconnect = [\"192.0.2.0/24:80-89\"]\n[limits]\ncpu_seconds = 7\n",
            folder.path()
        );
        std::fs::write(&path, text).expect("written");
        let policy = crate::policy::FromFile::read(&path).expect("a policy");
        let words = Effective::of(&policy).words();
        for part in [
            &folder.path().display().to_string(),
            "AF_INET",
            "connect to 192.0.2.0/24:80-89",
            "cpu_seconds: 7",
            "EACCES",
            "openat",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
        assert!(words.contains("can be made: AF_INET\n"), "{words}");
    }
}
