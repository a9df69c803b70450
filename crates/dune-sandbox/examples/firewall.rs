//! A firewall for one program: `firewall LOG ADDRESS:PORT,… PROGRAM [ARGUMENT]…` lets it connect, send to and bind these addresses, asks at the terminal
//! about others, once each, and writes all that is asked for to the file LOG. What the program may do else is what the user may.
//!
//! The policy decides in the supervisor, in the program's own processes: calls that name no address cost next to nothing. About the others it
//! asks the launcher, which is beside them, and remembers what it has said.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use dune_sandbox::policy::{Decision, Policy};
use dune_sandbox::{Hook, Question, Reason, Recipe, Request, Sandbox};

/// What is known from the start. The launcher makes the policy of it once more.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rules {
    log: String,
    allowed: BTreeSet<SocketAddr>,
    /// Whether somebody is at the terminal.
    asks: bool,
}

impl Rules {
    fn to_text(&self) -> String {
        let allowed: Vec<_> = self.allowed.iter().map(SocketAddr::to_string).collect();
        format!("{}\n{}\n{}", self.asks, allowed.join(","), self.log)
    }

    fn of_text(text: &str) -> Result<Rules, String> {
        let mut parts = text.splitn(3, '\n');
        let mut next = || parts.next().ok_or_else(|| format!("{text:?} are no rules"));
        let asks = next()? == "true";
        Ok(Rules { asks, allowed: addresses(next()?)?, log: next()?.to_owned() })
    }
}

fn addresses(list: &str) -> Result<BTreeSet<SocketAddr>, String> {
    let words = list.split(',').filter(|word| !word.is_empty());
    words
        .map(|word| word.parse().map_err(|_| format!("{word:?} is not an address like 192.0.2.1:80")))
        .collect()
}

#[derive(Debug)]
struct Firewall {
    rules: Rules,
    /// What has been said. Only the launcher uses it.
    said: Mutex<BTreeMap<SocketAddr, bool>>,
}

impl Firewall {
    fn new(rules: Rules) -> Firewall {
        Firewall { rules, said: Mutex::default() }
    }

    fn is_allowed(&self, question: &Question, address: SocketAddr) -> bool {
        if self.rules.allowed.contains(&address) {
            return true;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *said.entry(address).or_insert_with(|| self.rules.asks && ask(question, address).unwrap_or(false))
    }

    fn log(&self, question: &Question, addresses: &str, verdict: &str) -> io::Result<()> {
        let mut log = OpenOptions::new().append(true).create(true).open(&self.rules.log)?;
        let Question { process, call, .. } = question;
        log.write_all(format!("process {process}: {call} {addresses}: {verdict}\n").as_bytes())
    }
}

impl Policy for Firewall {
    fn name(&self) -> &str {
        "firewall"
    }

    fn decide(&self, request: &Request) -> Decision {
        if request.addresses().next().is_some() { Decision::Ask } else { Decision::Allow }
    }

    fn asked(&self, question: &Question) -> Decision {
        // Of other families it does not know whom they lead to.
        let mut is_allowed = !question.has_other_addresses;
        for address in &question.addresses {
            is_allowed = is_allowed && self.is_allowed(question, *address);
        }
        let addresses: Vec<_> = question.addresses.iter().map(SocketAddr::to_string).collect();
        let verdict = if is_allowed { "allowed" } else { "denied" };
        match self.log(question, &addresses.join(", "), verdict) {
            Ok(()) if is_allowed => Decision::Allow,
            // What can not be logged is not done.
            _ => Decision::Deny(libc::EACCES),
        }
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe::own("firewall", self.rules.to_text()))
    }
}

/// Asks at the terminal: the launcher's standard streams are the program's.
fn ask(question: &Question, address: SocketAddr) -> io::Result<bool> {
    let terminal = File::options().read(true).write(true).open("/dev/tty")?;
    write!(&terminal, "firewall: may process {} {} {address}? [y/N] ", question.process, question.call)?;
    let mut answer = String::new();
    BufReader::new(&terminal).read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

fn main() -> ExitCode {
    let make = |argument: &[u8]| -> Result<Box<dyn Policy>, String> {
        let text = std::str::from_utf8(argument).map_err(|error| error.to_string())?;
        Ok(Box::new(Firewall::new(Rules::of_text(text)?)))
    };
    Hook::new().policy("firewall", make).install();
    run().unwrap_or_else(|error| {
        eprintln!("firewall: {error}");
        ExitCode::from(2)
    })
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [log, allowed, program, arguments @ ..] = words.as_slice() else {
        return Err("usage: firewall LOG ADDRESS:PORT,… PROGRAM [ARGUMENT]…".into());
    };
    let asks = io::stdin().is_terminal();
    let rules = Rules { log: log.clone(), allowed: addresses(allowed)?, asks };
    let finished = Sandbox::new(Box::new(Firewall::new(rules))).command(program).args(arguments).status()?;
    Ok(match finished.reason {
        Reason::Exited(status) => ExitCode::from(status as u8),
        other => {
            eprintln!("firewall: {program}: {other}");
            ExitCode::FAILURE
        }
    })
}
