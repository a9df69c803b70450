//! apt with a state of its own, so that it needs no root's rights and touches nothing of the system.

use super::{Archive, Needs, Set};
use crate::error::{Error, Result};
use crate::process::{self, find_program, mortal_command};
use crate::progress::Step;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Package lists older than this may name versions that are gone from the mirror.
const LISTS_MAX_AGE: Duration = Duration::from_secs(12 * 3600);

/// apt, configured.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Sets apt up below `machines` with fresh lists of the packages in the set's part of the archive.
    pub fn new(machines: &Path, set: &Set<'_>) -> Result<Self> {
        if find_program("apt-get").is_none() || find_program("dpkg-deb").is_none() {
            return Err(Error::NoApt { what: set.name.to_owned(), remedy: set.remedy.to_owned() });
        }
        let folder = &machines.join(match set.archive {
            Archive::Release => "apt",
            Archive::Kernels => "apt-kernels",
        });
        for name in ["lists/partial", "cache/archives/partial", "sources.d"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))
        };
        // As if nothing were installed: what this computer has, and in which mixture of versions, does not matter.
        write("status", "")?;
        let mut config = configuration(folder);
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if let Some(sources) = debian_sources(&system, set.archive) {
            write("sources.list", &sources)?;
            config += &format!(
                "Dir::Etc::sourcelist \"{0}/sources.list\";\nDir::Etc::sourceparts \"{0}/sources.d\";\n",
                folder.display()
            );
        }
        write("apt.conf", &config)?;
        let apt = Self { folder: folder.to_owned() };
        if !apt.is_fresh() {
            apt.update()?;
        }
        Ok(apt)
    }

    /// Fetches the package lists.
    pub fn update(&self) -> Result<()> {
        let step = Step::measured("fetching the package lists");
        let mut command = self.command("apt-get");
        command.args(["-q", "-o", "APT::Status-Fd=1", "-o", "APT::Update::Error-Mode=any", "update"]);
        process::run_with(&mut command, |line| show_progress(line, &step))?;
        let stamp = self.folder.join("updated");
        fs::write(&stamp, "").map_err(Error::file("write", &stamp))
    }

    /// Whether the package lists were fetched lately.
    fn is_fresh(&self) -> bool {
        let fetched = fs::metadata(self.folder.join("updated")).and_then(|meta| meta.modified());
        fetched.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < LISTS_MAX_AGE))
    }

    /// Downloads what `set` needs into `folder`; gives the packages, each as `name=version`.
    pub fn fetch(&self, set: &Set<'_>, folder: &Path) -> Result<Vec<String>> {
        let packages = self.resolve(set)?;
        let step = Step::measured(&format!("downloading {} ({} packages)", set.name, packages.len()));
        self.download(&packages, folder, &step)?;
        Ok(packages)
    }

    /// The packages to fetch for `set`, each as `name=version`.
    fn resolve(&self, set: &Set<'_>) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for choice in set.packages {
            let choice = self.with_python(choice);
            let known = choice
                .split('|')
                .filter_map(|name| self.newest(name))
                .find_map(|name| Some((self.describe(&name)?, name)));
            let Some((description, name)) = known else {
                return Err(Error::NoPackage { wanted: choice, remedy: set.remedy.to_owned() });
            };
            let name = concrete_kernel(&description).unwrap_or(name);
            names.extend(kernel_parts(&self.describe(&name).unwrap_or_default()));
            names.push(name);
        }
        if set.needs == Needs::Nothing {
            // Nothing is asked of a release that may have no other package of these.
            return names.iter().map(|name| self.with_version(name, set)).collect();
        }
        let mut command = self.command("apt-get");
        command.args(["-q", "--simulate", "--no-install-recommends", "install"]).args(&names);
        let output = process::run(&mut command)?;
        let plan = planned(&output);
        let needed = |name: &str| match set.needs {
            Needs::Nothing => false,
            Needs::Libraries => is_library(name),
            Needs::Everything => true,
        };
        let wanted = |name: &str| names.iter().any(|other| other == name) || needed(name);
        Ok(plan
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, version)| format!("{name}={version}"))
            .collect())
    }

    /// The newest package whose name is like `pattern`, which may have one `*`.
    fn newest(&self, pattern: &str) -> Option<String> {
        let Some((start, end)) = pattern.split_once('*') else { return Some(pattern.to_owned()) };
        let output = process::run(self.command("apt-cache").args(["pkgnames", start])).ok()?;
        newest_of(output.lines(), start, end)
    }

    /// `name=version` of the package `name`.
    fn with_version(&self, name: &str, set: &Set<'_>) -> Result<String> {
        let description = self.describe(name).unwrap_or_default();
        match description.lines().find_map(|line| line.strip_prefix("Version: ")) {
            Some(version) => Ok(format!("{name}={version}")),
            None => Err(Error::NoPackage { wanted: name.to_owned(), remedy: set.remedy.to_owned() }),
        }
    }

    /// `choice` with `$python3` replaced by the package that `python3` stands for; as it was if there is none.
    fn with_python(&self, choice: &str) -> String {
        if !choice.contains(PYTHON) {
            return choice.to_owned();
        }
        let description = self.describe("python3").unwrap_or_default();
        concrete_python(&description).map_or_else(|| choice.to_owned(), |name| choice.replace(PYTHON, name))
    }

    /// What the package lists say of a package, if they know it.
    fn describe(&self, name: &str) -> Option<String> {
        let mut command = self.command("apt-cache");
        let text = process::run(command.args(["show", "--no-all-versions", name])).ok()?;
        (!text.trim().is_empty()).then_some(text)
    }

    /// Fetches `packages` into `folder`; apt checks them against the signed lists, and keeps those already there.
    fn download(&self, packages: &[String], folder: &Path, step: &Step) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["-q", "-o", "APT::Status-Fd=1", "download"]).args(packages).current_dir(folder);
        process::run_with(&mut command, |line| show_progress(line, step))?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = mortal_command(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command
    }
}

/// The downloaded file of each package.
pub fn files_of(packages: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(Error::file("list", folder))?
        .flatten()
        .map(|file| file.path())
        .collect();
    packages
        .iter()
        .map(|package| {
            let start = file_name_start(package);
            let is_it = |file: &&PathBuf| {
                file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start))
            };
            files.iter().find(is_it).cloned().ok_or_else(|| Error::NoPackage {
                wanted: package.clone(),
                remedy: format!("apt downloaded no {start}*.deb; try again later"),
            })
        })
        .collect()
}

/// How apt starts the file name of `name=version`.
fn file_name_start(package: &str) -> String {
    package.replacen('=', "_", 1).replace(':', "%3a") + "_"
}

/// apt's configuration for a state of its own in `folder`.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Dir::State::Lists \"{folder}/lists\";\n\
         Dir::State::status \"{folder}/status\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         APT::Sandbox::User \"\";\n\
         APT::Get::List-Cleanup \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Debug::NoLocking \"true\";\n"
    )
}

/// Of `names`, the one with the highest numbers between `start` and `end`.
fn newest_of<'a>(names: impl Iterator<Item = &'a str>, start: &str, end: &str) -> Option<String> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let middle = name.strip_prefix(start)?.strip_suffix(end)?;
        // A name with more words in it is another kind, for example linux-image-6.1.0-56-rt.
        let words =
            middle.split(['.', '-', '+', '~']).filter(|word| !word.is_empty() && !word.starts_with("deb"));
        words.map(|word| word.parse().ok()).collect()
    };
    let known = names.filter_map(|name| Some((numbers(name)?, name)));
    known.max().map(|(_, name)| name.to_owned())
}

/// The archive's own sources for the Debian release that `os_release` describes; other distributions keep theirs.
fn debian_sources(os_release: &str, archive: Archive) -> Option<String> {
    let fields: BTreeMap<&str, &str> = os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    let release = fields.get("VERSION_CODENAME").filter(|_| fields.get("ID") == Some(&"debian"))?;
    let keyring = "[arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let mirror = "http://deb.debian.org";
    let source = |path: &str, suite: &str| format!("deb {keyring} {mirror}/{path} {suite} main\n");
    let updated = |release: &str| {
        source("debian", release) + &source("debian-security", &format!("{release}-security"))
    };
    Some(match archive {
        Archive::Release => updated(release) + &source("debian", &format!("{release}-updates")),
        Archive::Kernels => updated("bookworm") + &updated("trixie") + &source("debian", "trixie-backports"),
    })
}

/// The kernel that a meta package's description names, for example `linux-image-6.1.0-44-cloud-amd64`.
fn concrete_kernel(description: &str) -> Option<String> {
    let is_meta = description.lines().any(|line| line.starts_with("Package: linux-image-"));
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends
        .split([',', '|'])
        .filter_map(|package| package.split_whitespace().next())
        .find(|name| is_meta && name.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// The packages that hold the files of a kernel that has none in its own: so Debian has it from 6.19 on.
fn kernel_parts(description: &str) -> Vec<String> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let names = depends.split([',', '|']).filter_map(|package| package.split_whitespace().next());
    let is_part = |name: &&str| name.starts_with("linux-binary-") || name.starts_with("linux-modules-");
    names.filter(is_part).map(str::to_owned).collect()
}

/// What stands for the release's Python in a set.
const PYTHON: &str = "$python3";

/// The package that the description of `python3` depends on first, for example `python3.11`.
fn concrete_python(description: &str) -> Option<&str> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends
        .split([',', '|'])
        .filter_map(|package| package.split_whitespace().next())
        .find(|name| name.starts_with("python3."))
}

/// Names and versions in the output of `apt-get --simulate install`.
fn planned(output: &str) -> Vec<(&str, &str)> {
    let plan = output.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        Some((name, rest.trim_start_matches('(').split_whitespace().next()?))
    });
    plan.collect()
}

/// Whether a package of a dependency list holds libraries. The C library is the computer's own: it must fit its loader.
fn is_library(name: &str) -> bool {
    name.starts_with("lib") && !name.starts_with("libc6") && !name.starts_with("libperl")
}

/// Shows a line like `dlstatus:3:12.2669:Retrieving file 3 of 4`.
fn show_progress(line: &str, step: &Step) {
    let percent = line.strip_prefix("dlstatus:").and_then(|rest| rest.split(':').nth(1)?.parse().ok());
    if let Some(percent) = percent {
        step.percent(percent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_names_its_kernel() {
        let meta = "Package: linux-image-6.12-cloud-amd64\nVersion: 6.12.117-1~deb12u1\n\
            Depends: linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1~deb12u1)\n";
        assert_eq!(concrete_kernel(meta).as_deref(), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        let kernel = "Package: linux-image-6.1.0-44-cloud-amd64\nDepends: kmod, linux-base (>= 4.3~), initramfs-tools\n";
        assert_eq!(concrete_kernel(kernel), None);
        assert_eq!(concrete_kernel("Package: busybox-static\n"), None);
    }

    #[test]
    fn a_kernel_may_lie_in_several_packages() {
        let kernel = "Package: linux-image-7.3.4+deb13-cloud-amd64\nDepends: dracut | initramfs-tools, \
            linux-base-7.3.4+deb13-cloud-amd64 (= 1), linux-binary-7.3.4+deb13-cloud-amd64 (= 1), \
            linux-modules-7.3.4+deb13-cloud-amd64 (= 1)\n";
        let parts = ["linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64"];
        assert_eq!(kernel_parts(kernel), parts);
        assert!(kernel_parts("Depends: kmod, linux-base (>= 4.3~)\n").is_empty());
    }

    #[test]
    fn the_newest_kernel_has_the_highest_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-rt-cloud-amd64",
            "linux-image-6.12.107+deb12-cloud-amd64",
        ];
        let newest = |start| newest_of(names.into_iter(), start, "-cloud-amd64");
        assert_eq!(newest("linux-image-6.1.").as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("linux-image-6.12.").as_deref(), Some("linux-image-6.12.107+deb12-cloud-amd64"));
        assert_eq!(newest("linux-image-6.2."), None);
    }

    #[test]
    fn python3_names_its_version() {
        let python = "Package: python3\nPre-Depends: python3-minimal (= 3.11.2-1+b1)\n\
            Depends: python3.11 (>= 3.11.2-1~), libpython3-stdlib (= 3.11.2-1+b1)\n";
        assert_eq!(concrete_python(python), Some("python3.11"));
        assert_eq!(concrete_python("Package: python3\n"), None);
    }

    #[test]
    fn a_plan_gives_names_and_versions() {
        let output = "Reading package lists...\nInst libfoo1 (1:2.3-1 Debian:12.11/stable [amd64]) [x]\n\
            Inst qemu-system-x86 (1:7.2 Debian-Security:12/stable-security [amd64])\nConf libfoo1 (1:2.3-1)\n";
        assert_eq!(planned(output), [("libfoo1", "1:2.3-1"), ("qemu-system-x86", "1:7.2")]);
    }

    #[test]
    fn apt_writes_colons_as_percent_3a() {
        assert_eq!(file_name_start("libfoo1=1:2.3-1"), "libfoo1_1%3a2.3-1_");
    }

    #[test]
    fn only_debian_gets_debians_sources() {
        let bookworm =
            debian_sources("ID=debian\nVERSION_CODENAME=bookworm\n", Archive::Release).expect("Debian");
        assert!(bookworm.contains("debian-security bookworm-security main"));
        assert_eq!(debian_sources("ID=ubuntu\nVERSION_CODENAME=noble\n", Archive::Kernels), None);
    }
}
