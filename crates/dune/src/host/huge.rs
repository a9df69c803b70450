//! Whether huge pages may be asked for.

use crate::contract::config::FaultAround;

/// What Linux's administrator has decided about huge pages for anonymous memory (Linux
/// Documentation/admin-guide/mm/transhuge.rst).
const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Whether memory is to be populated ahead, which takes huge pages. Allocates: before entry only.
pub(super) fn wanted(config: FaultAround) -> bool {
    match config {
        FaultAround::Off => false,
        FaultAround::Always => true,
        FaultAround::WhereAdvised => std::fs::read_to_string(SETTING).is_ok_and(|words| by_request(&words)),
    }
}

/// Whether `words`, what the file holds, leave the decision to programs: the valid one is in brackets.
fn by_request(words: &str) -> bool {
    words.split_ascii_whitespace().any(|word| word == "[madvise]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_brackets_counts() {
        assert!(by_request("always [madvise] never\n"));
        assert!(!by_request("always madvise [never]\n"));
        assert!(!by_request("[always] madvise never\n"));
        assert!(!by_request(""));
    }
}
