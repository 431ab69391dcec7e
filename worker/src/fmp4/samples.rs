//! The samples of a fragment, one behind the other, in memory that can go to the disk as it is.
//!
//! Writing past the page cache wants memory and place aligned to whole [blocks](BLOCK). Whoever gathers samples knows where in
//! the file they will stand, so they are put down at that distance from a block's beginning at once, while the processor's cache still
//! holds them, and are never copied again. A frame's own memory is free as soon as it is gathered, on the thread that
//! took it: allocating and freeing frames on two threads costs more than this copy.
//!
//! Invariants: all pieces but the last end with a whole block; what does not fit together is still right, only copied.

/// What direct writes are aligned to, in memory and in the file: no disk has larger blocks.
pub const BLOCK: usize = 4_096;
/// What a piece holds: of a camera with little to send, not much is taken in advance.
const PIECE: usize = 16 * BLOCK;

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    pieces: Vec<Piece>,
    /// Where in a block the first sample begins.
    phase: usize,
    len: usize,
}

/// Memory of which the part from `begins` on is aligned. It never grows, or it would be elsewhere.
#[derive(Debug)]
struct Piece {
    memory: Vec<u8>,
    begins: usize,
}

impl Piece {
    fn new() -> Self {
        let mut memory = Vec::<u8>::with_capacity(PIECE + BLOCK);
        // Where alignment cannot be told, the kernel will refuse a direct write, and is then asked for another one.
        let begins = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        memory.resize(begins, 0);
        Self { memory, begins }
    }

    fn content(&self) -> &[u8] {
        &self.memory[self.begins..]
    }

    /// Takes what there is room for; returns the rest.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.begins + PIECE - self.memory.len();
        let (now, later) = bytes.split_at(bytes.len().min(room));
        self.memory.extend_from_slice(now);
        later
    }
}

impl Samples {
    /// None yet; the first one will stand so many bytes behind the beginning of a block.
    pub fn at(phase: usize) -> Self {
        Self { pieces: Vec::new(), phase: phase % BLOCK, len: 0 }
    }

    /// Adds bytes behind all others.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let rest = self.pieces.last_mut().map_or(bytes, |piece| piece.take(bytes));
            if !rest.is_empty() {
                let mut piece = Piece::new();
                if self.pieces.is_empty() {
                    piece.memory.resize(piece.begins + self.phase, 0);
                }
                self.pieces.push(piece);
            }
            bytes = rest;
        }
    }

    /// How many bytes they are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where in a block the first one begins.
    pub const fn phase(&self) -> usize {
        self.phase
    }

    /// The bytes, piece by piece.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let gaps = std::iter::once(self.phase).chain(std::iter::repeat(0));
        self.pieces.iter().zip(gaps).map(|(piece, gap)| &piece.content()[gap..])
    }

    /// Puts what stands in the file before the samples within their first block there, and zeros behind them up to the end of
    /// their last one; `before` has [`Self::phase`] bytes. Returns what stands behind the last whole block. Nothing is to be
    /// pushed any more.
    pub fn fill(&mut self, before: &[u8]) -> Vec<u8> {
        if let Some(first) = self.pieces.first_mut() {
            first.memory[first.begins..first.begins + before.len()].copy_from_slice(before);
        }
        let Some(last) = self.pieces.last_mut() else { return before.to_vec() };
        let filled = last.content().len();
        let tail = last.content()[filled - filled % BLOCK..].to_vec();
        last.memory.resize(last.begins + filled.next_multiple_of(BLOCK), 0);
        tail
    }

    /// Whole blocks: what was [filled in](Self::fill), and the samples.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Piece::content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_was_pushed_in_whole_blocks(
            phase in 0..2 * BLOCK,
            lengths in proptest::collection::vec(0..3 * PIECE / 2, 0..8),
        ) {
            let mut samples = Samples::at(phase);
            let mut expected = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                let sample: Vec<u8> = (0..*length).map(|at| u8::try_from((at + number) % 251).unwrap()).collect();
                samples.push(&sample);
                expected.extend(sample);
            }
            prop_assert_eq!((samples.len(), samples.is_empty()), (expected.len(), expected.is_empty()));
            prop_assert!(samples.iter().collect::<Vec<_>>().concat() == expected);
            if expected.is_empty() {
                return Ok(());
            }
            let before = vec![7; samples.phase()];
            let mut whole = [&before[..], &expected].concat();
            let tail = samples.fill(&before);
            prop_assert!(tail.len() == whole.len() % BLOCK && whole.ends_with(&tail));
            whole.resize(whole.len().next_multiple_of(BLOCK), 0);
            let blocks: Vec<&[u8]> = samples.blocks().collect();
            prop_assert!(blocks.iter().all(|block| block.len() % BLOCK == 0));
            prop_assert!(blocks.iter().all(|block| block.as_ptr().align_offset(BLOCK) == 0));
            prop_assert!(blocks.concat() == whole);
        }
    }
}
