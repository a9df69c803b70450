//! What a program sees in procfs of its own process.

use std::fs;

fn code() {}

/// The number of mappings beyond the program's part, and whether its own are there with their rights.
pub fn mappings() {
    let local = 0u8;
    for file in ["maps", "smaps"] {
        let text = fs::read_to_string(format!("/proc/self/{file}")).expect(file);
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let (range, rest) = line.split_once(' ')?;
                let (start, end) = range.split_once('-')?;
                let number = |text: &str| u64::from_str_radix(text, 16).ok();
                Some((number(start)?, number(end)?, rest.get(..4)?.to_owned()))
            })
            .collect();
        let rights = |address: usize| {
            let address = address as u64;
            lines.iter().find(|line| (line.0..line.1).contains(&address)).map(|line| line.2.clone())
        };
        println!("{file}: code {:?}", rights(code as *const () as usize));
        println!("{file}: stack {:?}", rights((&raw const local).addr()));
        println!("{file}: beyond {}", lines.iter().filter(|line| line.1 > 1 << 46).count());
        println!(
            "{file}: written {}",
            fs::File::options().write(true).open(format!("/proc/self/{file}")).is_ok()
        );
    }
}

/// Fields of `stat` (proc(5)), by their numbers.
pub fn state() {
    for file in ["/proc/self/stat", "/proc/thread-self/stat"] {
        let text = fs::read_to_string(file).expect(file);
        let (own, rest) = text.rsplit_once(')').expect("a name");
        let fields: Vec<_> = rest.split_whitespace().collect();
        let field = |number: usize| fields[number - 3];
        println!("own {}", own == format!("{} (confined", std::process::id()));
        println!("parent {}", field(4) == std::os::unix::process::parent_id().to_string());
        let addresses = [26, 27, 28, 29, 30, 45, 46, 47, 48, 49, 50, 51].map(field);
        println!("addresses {}", addresses.join(" "));
    }
}
