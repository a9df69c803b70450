//! Quoting for the machine's shell.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// `words` as one shell command line that gives back exactly these words, whatever bytes they hold.
pub fn shell_command(words: &[OsString]) -> OsString {
    let quoted: Vec<Vec<u8>> = words.iter().map(|word| quote(word)).collect();
    OsString::from_vec(quoted.join(&b' '))
}

/// `word` in single quotes; a single quote inside becomes `'\''`.
fn quote(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_gives_the_words_back() {
        let words: Vec<OsString> =
            ["printf", "%s|", "", "it's", "a b", "$HOME `x` \\ \"", "two\nlines", "*"].map(Into::into).into();
        let output = Command::new("sh").arg("-c").arg(shell_command(&words)).output().expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "|it's|a b|$HOME `x` \\ \"|two\nlines|*|");
    }

    #[test]
    fn bytes_that_are_not_utf8_survive() {
        let words = [OsString::from_vec(vec![0xff, b'\'', 0xfe])];
        assert_eq!(shell_command(&words).as_bytes(), b"'\xff'\\''\xfe'");
    }
}
