//! What a page holds, and what is wrong with one that does not.
//!
//! ```text
//! word 0      magic (bits 63:32) | format version (31:24) | writer (23:8) | write (7:0)
//! word 1      address of the page
//! word 2      sequence: how many times the page was written since it was filled
//! word 3      run: which run of which guest wrote it
//! words 4..6  zero
//! word 7      checksum over the 511 other words
//! 8..512      63 body lines of 64 bytes, each derived from (address, run, sequence of its last write)
//! ```
//! All words are little-endian. A page is thus a function of its [`Stamp`]: who knows the stamp knows
//! every byte, and a page that any byte of was lost, kept or brought from elsewhere is not that page.

use super::mix;

/// A page as words.
pub type Page = [u64; WORDS];

/// Words in a page.
pub const WORDS: usize = 512;

const LINE_WORDS: usize = 8;
const BODY_LINES: u64 = 63;
const BODY_BYTES: u64 = BODY_LINES * 64;

const CHECKSUM: usize = 7;
const MAGIC: u64 = u32::from_le_bytes(*b"ORCL") as u64;
const FORMAT: u64 = 1;

type Line = [u64; LINE_WORDS];

/// How much of a page one write changes. The header line changes with every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// One byte of the body; its place moves with the sequence.
    Byte,
    /// One line of 64 bytes; its place moves with the sequence.
    Line,
    /// The whole body.
    Page,
}

impl Write {
    const fn code(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Line => 2,
            Self::Page => 3,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(Self::Byte),
            2 => Some(Self::Line),
            3 => Some(Self::Page),
            _ => None,
        }
    }
}

/// Everything that decides a page's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Physical address of the page, a multiple of 4096.
    pub address: u64,
    /// vCPU that owns the page.
    pub writer: u16,
    /// Writes since the fill, which is number 0.
    pub sequence: u64,
    /// Tells runs apart: a page of another boot or with another seed is not a page of this run.
    pub run: u64,
    /// What one write of this page changes.
    pub write: Write,
}

impl Stamp {
    /// The same page after its next write.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { sequence: self.sequence + 1, ..self }
    }

    /// The header line, for a body with the given checksum.
    const fn header(&self, checksum: u64) -> Line {
        let identity = MAGIC << 32 | FORMAT << 24 | (self.writer as u64) << 8 | self.write.code();
        [identity, self.address, self.sequence, self.run, 0, 0, 0, checksum]
    }

    /// Calls `each` with the number and the words of every body line, in order.
    #[inline(always)]
    fn for_each_body_line(&self, mut each: impl FnMut(u64, Line)) {
        let key = mix(self.address ^ self.run.rotate_left(17));
        match self.write {
            Write::Page => {
                for line in 0..BODY_LINES {
                    each(line, body_line(key, line, self.sequence));
                }
            }
            Write::Line => {
                let (round, current) = (self.sequence / BODY_LINES, self.sequence % BODY_LINES);
                let previous = round.checked_sub(1);
                for line in 0..BODY_LINES {
                    let written = if line <= current {
                        round * BODY_LINES + line
                    } else {
                        // Not yet in this pass: in the one before, or else by the fill.
                        previous.map_or(0, |round| round * BODY_LINES + line)
                    };
                    each(line, body_line(key, line, written));
                }
            }
            Write::Byte => {
                let (round, current) = (self.sequence / BODY_BYTES, self.sequence % BODY_BYTES);
                for line in 0..BODY_LINES {
                    let overlay = byte_overlay(round, current, line * 64);
                    let mut words = body_line(key, line, 0);
                    for (word, overlay) in words.iter_mut().zip(overlay) {
                        *word ^= overlay;
                    }
                    each(line, words);
                }
            }
        }
    }

    /// The body line that the write number `self.sequence` changes.
    const fn changed_line(&self) -> u64 {
        match self.write {
            Write::Byte => self.sequence % BODY_BYTES / 64,
            Write::Line | Write::Page => self.sequence % BODY_LINES,
        }
    }

    fn checksum(&self) -> u64 {
        let mut sum = Checksum::of_header(self.header(0));
        self.for_each_body_line(|_, words| sum.add(words));
        sum.finish()
    }
}

/// The words of a body line whose last write was number `sequence`.
#[inline(always)]
fn body_line(key: u64, line: u64, sequence: u64) -> Line {
    // An odd stride makes the words of a line differ, and costs one addition a word.
    const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
    let position = line.wrapping_mul(0xd6e8_feb8_6659_fd93);
    let first = mix(key.wrapping_add(position) ^ sequence.wrapping_mul(STRIDE));
    let mut words = [first; LINE_WORDS];
    let mut step = 0u64;
    for word in &mut words {
        *word = word.wrapping_add(step);
        step = step.wrapping_add(STRIDE);
    }
    words
}

/// What the byte writes so far have changed in the line that starts at body byte `start`: a byte is
/// exclusive-ored with the number of its visits, which is `round + 1` up to byte `current` of the
/// pass under way and `round` after it. The fill counts as the first visit of byte 0.
#[inline(always)]
fn byte_overlay(round: u64, current: u64, start: u64) -> Line {
    const EACH_BYTE: u64 = 0x0101_0101_0101_0101;
    let visited = ((round + 1) & 0xff) * EACH_BYTE;
    let pending = (round & 0xff) * EACH_BYTE;
    let mut overlay = [0; LINE_WORDS];
    let mut first_byte = start;
    for word in &mut overlay {
        *word = if first_byte + 7 <= current {
            visited
        } else if first_byte > current {
            pending
        } else {
            let low_bytes = u64::MAX >> (8 * (7 - (current - first_byte)));
            visited & low_bytes | pending & !low_bytes
        };
        first_byte += 8;
    }
    overlay
}

/// Two running sums a lane, so that both a changed word and a moved word show (after Fletcher).
struct Checksum {
    sums: Line,
    sums_of_sums: Line,
}

impl Checksum {
    #[inline(always)]
    fn of_header(header: Line) -> Self {
        let mut sum = Self { sums: [0; LINE_WORDS], sums_of_sums: [0; LINE_WORDS] };
        sum.add(header);
        sum
    }

    #[inline(always)]
    fn add(&mut self, words: Line) {
        for (lane, word) in words.into_iter().enumerate() {
            self.sums[lane] = self.sums[lane].wrapping_add(word);
            self.sums_of_sums[lane] = self.sums_of_sums[lane].wrapping_add(self.sums[lane]);
        }
    }

    #[inline(always)]
    fn finish(self) -> u64 {
        // Each step is a bijection of the state, so a difference in one lane always survives.
        self.sums.iter().chain(&self.sums_of_sums).fold(0, |state: u64, lane| {
            (state ^ lane).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(29)
        })
    }
}

/// Writes the whole page.
pub fn fill(page: &mut Page, stamp: &Stamp) {
    let mut sum = Checksum::of_header(stamp.header(0));
    let (lines, _) = page.as_chunks_mut::<LINE_WORDS>();
    let mut body = lines.iter_mut().skip(1);
    stamp.for_each_body_line(|_, words| {
        sum.add(words);
        if let Some(line) = body.next() {
            *line = words;
        }
    });
    lines[0] = stamp.header(sum.finish());
}

/// Brings a page that holds the write before `stamp` to `stamp`, touching only what that changes.
pub fn advance(page: &mut Page, stamp: &Stamp) {
    if stamp.write == Write::Page {
        return fill(page, stamp);
    }
    let changed = stamp.changed_line();
    let mut sum = Checksum::of_header(stamp.header(0));
    let (lines, _) = page.as_chunks_mut::<LINE_WORDS>();
    let mut after = [0; LINE_WORDS];
    stamp.for_each_body_line(|line, words| {
        sum.add(words);
        if line == changed {
            after = words;
        }
    });
    let target = &mut lines[1 + super::index(changed)];
    if stamp.write == Write::Byte {
        let byte = super::index(stamp.sequence % BODY_BYTES % 64);
        let (word, shift) = (byte / 8, byte % 8);
        let mut bytes = target[word].to_le_bytes();
        bytes[shift] = after[word].to_le_bytes()[shift];
        target[word] = u64::from_le_bytes(bytes);
    } else {
        *target = after;
    }
    lines[0] = stamp.header(sum.finish());
}

/// Is the page, to the last bit, what `stamp` says?
#[must_use]
pub fn matches(page: &Page, stamp: &Stamp) -> bool {
    let mut sum = Checksum::of_header(stamp.header(0));
    let (lines, _) = page.as_chunks::<LINE_WORDS>();
    let mut body = lines.iter().skip(1);
    let mut difference = [0; LINE_WORDS];
    let mut compare = |found: &Line, expected: Line| {
        for lane in 0..LINE_WORDS {
            difference[lane] |= found[lane] ^ expected[lane];
        }
    };
    stamp.for_each_body_line(|_, words| {
        sum.add(words);
        if let Some(line) = body.next() {
            compare(line, words);
        }
    });
    compare(&lines[0], stamp.header(sum.finish()));
    difference == [0; LINE_WORDS]
}

/// The stamp that the page's header names, whether or not the rest of the page agrees; none when
/// the header is not one.
#[must_use]
pub fn header_of(page: &Page) -> Option<Stamp> {
    let [identity, address, sequence, run, ..] = *page;
    if identity >> 24 != MAGIC << 8 | FORMAT {
        return None;
    }
    let write = Write::from_code(identity & 0xff)?;
    let writer = u16::try_from(identity >> 8 & 0xffff).ok()?;
    Some(Stamp { address, writer, sequence, run, write })
}

/// The stamp of a page that is intact.
#[must_use]
pub fn read(page: &Page) -> Option<Stamp> {
    header_of(page).filter(|stamp| matches(page, stamp))
}

/// A page's bytes as words.
#[must_use]
pub fn from_bytes(bytes: &[u8; 4096]) -> Page {
    let (words, _) = bytes.as_chunks::<8>();
    core::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

/// In which way a page is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every byte is zero.
    Zeroed,
    /// An intact page of another address.
    Swapped,
    /// An intact page of this address and run, from an earlier write: a write was lost.
    Stale,
    /// An intact page of this address and run, from a write that has not happened.
    Future,
    /// An intact page of this address that this run never wrote: another seed, writer or pattern.
    Foreign,
    /// Not an intact page: bytes flipped, or parts of two pages.
    Torn,
    /// A page that the guest leaves alone is not zero.
    Touched,
}

/// A wrong page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    /// In which way it is wrong.
    pub kind: Kind,
    /// What its header says, true or not.
    pub found: Option<Stamp>,
    /// First byte that differs from what is expected, 0 to 4095.
    pub offset: u16,
}

/// Compares a page with what it must hold.
///
/// # Errors
/// What is wrong with it.
#[inline]
pub fn check(page: &Page, expected: &Stamp) -> Result<(), Defect> {
    if matches(page, expected) { Ok(()) } else { Err(diagnose(page, expected)) }
}

/// Checks a page that must be untouched.
///
/// # Errors
/// [`Kind::Touched`], with the first byte that is not zero.
pub fn check_untouched(page: &Page) -> Result<(), Defect> {
    match first_difference(page, &[0; WORDS]) {
        None => Ok(()),
        Some(offset) => Err(Defect { kind: Kind::Touched, found: header_of(page), offset }),
    }
}

#[cold]
fn diagnose(page: &Page, expected: &Stamp) -> Defect {
    let mut wanted = [0; WORDS];
    fill(&mut wanted, expected);
    let offset = first_difference(page, &wanted).unwrap_or(0);
    let kind = match read(page) {
        Some(stamp) if stamp.address != expected.address => Kind::Swapped,
        Some(stamp) if (Stamp { sequence: expected.sequence, ..stamp }) != *expected => {
            Kind::Foreign
        }
        Some(stamp) if stamp.sequence < expected.sequence => Kind::Stale,
        Some(_) => Kind::Future,
        None if page.iter().all(|word| *word == 0) => Kind::Zeroed,
        None => Kind::Torn,
    };
    Defect { kind, found: header_of(page), offset }
}

/// The first byte in which two pages differ.
fn first_difference(left: &Page, right: &Page) -> Option<u16> {
    let mut offset = 0;
    for (left, right) in left.iter().zip(right) {
        if left != right {
            let byte = (left ^ right).trailing_zeros() / 8;
            return Some(offset + u16::try_from(byte).unwrap_or(0));
        }
        offset += 8;
    }
    None
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
