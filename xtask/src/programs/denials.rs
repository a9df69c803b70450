//! What a policy denied in a case's run: lines `@denied CALL`, of calls as `dune run` names them.

use std::collections::BTreeSet;

/// The calls, each once.
pub type Denials = BTreeSet<String>;

/// Finds the denials in a case's output.
pub fn parse(output: &str) -> Denials {
    output.lines().filter_map(|line| line.trim_end().strip_prefix("@denied ")).map(str::to_owned).collect()
}

/// The calls in a row; of many the first ones. Nothing if there are none.
pub fn sentence(denials: &Denials) -> Option<String> {
    const SHOWN: usize = 20;
    if denials.is_empty() {
        return None;
    }
    let shown: Vec<String> = denials.iter().take(SHOWN).map(|call| format!("`{call}`")).collect();
    let more = denials.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(shown.join(", ") + &more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_named_once() {
        let output =
            "@denied socket\n@pass a\nx @denied no\n@denied with the path \"/a b\"\r\n@denied socket\n";
        let denials = parse(output);
        assert_eq!(sentence(&denials).as_deref(), Some("`socket`, `with the path \"/a b\"`"));
        assert_eq!(sentence(&parse("@pass a\n")), None);
    }

    #[test]
    fn of_many_calls_the_first_are_named() {
        let denials: Denials = (10..35).map(|number| format!("call{number}")).collect();
        let text = sentence(&denials).expect("there are some");
        assert!(text.starts_with("`call10`, ") && text.ends_with("`call29` and 5 more"), "{text}");
    }
}
