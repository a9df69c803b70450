//! The folders of this crate stand in an order, and each imports only those above it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders, and files beside them, from those that need nothing to those that need all (ARCHITECTURE.md, *Map*).
const ORDER: [&str; 15] = [
    "weakness", "arch", "linux", "report", "lock", "engine", "memory", "contract", "guest", "doctor", "user",
    "counters", "host", "fuzzing", "api",
];

/// Imports that run back and stay, each with its reason: the file, and what it imports.
const EXCEPTIONS: &[(&str, &str)] = &[];

#[test]
fn no_import_runs_back() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut back = BTreeSet::new();
    for path in files(&source) {
        let name = path.strip_prefix(&source).expect("below src").to_str().expect("UTF-8").to_owned();
        let text = fs::read_to_string(&path).expect("a source file");
        for (from, to) in imports(&name, &text) {
            let place = |folder: &str| {
                ORDER.iter().position(|known| *known == folder).unwrap_or_else(|| {
                    panic!("src/{name} imports {folder}, which has no place in the order of tests/imports.rs")
                })
            };
            if place(&to) > place(&from) {
                back.insert((name.clone(), to));
            }
        }
    }
    let permitted: BTreeSet<_> =
        EXCEPTIONS.iter().map(|(file, to)| ((*file).to_owned(), (*to).to_owned())).collect();
    let new: Vec<_> = back.difference(&permitted).collect();
    assert!(new.is_empty(), "imports that run back: {new:?}; the order is {}", ORDER.join(", "));
    let gone: Vec<_> = permitted.difference(&back).collect();
    assert!(gone.is_empty(), "exceptions that nothing needs any more: {gone:?}");
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let found =
        |name: &str, text: &str| -> Vec<_> { imports(name, text).into_iter().map(|(_, to)| to).collect() };
    assert_eq!(found("lock.rs", "use crate::memory::{Flush, Memory};"), ["memory"]);
    assert_eq!(found("lock.rs", "use crate::{guest::{a, b}, host, Dune};"), ["api", "guest", "host"]);
    assert_eq!(found("lock.rs", "fn f() { crate :: user::run(sym crate::host::x) }"), ["host", "user"]);
    assert_eq!(found("memory/frames/mod.rs", "use super::super::host::x; use super::map;"), ["host"]);
    assert_eq!(found("lock.rs", "use super::guest::x;"), ["guest"]);
    assert_eq!(found("lib.rs", "pub use contract::Config; mod host;"), [""; 0]);
    assert_eq!(
        found("lock.rs", "/* crate::guest */ // crate::guest\nconst A: &str = \"crate::guest\";"),
        [""; 0]
    );
}

/// The source files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Which folders the file `name` with `text` imports: pairs of its own and another. What stands in lib.rs itself is `api`.
fn imports(name: &str, text: &str) -> BTreeSet<(String, String)> {
    let mut parts: Vec<&str> = name.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    let own = if parts[0] == "lib" { "api" } else { parts[0] };
    let tokens = tokens(text);
    let mut found = BTreeSet::new();
    let mut place = 0;
    while place < tokens.len() {
        let start = place;
        place += 1;
        // From the root: `crate::`, or as many `super::` as the file is deep (a module in the file is one deeper, so that only
        // names of folders count there).
        let mut next = start;
        while tokens.get(next).is_some_and(|token| token == "super") && is_path(&tokens, next) {
            next += 2;
        }
        let is_above = next > start && (next - start) / 2 >= parts.len() && own != "api";
        if tokens[start] == "crate" && is_path(&tokens, start) {
            next = start + 2;
            found.extend(firsts(&tokens[next..]).iter().map(|first| (own.to_owned(), folder_of(first))));
        } else if is_above {
            let firsts = firsts(&tokens[next..]);
            let folders = firsts.into_iter().filter(|first| ORDER.contains(&first.as_str()));
            found.extend(folders.map(|first| (own.to_owned(), first)));
        }
        place = place.max(next);
    }
    found.retain(|(from, to)| from != to);
    found
}

/// The folder behind the name `first` of the crate's root.
fn folder_of(first: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_module = source.join(first).is_dir() || source.join(first).with_extension("rs").is_file();
    if is_module { first.to_owned() } else { "api".to_owned() }
}

/// Whether `::` follows the token at `place`.
fn is_path(tokens: &[String], place: usize) -> bool {
    tokens.get(place + 1).is_some_and(|token| token == "::")
}

/// The first names of the use tree, or the path, that `tokens` begin with.
fn firsts(tokens: &[String]) -> Vec<String> {
    if tokens.first().is_none_or(|token| token != "{") {
        return tokens.first().into_iter().cloned().collect();
    }
    let mut found = Vec::new();
    let mut depth = 0;
    let mut is_first = false;
    for token in tokens {
        match token.as_str() {
            "{" => {
                depth += 1;
                is_first = depth == 1;
            }
            "}" => depth -= 1,
            "," => is_first = depth == 1,
            name if is_first && depth == 1 => {
                found.push(name.to_owned());
                is_first = false;
            }
            _ => (),
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// Names, `::`, braces and commas of `text`, without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            literal_end(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("::") {
            found.push("::".to_owned());
            2
        } else if is_name(first) {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push(rest[..length].to_owned());
            length
        } else {
            if matches!(first, '{' | '}' | ',') {
                found.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

/// The bytes of the string literal that `text` begins with.
fn literal_end(text: &str) -> usize {
    let mut is_escaped = false;
    for (place, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return place + 1,
            _ => (),
        }
    }
    text.len()
}
