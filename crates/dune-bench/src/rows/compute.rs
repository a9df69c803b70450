//! `compute_*`: work that makes no system calls, but for the memory that it gets. Ten kernels with the profiles of the SPEC suites.

use std::collections::{BinaryHeap, HashMap};
use std::hint::black_box;
use std::io::Write;

use super::{Row, Session};
use crate::error::BenchError;
use crate::stats::Summary;

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// Deflate, and back.
    Compression,
    /// A sort of numbers.
    Sorting,
    /// A product of matrices of floating-point numbers.
    Matrix,
    /// A table of words.
    Hashing,
    /// A list that is scattered over memory.
    Pointers,
    /// A machine of a few instructions.
    Interpreter,
    /// Patterns with stars in texts.
    Matching,
    /// JSON.
    Parsing,
    /// ChaCha20.
    Cipher,
    /// Shortest paths.
    Graph,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Kernel; 10] = [
        Kernel::Compression,
        Kernel::Sorting,
        Kernel::Matrix,
        Kernel::Hashing,
        Kernel::Pointers,
        Kernel::Interpreter,
        Kernel::Matching,
        Kernel::Parsing,
        Kernel::Cipher,
        Kernel::Graph,
    ];

    pub(super) fn row_name(self) -> &'static str {
        match self {
            Kernel::Compression => "compute_compression",
            Kernel::Sorting => "compute_sorting",
            Kernel::Matrix => "compute_matrix",
            Kernel::Hashing => "compute_hashing",
            Kernel::Pointers => "compute_pointers",
            Kernel::Interpreter => "compute_interpreter",
            Kernel::Matching => "compute_matching",
            Kernel::Parsing => "compute_parsing",
            Kernel::Cipher => "compute_cipher",
            Kernel::Graph => "compute_graph",
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Kernel::Compression => "deflate of 256 KiB of text, and back",
            Kernel::Sorting => "a sort of 200,000 numbers",
            Kernel::Matrix => "a product of two matrices of 96 by 96 f64",
            Kernel::Hashing => "20,000 words counted in a hash table",
            Kernel::Pointers => "400,000 steps along a list over 4 MiB",
            Kernel::Interpreter => "an interpreter of bytecode: a loop of 150,000 turns",
            Kernel::Matching => "patterns with stars, matched against 4,000 lines",
            Kernel::Parsing => "JSON of 3,000 records, parsed",
            Kernel::Cipher => "ChaCha20 of 256 KiB",
            Kernel::Graph => "shortest paths from one of 20,000 nodes (Dijkstra)",
        }
    }

    /// Does the work once: what comes out.
    fn work(self) -> u64 {
        match self {
            Kernel::Compression => compression(),
            Kernel::Sorting => sorting(),
            Kernel::Matrix => matrix(),
            Kernel::Hashing => hashing(),
            Kernel::Pointers => pointers(),
            Kernel::Interpreter => interpreter(),
            Kernel::Matching => matching(),
            Kernel::Parsing => parsing(),
            Kernel::Cipher => cipher(),
            Kernel::Graph => graph(),
        }
    }
}

/// Either side.
pub(super) fn measure(session: &Session, kernel: Kernel) -> Result<Option<Summary>, BenchError> {
    let mut first = None;
    session.repeat(|| {
        let mut out = 0;
        let ticks = session.clock.time(|| out = black_box(kernel.work()));
        // The same each time, or it was not the same work.
        Row::Compute(kernel).expect("what came out", out, *first.get_or_insert(out))?;
        Ok(ticks as f64)
    })
}

/// Numbers without an order, the same in each run (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn new() -> Numbers {
        Numbers(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// So many words of a small vocabulary.
fn words(count: usize) -> Vec<String> {
    let mut numbers = Numbers::new();
    (0..count).map(|_| format!("word{}", numbers.below(3000))).collect()
}

fn compression() -> u64 {
    let text = words(40_000).join(" ");
    let text = &text.as_bytes()[..256 << 10];
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    let packed = packed.write_all(text).and_then(|()| packed.finish()).unwrap_or_default();
    let mut unpacked = flate2::write::DeflateDecoder::new(Vec::new());
    let unpacked = unpacked.write_all(&packed).and_then(|()| unpacked.finish()).unwrap_or_default();
    (packed.len() + usize::from(unpacked == text)) as u64
}

fn sorting() -> u64 {
    let mut numbers = Numbers::new();
    let mut all: Vec<u64> = (0..200_000).map(|_| numbers.next()).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn matrix() -> u64 {
    const SIDE: usize = 96;
    let cell = |seed: usize| move |index: usize| ((index * seed) % 17) as f64;
    let left: Vec<f64> = (0..SIDE * SIDE).map(cell(7)).collect();
    let right: Vec<f64> = (0..SIDE * SIDE).map(cell(5)).collect();
    let mut product = vec![0.0; SIDE * SIDE];
    for row in 0..SIDE {
        for inner in 0..SIDE {
            let factor = left[row * SIDE + inner];
            for column in 0..SIDE {
                product[row * SIDE + column] += factor * right[inner * SIDE + column];
            }
        }
    }
    product.iter().sum::<f64>() as u64
}

fn hashing() -> u64 {
    // A hasher without chance.
    type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;
    let mut counts: HashMap<String, u64, Hasher> = HashMap::default();
    for word in words(20_000) {
        *counts.entry(word).or_default() += 1;
    }
    counts.values().map(|count| count * count).sum()
}

fn pointers() -> u64 {
    const COUNT: usize = 1 << 19;
    // A single cycle through all (Sattolo).
    let mut next: Vec<usize> = (0..COUNT).collect();
    let mut numbers = Numbers::new();
    for index in (1..COUNT).rev() {
        next.swap(index, numbers.below(index));
    }
    (0..400_000).fold(0, |at, _| next[at]) as u64
}

fn interpreter() -> u64 {
    #[derive(Clone, Copy)]
    enum Code {
        Push(u64),
        Load(usize),
        Store(usize),
        Add,
        Xor,
        Multiply,
        /// Goes there unless 0 was on the stack.
        Loop(usize),
    }
    let program = [
        Code::Load(1),
        Code::Push(6_364_136_223_846_793_005),
        Code::Multiply,
        Code::Load(0),
        Code::Add,
        Code::Store(1),
        Code::Load(1),
        Code::Load(2),
        Code::Xor,
        Code::Store(2),
        Code::Load(0),
        Code::Push(u64::MAX),
        Code::Add,
        Code::Store(0),
        Code::Load(0),
        Code::Loop(0),
    ];
    let mut variables = [150_000, 1, 0];
    let mut stack: Vec<u64> = Vec::with_capacity(8);
    let mut at = 0;
    while at < program.len() {
        let code = black_box(program[at]);
        at += 1;
        let mut pop = || stack.pop().unwrap_or(0);
        let pushed = match code {
            Code::Push(number) => number,
            Code::Load(variable) => variables[variable],
            Code::Store(variable) => {
                variables[variable] = pop();
                continue;
            }
            Code::Add => pop().wrapping_add(pop()),
            Code::Xor => pop() ^ pop(),
            Code::Multiply => pop().wrapping_mul(pop()),
            Code::Loop(target) => {
                if pop() != 0 {
                    at = target;
                }
                continue;
            }
        };
        stack.push(pushed);
    }
    variables[2]
}

fn matching() -> u64 {
    /// Whether the whole text is the pattern, in which `*` is any number of characters and `.` is one.
    fn is_match(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skipped| is_match(rest, &text[skipped..])),
            ([one, rest @ ..], [first, others @ ..]) => {
                (*one == b'.' || one == first) && is_match(rest, others)
            }
            (_, []) => false,
        }
    }
    let lines = words(4_000 * 4);
    let lines = lines.chunks(4).map(|line| line.join(" "));
    let patterns = ["*1*2*3*", "word..2 *", "* word99*", "*word1.. *7"];
    lines
        .map(|line| {
            patterns.iter().filter(|pattern| is_match(pattern.as_bytes(), line.as_bytes())).count() as u64
        })
        .sum()
}

fn parsing() -> u64 {
    let record = |(index, word): (usize, String)| {
        format!(r#"{{"id":{index},"name":"{word}","tags":["a","b\n"],"x":{index}.5}}"#)
    };
    let text: Vec<String> = words(3_000).into_iter().enumerate().map(record).collect();
    let text = format!("[{}]", text.join(","));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    value.as_array().map_or(0, |all| all.iter().filter_map(|one| one["id"].as_u64()).sum())
}

/// RFC 8439, section 2.3.
fn cipher() -> u64 {
    fn quarter(state: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
        for (to, from, other, bits) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            state[to] = state[to].wrapping_add(state[from]);
            state[other] = (state[other] ^ state[to]).rotate_left(bits);
        }
    }
    let mut sum = 0u64;
    for counter in 0..(256 << 10) / 64 {
        let mut start =
            [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10, 11];
        start[12] = counter;
        let mut state = start;
        for _ in 0..10 {
            for column in 0..4 {
                quarter(&mut state, [column, column + 4, column + 8, column + 12]);
            }
            for column in 0..4 {
                quarter(
                    &mut state,
                    [column, (column + 1) % 4 + 4, (column + 2) % 4 + 8, (column + 3) % 4 + 12],
                );
            }
        }
        sum = state
            .iter()
            .zip(start)
            .fold(sum, |sum, (word, start)| sum.wrapping_add(word.wrapping_add(start).into()));
    }
    sum
}

fn graph() -> u64 {
    use std::cmp::Reverse;
    const NODES: usize = 20_000;
    let mut numbers = Numbers::new();
    let edges: Vec<[(usize, u64); 4]> = (0..NODES)
        .map(|_| std::array::from_fn(|_| (numbers.below(NODES), 1 + numbers.next() % 100)))
        .collect();
    let mut distances = vec![u64::MAX; NODES];
    let mut waiting = BinaryHeap::from([Reverse((0, 0))]);
    distances[0] = 0;
    while let Some(Reverse((distance, node))) = waiting.pop() {
        if distance > distances[node] {
            continue;
        }
        for (other, length) in edges[node] {
            if distance + length < distances[other] {
                distances[other] = distance + length;
                waiting.push(Reverse((distances[other], other)));
            }
        }
    }
    distances.iter().filter(|distance| **distance != u64::MAX).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_do_what_they_are_called() {
        // The first block of RFC 8439's keystream begins with other keys; what is checked is that work was done.
        for kernel in Kernel::ALL {
            assert!(kernel.work() > 1, "{kernel:?}");
        }
        assert_eq!(parsing(), (0..3_000).sum::<u64>());
        assert_eq!(compression() % 2, compression() % 2);
    }
}
