use super::super::maps;
use super::*;
use crate::arch::page::PagePermissions;
use core::ops::ControlFlow;
use proptest::prelude::*;

fn mapping(start: u64, end: u64, kind: MappingKind<'static>) -> Line<'static> {
    Line { start, end, permissions: PagePermissions::READ, shared: false, offset: 0, kind }
}

fn check(windows: &Windows, limits: &Limits, mappings: &[(u64, u64)]) {
    for window in windows.iter() {
        assert!(window.range.end() <= limits.task_size);
        assert!(window.gpa_end() <= limits.gpa_end());
        assert!(window.gpa >= FIRST_GPA);
        assert_eq!(window.gpa.as_u64() % GIB, window.range.first() % GIB);
        assert!(window.range.first() >= mappings[0].0.min(GIB));
    }
    for &(start, end) in mappings {
        let window = windows.find(VirtAddr::new(start)).expect("every mapping is in a window");
        assert!(end <= window.range.end());
    }
}

fn finish(planner: Planner) -> Result<Windows, PlanError> {
    let windows = Windows::new()?;
    planner.finish(&windows).map(|()| windows)
}

#[test]
fn this_process_fits() {
    for bits in [36, 39, 40, 46, 52] {
        let limits = Limits::new(bits);
        let mut planner = Planner::new(limits);
        let mut all = Vec::new();
        maps::for_each(|mapping| {
            if mapping.kind != MappingKind::Vsyscall {
                all.push((mapping.start, mapping.end));
            }
            planner.add(mapping).unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
        let windows = finish(planner).unwrap();
        check(&windows, &limits, &all);
        assert!(windows.len() <= 4, "{windows:?}");
    }
}

#[test]
fn growth_has_room_and_the_null_page_has_not() {
    let mut planner = Planner::new(Limits::new(40));
    planner.add(&mapping(0x40_0000, 0x50_0000, MappingKind::File(b"/bin/x"))).unwrap();
    planner.add(&mapping(0x50_0000, 0x60_0000, MappingKind::Heap)).unwrap();
    planner.add(&mapping(0x7fff_d000_0000, 0x7fff_d010_0000, MappingKind::Anonymous)).unwrap();
    planner.add(&mapping(0x7fff_fffd_e000, 0x7fff_ffff_f000, MappingKind::Stack)).unwrap();
    planner.add(&mapping(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, MappingKind::Vsyscall)).unwrap();
    let windows = finish(planner).unwrap();
    let found = |address| windows.find(VirtAddr::new(address));
    assert_eq!(found(0), None);
    assert_eq!(found(0x3f_f000), None);
    assert_eq!(found(0x40_0000).unwrap().gpa.as_u64(), 4 * GIB + 0x40_0000);
    assert!(found(16 * GIB).is_some());
    assert!(found(0x7fff_d000_0000 - 63 * GIB).is_some());
    let top = found(0x7fff_ffff_e000).unwrap();
    assert_eq!(top.range.end(), TASK_SIZE);
    assert!(found(0x7fff_d000_0000).is_some());
}

#[test]
fn what_does_not_fit_is_typed() {
    let mut planner = Planner::new(Limits::new(36));
    planner.add(&mapping(GIB, 101 * GIB, MappingKind::Anonymous)).unwrap();
    let error = finish(planner).unwrap_err();
    assert_eq!(error, PlanError::TooFewPhysicalBits { needed: 37, available: 36 });
    let mut planner = Planner::new(Limits::new(40));
    let beyond = mapping(1 << 47, (1 << 47) + 4096, MappingKind::Anonymous);
    assert!(matches!(planner.add(&beyond), Err(PlanError::BeyondTaskSize { .. })));
    planner.add(&mapping(GIB, 2 * GIB, MappingKind::Anonymous)).unwrap();
    let low = mapping(0x1000, 0x2000, MappingKind::Anonymous);
    assert!(matches!(planner.add(&low), Err(PlanError::Disordered { .. })));
}

#[test]
fn reservations_need_no_window() {
    let mut planner = Planner::new(Limits::new(36));
    let rights = PagePermissions::empty();
    planner.add(&Line { permissions: rights, ..mapping(GIB, 101 * GIB, MappingKind::Anonymous) }).unwrap();
    planner.add(&mapping(101 * GIB, 102 * GIB, MappingKind::Anonymous)).unwrap();
    let windows = finish(planner).unwrap();
    assert_eq!(windows.find(VirtAddr::new(GIB)), None);
    assert!(windows.find(VirtAddr::new(101 * GIB)).is_some());
}

#[test]
fn scattered_memory_is_covered() {
    let limits = Limits::new(40);
    let mut planner = Planner::new(limits);
    let large = (3000 * GIB, 3001 * GIB);
    let scattered = |index: u64| (index * 100 * GIB, index * 100 * GIB + 65 * GRANULE / 64);
    let all: Vec<_> = (1..30).map(scattered).chain([large]).chain((31..1000).map(scattered)).collect();
    for &(start, end) in &all {
        planner.add(&mapping(start, end, MappingKind::Anonymous)).unwrap();
    }
    assert!(planner.is_crowded());
    let windows = finish(planner).unwrap();
    let (start, end) = large;
    assert!(windows.find(VirtAddr::new(start)).is_some_and(|window| window.range.end() >= end));
    assert!(windows.len() <= REGIONS);
    for &(start, end) in &all {
        cover(&windows, &limits, PageRange::known(start, end)).unwrap();
    }
    for &(start, end) in &all {
        assert!(windows.find(VirtAddr::new(start)).is_some());
        assert!(windows.find(VirtAddr::new(end - 1)).is_some());
    }
    let few = Limits { windows: windows.len(), ..limits };
    let error = plan_for(&windows, &few, VirtAddr::new(50 * GIB)).unwrap_err();
    assert_eq!(error, PlanError::TooManyWindows { capacity: few.windows });
}

#[test]
fn memory_that_grows_needs_few_windows() {
    let limits = Limits::new(46);
    let windows = Windows::new().unwrap();
    for index in 0..WIDE as u64 {
        cover(
            &windows,
            &limits,
            PageRange::known((100 + index) * 100 * GIB, (100 + index) * 100 * GIB + PAGE_BYTES),
        )
        .unwrap();
    }
    for start in (5000 * GIB..5200 * GIB).step_by(1 << 20) {
        cover(&windows, &limits, PageRange::known(start, start + (1 << 20))).unwrap();
    }
    for start in (6000 << 10..6200 << 10).rev().map(|mib: u64| mib << 20) {
        cover(&windows, &limits, PageRange::known(start, start + (1 << 20))).unwrap();
    }
    assert!(windows.len() < WIDE + 2 * 60, "{}", windows.len());
    let mut last = GIB;
    for address in (1..GIB >> 16).rev().map(|page| page << 16) {
        cover(&windows, &limits, PageRange::known(address, address + PAGE_BYTES)).unwrap();
        last = last.min(windows.find(VirtAddr::new(address)).unwrap().range.first());
    }
    assert_eq!(last, 0x1_0000);
    for window in windows.iter() {
        let unit = if window.bytes() < GIB { GRANULE } else { GIB };
        assert_eq!(window.gpa.as_u64() % unit, window.range.first() % unit, "{window:?}");
    }
}

#[test]
fn later_windows_fill_gaps() {
    let limits = Limits::new(40);
    let windows = Windows::new().unwrap();
    windows.append(plan_for(&windows, &limits, VirtAddr::new(100 * GIB)).unwrap()).unwrap();
    windows.append(plan_for(&windows, &limits, VirtAddr::new(106 * GIB)).unwrap()).unwrap();
    windows.append(plan_for(&windows, &limits, VirtAddr::new(0x1_2345)).unwrap()).unwrap();
    assert_eq!(windows.find(VirtAddr::new(0x1_2000)).unwrap().range.first(), 0x1_2000);
    let again = plan_for(&windows, &limits, VirtAddr::new(106 * GIB));
    assert!(matches!(again, Err(PlanError::Covered { .. })));
    let top = plan_for(&windows, &limits, VirtAddr::new(TASK_SIZE - 1)).unwrap();
    assert_eq!(top.range.end(), TASK_SIZE);
    assert!(plan_for(&windows, &limits, VirtAddr::new(TASK_SIZE)).is_err());
    let small = Limits::new(32);
    let error = plan_for(&Windows::new().unwrap(), &small, VirtAddr::new(GIB)).unwrap_err();
    assert_eq!(error, PlanError::TooFewPhysicalBits { needed: 33, available: 32 });
}

proptest! {
    #[test]
    fn any_layout_is_covered_or_refused(
        steps in proptest::collection::vec((0u64..1 << 32, 1u64..1 << 24), 1..40),
        scale in 0u32..4, bits in 34u8..53, heap: bool, stack: bool,
    ) {
        let limits = Limits::new(bits);
        let mut planner = Planner::new(limits);
        let mut at = 0x1_0000u64;
        let mut all = Vec::new();
        let count = steps.len();
        for (index, (gap, pages)) in steps.into_iter().enumerate() {
            at += round_down(gap << scale, PAGE_BYTES);
            let end = at + pages * PAGE_BYTES;
            let kind = match index {
                0 if heap => MappingKind::Heap,
                last if last + 1 == count && stack => MappingKind::Stack,
                _ => MappingKind::Anonymous,
            };
            if end > TASK_SIZE {
                break;
            }
            planner.add(&mapping(at, end, kind)).unwrap();
            all.push((at, end));
            at = end;
        }
        match finish(planner) {
            Ok(windows) => check(&windows, &limits, &all),
            Err(PlanError::TooFewPhysicalBits { needed, available }) => prop_assert!(needed > available),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
