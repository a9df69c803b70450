use super::*;

#[test]
fn a_class_is_the_smallest_that_is_large_enough() {
    for bytes in 0..10_000 {
        let expected = CLASSES.iter().position(|&cell| bytes <= cell as usize);
        assert_eq!(class_of(bytes), expected, "{bytes}");
    }
    assert_eq!(class_of(usize::MAX), None);
}

const START: usize = 0x7000_0000_0000;

/// Takes `count` cells of a block.
fn take(blocks: &mut Blocks, block: u32, count: usize, drops: bool) -> Vec<usize> {
    let mut cells = Vec::new();
    let mut cursor = blocks.cells_of(block).unwrap();
    while cells.len() < count {
        if cursor.free == 0 {
            blocks.put_back(&cursor);
            cursor = blocks.cells_after(&cursor).unwrap();
        }
        cells.push(cursor.take(drops));
    }
    blocks.put_back(&cursor);
    cells
}

#[test]
fn the_cell_of_every_offset() {
    for (class, &cell) in CLASSES.iter().enumerate() {
        assert_eq!(cell % 16, 0);
        assert_eq!(class_of(cell as usize), Some(class));
        assert_eq!(
            class_of(cell as usize + 1),
            if class + 1 < CLASSES.len() { Some(class + 1) } else { None }
        );
        let mut blocks = Blocks::new(START, 1);
        blocks.grow();
        blocks.use_block(0, class);
        for offset in 0..BLOCK {
            assert_eq!(blocks.blocks[0].index(offset), offset / cell as usize, "{offset} in cells of {cell}");
        }
    }
}

#[test]
fn an_address_within_an_object_marks_it_once() {
    let mut blocks = Blocks::new(START, 4);
    let number = blocks.grow().unwrap();
    blocks.use_block(number, class_of(48).unwrap());
    let mut cursor = blocks.cells_of(0).unwrap();
    let cells = [(); 3].map(|()| cursor.take(false));
    assert_eq!(blocks.mark(START), None, "they have not been put back");
    blocks.put_back(&cursor);
    assert_eq!(cells, [START, START + 48, START + 96]);
    assert_eq!(blocks.mark(START + 95), Some(START + 48));
    assert_eq!(blocks.mark(START + 48), None, "it is marked");
    assert_eq!(blocks.mark(START + 144), None, "nothing is there");
    assert_eq!(blocks.mark(START - 1), None);
    assert_eq!(blocks.mark(START + BLOCK), None);
    assert_eq!(blocks.object_at(START + 50), Some((START + 48, true)));
    assert_eq!(blocks.object_at(START), Some((START, false)));
}

#[test]
fn sweeping_keeps_what_is_marked() {
    let mut blocks = Blocks::new(START, 4);
    let number = blocks.grow().unwrap();
    let class = class_of(1024).unwrap();
    blocks.use_block(number, class);
    let cells = take(&mut blocks, 0, 32, true);
    assert!(blocks.cells_of(0).is_none());
    blocks.mark(cells[5]);
    let (mut old, mut dead) = (PageSet::new(32), Vec::new());
    let swept = blocks.sweep(0, false, &mut old, |cell| dead.push(cell));
    assert_eq!(swept, Swept::Small { class, free: 31 * 1024, used: 1024 });
    assert_eq!(dead.len(), 31);
    assert!((0..32).all(|page| old.contains(page) == (page == 1)));
    let mut found = Vec::new();
    (0..8).for_each(|page| blocks.each_old_on(page, |cell| found.push((page, cell))));
    assert_eq!(found, [(1, cells[5])]);
    blocks.clear_marks();
    assert_eq!(blocks.sweep(0, true, &mut old, |_| ()), Swept::Free);
    assert!(!old.contains(1));
}

#[test]
fn a_cell_across_pages_is_on_both() {
    let mut blocks = Blocks::new(START, 1);
    blocks.grow();
    blocks.use_block(0, class_of(2720).unwrap());
    let cells = take(&mut blocks, 0, 12, false);
    blocks.mark(cells[1] + 2719);
    let mut old = PageSet::new(8);
    blocks.sweep(0, false, &mut old, |_| ());
    assert!((0..8).all(|page| old.contains(page) == (page < 2)));
    for page in [0, 1] {
        let mut found = Vec::new();
        blocks.each_old_on(page, |cell| found.push(cell));
        assert_eq!(found, [cells[1]]);
    }
}

#[test]
fn large_cells_take_runs_of_blocks() {
    let mut blocks = Blocks::new(START, 6);
    let one = blocks.take_large(2, false).unwrap();
    let two = blocks.take_large(3, false).unwrap();
    assert_eq!((one, two), (START, START + 2 * BLOCK));
    assert_eq!(blocks.take_large(2, false), None);
    assert_eq!(blocks.mark(two + 2 * BLOCK + 7), Some(two));
    let mut old = PageSet::new(6 * PAGES);
    assert_eq!(blocks.sweep(0, false, &mut old, |_| ()), Swept::Free);
    assert_eq!(blocks.sweep(1, false, &mut old, |_| ()), Swept::Free);
    assert_eq!(blocks.sweep(2, false, &mut old, |_| ()), Swept::Large { used: 3 * BLOCK });
    assert_eq!(blocks.sweep(3, false, &mut old, |_| ()), Swept::Part);
    assert!((0..6 * PAGES).all(|page| old.contains(page) == (2 * PAGES..5 * PAGES).contains(&page)));
    let mut found = Vec::new();
    blocks.each_old_on(4 * PAGES + 1, |cell| found.push(cell));
    assert_eq!(found, [two]);
    assert_eq!(blocks.take_large(2, false), Some(START));
}

#[test]
fn all_cells_of_a_block_are_given_once() {
    for (class, &cell) in CLASSES.iter().enumerate() {
        let mut blocks = Blocks::new(START, 1);
        blocks.grow();
        blocks.use_block(0, class);
        let count = BLOCK / cell as usize;
        let cells = take(&mut blocks, 0, count, false);
        assert!(cells.iter().enumerate().all(|(index, &at)| at == START + index * cell as usize), "{cell}");
        assert!(blocks.cells_of(0).is_none(), "{cell}");
        // Those that are kept are what an address anywhere in them leads to, and on their pages.
        cells.iter().step_by(3).for_each(|&at| assert_eq!(blocks.mark(at + cell as usize - 1), Some(at)));
        let mut old = PageSet::new(PAGES);
        blocks.sweep(0, false, &mut old, |_| ());
        for page in 0..PAGES {
            let mut found = Vec::new();
            blocks.each_old_on(page, |at| found.push(at));
            let range = START + page * PAGE..START + (page + 1) * PAGE;
            let expected: Vec<_> = cells
                .iter()
                .copied()
                .step_by(3)
                .filter(|at| *at < range.end && at + cell as usize > range.start)
                .collect();
            assert_eq!(found, expected, "{cell} on {page}");
            assert_eq!(old.contains(page), !expected.is_empty(), "{cell} on {page}");
        }
        let free = take(&mut blocks, 0, count - count.div_ceil(3), false);
        assert!(free.iter().all(|at| !((at - START) / cell as usize).is_multiple_of(3)), "{cell}");
        assert!(blocks.cells_of(0).is_none(), "{cell}");
    }
}
