//! Memory all over the address space, as JavaScript engines have it: they ask for each 256 KiB at a random address.

use libc::MAP_PRIVATE;

use super::touch::{PAGE, READ_WRITE, enter, load, mmap, munmap, peek, poke};
use crate::both::forked;
use crate::case::{CaseResult, Skip};
use crate::pace;
use crate::probe;
use crate::random::generator::Generator;

const BYTES: u64 = 256 << 10;
/// More windows than KVM has slots can not be (Linux 5.12 and later).
const MOST_WINDOWS: usize = 32764;

/// `count` places of [`BYTES`] each, at random addresses of 46 bits.
fn scatter(count: u64) -> Vec<u64> {
    let mut random = Generator::new(0x5ca7_7e4e, count);
    let place = |_| mmap(random.below(1 << 28) << 18, BYTES, READ_WRITE, MAP_PRIVATE);
    (0..count).map(place).collect()
}

fn mark(places: &[u64], salt: u64) {
    for (index, &place) in places.iter().enumerate() {
        poke(place, index as u64 ^ salt);
        poke(place + BYTES - 8, place ^ salt);
    }
}

fn is_marked(places: &[u64], salt: u64) -> bool {
    let mut all = places.iter().enumerate();
    all.all(|(index, &place)| (peek(place), peek(place + BYTES - 8)) == (index as u64 ^ salt, place ^ salt))
}

pub fn after_entry() -> CaseResult {
    let count = if pace::is_vtx() { 400 } else { 1500 };
    let dune = enter()?;
    let places = scatter(count);
    mark(&places, 0);
    assert!(is_marked(&places, 0));
    let windows = dune.memory().windows();
    assert!((count as usize / 2..MOST_WINDOWS).contains(&windows.len()), "{} windows", windows.len());
    for &place in &places {
        let here = x86_64::VirtAddr::new(place + PAGE);
        let physical = windows.to_physical(here).ok_or("it is in a window")?;
        assert_eq!(dune.page_tables()?.translate(here), Some(physical));
        assert_eq!(windows.to_virtual(physical), Some(here));
    }
    let status = forked(|| {
        let inherited = is_marked(&places, 0);
        mark(&places, 1);
        // And what the child maps itself.
        let more = scatter(20);
        mark(&more, 2);
        i32::from(inherited && is_marked(&places, 1) && is_marked(&more, 2))
    });
    assert_eq!(status, Ok(1 << 8));
    assert!(is_marked(&places, 0));
    for &place in &places {
        munmap(place, BYTES);
        assert!(load(place).is_some());
    }
    Ok(())
}

pub fn before_entry() -> CaseResult {
    let places = scatter(300);
    mark(&places, 3);
    dune::enter()?;
    assert!(is_marked(&places, 3));
    mark(&places, 4);
    assert!(is_marked(&places, 4));
    let status = forked(|| i32::from(is_marked(&places, 4)));
    assert_eq!(status, Ok(1 << 8));
    Ok(())
}

/// There are fewer guest-physical addresses than virtual ones. Where they run out, memory is where it can be reached: near other.
pub fn beyond_reach() -> CaseResult {
    // Each takes the addresses around it, too: on vtx by fewer mappings, further apart.
    let step: u64 = if pace::is_vtx() { 256 << 20 } else { 64 << 20 };
    const FIRST: u64 = 0x1000_0000_0000;
    enter()?;
    let mut elsewhere = 0;
    // 1.25 TiB, or more; the machines' CPUs have 1 TiB of guest-physical addresses.
    for index in 0..20_000 {
        let wanted = FIRST + index * step;
        let place = mmap(wanted, PAGE, READ_WRITE, MAP_PRIVATE);
        poke(place, index);
        assert_eq!(peek(place), index);
        elsewhere += u32::from(place != wanted);
        if elsewhere > 20 {
            break;
        }
    }
    if elsewhere == 0 {
        return Err(Skip("this CPU has guest-physical addresses for all of it".into()).into());
    }
    let fixed = [0x2000_0000_0000, PAGE, READ_WRITE as u64, 0x32, u64::MAX, 0];
    assert_eq!(probe::syscall(libc::SYS_mmap as u64, fixed), -i64::from(libc::ENOMEM));
    assert!(load(0x2000_0000_0000).is_some());
    assert_eq!(forked(|| i32::from(std::hint::black_box(vec![1u8; 1 << 20]).len() == 1 << 20)), Ok(1 << 8));
    Ok(())
}
