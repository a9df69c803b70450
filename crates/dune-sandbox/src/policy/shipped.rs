//! The policies that are shipped: two types, and files that are built in.

use std::path::Path;

use super::{Additions, AllowAll, Compute, FromFile, Policy, PolicyError};

/// The policies that are shipped.
pub const NAMES: [&str; 6] = ["compute", "cli", "tool", "build", "web", "allow-all"];

/// Those that are files.
const FILES: [(&str, &str); 4] = [
    ("cli", include_str!("shipped/cli.toml")),
    ("tool", include_str!("shipped/tool.toml")),
    ("build", include_str!("shipped/build.toml")),
    ("web", include_str!("shipped/web.toml")),
];

/// The shipped policy with this name. Paths in it are those of the working directory, and of the home that the environment names, now.
pub fn by_name(name: &str) -> Option<Result<Box<dyn Policy>, PolicyError>> {
    match name {
        "compute" => Some(Ok(Box::new(Compute))),
        "allow-all" => Some(Ok(Box::new(AllowAll))),
        name => Some(
            FromFile::shipped(name, &Additions::default())?.map(|policy| Box::new(policy) as Box<dyn Policy>),
        ),
    }
}

impl FromFile {
    /// The shipped policy with this name, if that is a file: `cli`, `tool`, `build` or `web`. The program may do what `more` says, too.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], for paths that are not there, and where the environment names no home.
    pub fn shipped(name: &str, more: &Additions) -> Option<Result<FromFile, PolicyError>> {
        let (name, text) = FILES.iter().find(|(shipped, _)| *shipped == name)?;
        Some(FromFile::of_text_with(Path::new(name), text, more))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn all_names_are_policies() {
        for name in NAMES {
            let policy = by_name(name).expect("shipped").expect("a policy");
            assert_eq!(policy.name(), name);
        }
        assert!(by_name("strict").is_none() && FromFile::shipped("compute", &Additions::default()).is_none());
    }

    #[test]
    fn secrets_of_the_environment_are_withheld() {
        for (name, _) in FILES {
            let policy = by_name(name).expect("shipped").expect("a policy");
            let given = [c"PATH=/bin", c"AWS_SECRET_ACCESS_KEY=x", c"LC_ALL=C", c"LC=x", c"GITHUB_TOKEN=x"];
            let kept = policy.environment(given.map(CString::from).to_vec());
            assert_eq!(kept, [c"PATH=/bin", c"LC_ALL=C"].map(CString::from), "{name}");
        }
    }

    /// Whose commits they are is no secret; what git executes and how it gets at others is.
    #[test]
    fn what_makes_commits_has_its_author() {
        for name in ["build", "tool"] {
            let policy = by_name(name).expect("shipped").expect("a policy");
            let given =
                [c"GIT_AUTHOR_NAME=a", c"GIT_ASKPASS=x", c"GIT_COMMITTER_DATE=b", c"GIT_SSH_COMMAND=x"];
            let kept = policy.environment(given.map(CString::from).to_vec());
            assert_eq!(kept, [c"GIT_AUTHOR_NAME=a", c"GIT_COMMITTER_DATE=b"].map(CString::from), "{name}");
        }
    }
}
