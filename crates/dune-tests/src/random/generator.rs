//! Numbers that only look random.

/// Marsaglia's xorshift, 64 bits wide (Journal of Statistical Software 8 (14), 2003).
#[derive(Debug, Clone)]
pub struct Generator(u64);

impl Generator {
    /// Equal for equal seeds and streams.
    pub fn new(seed: u64, stream: u64) -> Generator {
        let mut generator = Generator((seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1 << 63);
        // Seeds of few bits give small numbers at first.
        (0..20).for_each(|_| _ = generator.next());
        generator
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// True once in `times` on average.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    pub fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
