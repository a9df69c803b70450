//! Policies in files: children, and what they may execute.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::path_of;
use super::policies::{Exchanger, Tree, busybox, pauses};
use crate::case::CaseResult;

/// A program at `part` of the tree that says `text`.
fn script(tree: &Tree, part: &str, text: &str) -> CaseResult {
    let path = tree.path(part);
    fs::write(&path, format!("#!{} sh\necho {text}\n", path_of("busybox")?.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A policy by which busybox and what is in `in/below` is executed, with `more`.
fn policy(tree: &Tree, more: &str) -> Result<String, Box<dyn std::error::Error>> {
    let busybox = path_of("busybox")?.canonicalize()?;
    let path = tree.path("policy.toml");
    let [readable, writable, below, hidden] =
        ["in", "out", "in/below", "in/hidden"].map(|part| tree.path(part));
    let text = format!(
        "{more}[files]\nread = [{readable:?}, \"/dev/null\"]\nwrite = [{writable:?}]\nhidden = [{hidden:?}]\n\
         execute = [{busybox:?}, {:?}, {below:?}]\n[environment]\nkeep = [\"PATH\"]\n",
        path_of("busybox")?
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// Pipes, subshells, substitutions; what the policy names is executed, by whatever path, and nothing else.
pub fn named() -> CaseResult {
    let tree = Tree::new("executed")?;
    let path = path_of("busybox")?;
    let shell = path.display();
    script(&tree, "in/below/tool", "good")?;
    for part in ["in/tool", "tool", "out/tool", "in/hidden/tool"] {
        script(&tree, part, "bad")?;
    }
    symlink("../tool", tree.path("in/below/link"))?;
    symlink("below/tool", tree.path("in/link"))?;
    let policy_path = policy(&tree, "")?;
    let folder = tree.0.display();
    let text = format!(
        "cd {folder}/in; {shell} ls | {shell} sort -r | {shell} head -n 2; (exit 7); echo subshell $?; \
         x=$({shell} echo inner); echo $x; ./below/tool; ./link; {folder}/out/../in/below/tool; \
         {shell} sh -c 'kill -9 $$'; echo killed $?; {shell} sleep 100 & kill $!; wait $!; echo ended $?; \
         for f in ./tool ../tool {folder}/out/tool ./below/link ./hidden/tool ./below /bin/true; do $f; echo $?; done; \
         kill -0 $PPID || echo kept; exec {shell} echo last"
    );
    let output = busybox(&policy_path, &["sh", "-c", &text])?;
    let wanted = "tool\nlink\nsubshell 7\ninner\ngood\ngood\ngood\nkilled 137\nended 143\n\
                  126\n126\n126\n126\n127\n126\n126\nkept\nlast\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{output:?}");
    // Its libraries and what maps them only have to be readable.
    let libraries = ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|path| Path::new(path).exists());
    let libraries: Vec<_> = libraries.map(|path| format!("{path:?}")).collect();
    let dynamic = path_of("program-dynamic-pie")?;
    let text = format!("[files]\nread = [{}]\nexecute = [{dynamic:?}]\n", libraries.join(", "));
    fs::write(&policy_path, text)?;
    let output = busybox(&policy_path, &["sh", "-c", &format!("{} exit 3; exit $?", dynamic.display())])?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    // An exec alone, and no children.
    let policy_path = policy(&tree, "children = false\n")?;
    let output = busybox(&policy_path, &["sh", "-c", &format!("exec {folder}/in/below/tool")])?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good\n", "{output:?}");
    let output = busybox(&policy_path, &["sh", "-c", "(exit 1); echo there"])?;
    assert!(output.stdout.is_empty() && !output.status.success(), "{output:?}");
    Ok(())
}

/// What is executed is exchanged for what may not be, all the time.
pub fn that_changes() -> CaseResult {
    // Longer than an exec on a slow machine.
    const PAUSES: [u64; 301] = pauses(1000);
    const TURNS: usize = 20;
    let tree = Tree::new("executed-change")?;
    script(&tree, "in/below/tool", "good")?;
    script(&tree, "tool", "secret")?;
    symlink(tree.path("tool"), tree.path("link"))?;
    let policy = policy(&tree, "")?;
    let exchanger = Exchanger::start_with(&tree, &[("in/below/tool", "link")], &PAUSES);
    let text = format!(
        "cd {}; i=0; while [ $i -lt {TURNS} ]; do ./tool || echo nothing; i=$((i+1)); done",
        tree.path("in/below")
    );
    // The right file may be there in none of so many turns.
    const ROUNDS: usize = 10;
    let mut good = 0;
    for _ in 0..ROUNDS {
        let output = busybox(&policy, &["sh", "-c", &text])?;
        let said = String::from_utf8_lossy(&output.stdout);
        let count = |word: &str| said.lines().filter(|line| *line == word).count();
        let counts = ["secret", "good", "nothing"].map(count);
        assert!(counts[0] == 0 && counts.iter().sum::<usize>() == TURNS, "{counts:?}: {output:?}");
        good += counts[1];
        if good > 0 {
            break;
        }
    }
    exchanger.stop()?;
    assert!(good > 0, "nothing has been executed in {ROUNDS} rounds");
    Ok(())
}
