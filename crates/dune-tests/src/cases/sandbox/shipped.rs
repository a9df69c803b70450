//! The policies that are shipped as files: what people's programs need, and no secrets.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::path_of;
use crate::case::CaseResult;

/// A home, with a project in it, secrets in both, and a busybox, for where the machine has its own nothing is installed.
fn home(name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let home = format!("/var/shipped-{name}");
    let _ = fs::remove_dir_all(&home);
    for folder in ["work/out", "work/sub", ".ssh", ".aws"] {
        fs::create_dir_all(format!("{home}/{folder}"))?;
    }
    for file in [".ssh/id", ".aws/credentials", "work/.env", "outside"] {
        fs::write(format!("{home}/{file}"), "secret\n")?;
    }
    fs::write(format!("{home}/work/file"), "good\n")?;
    fs::copy(path_of("busybox")?, busybox(&home))?;
    Ok(home)
}

fn busybox(home: &str) -> String {
    format!("{home}/work/busybox")
}

/// A shell of busybox's under a policy, in the project.
fn shell(home: &str, options: &[&str], script: &str) -> Command {
    let mut command = Command::new("dune");
    command.arg("run").args(options).arg("--").arg(busybox(home)).args(["sh", "-c", script]);
    command
        .current_dir(format!("{home}/work"))
        .env("HOME", home)
        .env("API_TOKEN", "secret")
        .env("LC_ALL", "C");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads the project, writes what is named, and finds no secret anywhere.
pub fn cli() -> CaseResult {
    let home = home("cli")?;
    let script = "for f in file ./.env ../.ssh/id ~/.aws/credentials ../outside ~/.ssh/../outside; do \
                  x=nothing; { read x < $f; } 2>&-; echo $x; done; echo $API_TOKEN.$LC_ALL; \
                  echo new > out/new && echo made; echo new > sub/new || echo not made; echo x > /dev/null && echo null";
    let output = shell(&home, &["--policy", "cli", "--write", "out"], script).output()?;
    let expected = "good\nnothing\nnothing\nnothing\nnothing\nnothing\n.C\nmade\nnot made\nnull\n";
    assert_eq!(said(&output), expected, "{output:?}");
    // Also where the working directory is the home.
    let script = "for f in work/file outside .ssh/id .aws/credentials; do x=nothing; { read x < $f; } 2>&-; echo $x; done";
    let mut command = shell(&home, &["--policy", "cli"], script);
    let output = command.current_dir(&home).output()?;
    assert_eq!(said(&output), "good\nsecret\nnothing\nnothing\n", "{output:?}");
    // What is nowhere named is not there in the home, and denied elsewhere.
    let script =
        "for f in ~/.gitconfig ~/.config/git/ignore ../outside /root/file; do ./busybox cat $f; done";
    let output = shell(&home, &["--policy", "cli"], script).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let counts = ["No such file", "Permission denied", "denied by the policy"];
    let counts = counts.map(|text| errors.matches(text).count());
    assert!(counts == [3, 1, 1] && said(&output).is_empty(), "{output:?}");
    let output = shell(&home, &["--policy", "cli"], "echo new > out/other || echo not made").output()?;
    assert_eq!(said(&output), "not made\n", "{output:?}");
    for (options, text) in [
        (&["--write", "out"][..], "the policy compute has no files and addresses"),
        (&["--policy", "cli", "--write", "none"], "none: No such file"),
    ] {
        let output = shell(&home, options, "true").output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(text), "{output:?}");
    }
    let output = shell(&home, &["--policy", "cli"], "true").env_remove("HOME").output()?;
    assert!(output.status.code() == Some(2), "{output:?}");
    Ok(())
}

/// A process reads what it has mapped, without the runtime's part, and nothing of others.
pub fn own_files() -> CaseResult {
    let home = home("own")?;
    let script = "./busybox cat /proc/self/maps; ./busybox cut -d ' ' -f 2 /proc/self/stat; \
                  for f in 1/maps 1/stat self/environ self/mem self/../1/stat stat; do \
                  x=nothing; { read x < /proc/$f; } 2>&-; echo $x; done; { echo x > /proc/self/maps; } 2>&- || echo kept";
    let output = shell(&home, &["--policy", "cli"], script).output()?;
    let said = said(&output);
    let (maps, rest): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.contains("-"));
    assert!(maps.iter().any(|line| line.ends_with("/work/busybox")), "{output:?}");
    let starts: Result<Vec<_>, _> =
        maps.iter().map(|line| u64::from_str_radix(line.split('-').next().unwrap_or(""), 16)).collect();
    assert!(starts?.iter().all(|start| *start < 1 << 46), "{output:?}");
    assert_eq!(rest, [&["(busybox)"][..], &["nothing"; 6], &["kept"]].concat(), "{output:?}");
    Ok(())
}

/// Makes files and runs them, and reaches nobody.
pub fn build() -> CaseResult {
    let home = home("build")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let busybox = busybox(&home);
    let script = format!(
        "{busybox} mkdir made && cd made && {{ echo '#!{busybox} sh'; echo 'echo built $1'; }} > tool && {busybox} chmod +x tool \
         && ./tool well; {busybox} rm tool; echo x > /tmp/shipped-scratch && echo scratch; {busybox} cat ../.env || echo no secret; \
         echo x > ../../outside || echo stays; {busybox} nc 127.0.0.1 {port} || echo alone; ../confined named-memory; \
         for f in /dev/shm/*; do echo ${{f##*-}}; done"
    );
    // What others share is theirs.
    let others = "/dev/shm/shipped-others";
    fs::write(others, "")?;
    fs::copy(path_of("confined")?, format!("{home}/work/confined"))?;
    let output = shell(&home, &["--policy", "build"], &script).output()?;
    let expected = "built well\nscratch\nno secret\nstays\nalone\nshared: 0 42\nmemory\ntests\n";
    assert_eq!(said(&output), expected, "{output:?}");
    fs::remove_file(others)?;
    assert!(
        fs::read_dir("/dev/shm")?
            .flatten()
            .all(|entry| !entry.file_name().to_string_lossy().contains("dune-"))
    );
    assert!(
        Path::new(&format!("{home}/work/made")).is_dir()
            && fs::read_to_string(format!("{home}/outside"))? == "secret\n"
    );
    Ok(())
}

/// A server that answers, and can not call.
pub fn web() -> CaseResult {
    let home = home("web")?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let busybox = busybox(&home);
    let script = format!("exec {busybox} httpd -f -p {free} -h .");
    let mut server = shell(&home, &["--policy", "web"], &script).spawn()?;
    let ask = |path: &str| -> std::io::Result<String> {
        let start = Instant::now();
        let mut stream = loop {
            match TcpStream::connect(free) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > Duration::from_secs(120) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answers = [ask("/file"), ask("/.env")];
    server.kill()?;
    server.wait()?;
    let [file, secret] = answers;
    let (file, secret) = (file?, secret?);
    assert!(file.contains("200 OK") && file.ends_with("good\n"), "{file}");
    assert!(secret.contains(" 404 ") && !secret.contains("secret\n"), "{secret}");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let script = format!("{busybox} nc 127.0.0.1 {} || echo alone", listener.local_addr()?.port());
    let output = shell(&home, &["--policy", "web"], &script).output()?;
    assert_eq!(said(&output), "alone\n", "{output:?}");
    Ok(())
}
