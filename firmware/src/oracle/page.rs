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

    /// The body line that the write number `self.sequence` changes.
    const fn changed_line(&self) -> u64 {
        match self.write {
            Write::Byte => self.sequence % BODY_BYTES / 64,
            Write::Line | Write::Page => self.sequence % BODY_LINES,
        }
    }
}

/// The body of a page, line by line: what all lines share is worked out once.
struct Body {
    key: u64,
    /// Last line that was written in the pass under way.
    current: u64,
    /// Number of the last write of line 0, and how much later that of each following line was; for
    /// lines up to `current`, and for those after it.
    written: [(u64, u64); 2],
    /// Exclusive-ored with every word of the lines before `changing`, and of those after it.
    overlays: [u64; 2],
    /// The line that is half of one and half of the other, and its overlay.
    changing: u64,
    changing_overlay: Line,
}

impl Body {
    fn new(stamp: &Stamp) -> Self {
        let uniform = Self {
            key: mix(stamp.address ^ stamp.run.rotate_left(17)),
            current: 0,
            written: [(0, 0); 2],
            overlays: [0; 2],
            changing: 0,
            changing_overlay: [0; LINE_WORDS],
        };
        let sequence = stamp.sequence;
        match stamp.write {
            Write::Page => Self { written: [(sequence, 0); 2], ..uniform },
            Write::Line => {
                let start = sequence / BODY_LINES * BODY_LINES;
                // What this pass has not written, the one before has, or else the fill.
                let before = start.checked_sub(BODY_LINES).map_or((0, 0), |before| (before, 1));
                let current = sequence % BODY_LINES;
                Self { current, written: [(start, 1), before], ..uniform }
            }
            Write::Byte => {
                // A byte is exclusive-ored with the number of its visits, the fill being the first
                // one of byte 0.
                let (pass, current) = (sequence / BODY_BYTES, sequence % BODY_BYTES);
                let [visited, pending] = [pass + 1, pass].map(repeat_low_byte);
                let changing = current / 64;
                let word_overlay = |word: usize| {
                    let first_byte = changing * 64 + word as u64 * 8;
                    match current.checked_sub(first_byte) {
                        None => pending,
                        Some(7..) => visited,
                        Some(last) => {
                            let low_bytes = u64::MAX >> (8 * (7 - last));
                            visited & low_bytes | pending & !low_bytes
                        }
                    }
                };
                Self {
                    overlays: [visited, pending],
                    changing,
                    changing_overlay: core::array::from_fn(word_overlay),
                    ..uniform
                }
            }
        }
    }

    /// The words of a line.
    #[inline(always)]
    fn line(&self, line: u64) -> Line {
        // An odd stride makes the words of a line differ, and costs one addition a word. The first
        // word is scrambled less than `mix` would: `key` is scrambled already, and this runs 63
        // times a page.
        const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
        let (start, step) = self.written[usize::from(line > self.current)];
        let position = self.key.wrapping_add(line.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let first = position ^ (start + line * step).wrapping_mul(STRIDE);
        let first = (first ^ first >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let first = first ^ first >> 29;
        let words: Line =
            core::array::from_fn(|word| first.wrapping_add(STRIDE.wrapping_mul(word as u64)));
        if line == self.changing {
            return core::array::from_fn(|word| words[word] ^ self.changing_overlay[word]);
        }
        let overlay = self.overlays[usize::from(line > self.changing)];
        words.map(|word| word ^ overlay)
    }
}

/// A word of eight times the low byte of `value`.
const fn repeat_low_byte(value: u64) -> u64 {
    (value & 0xff) * 0x0101_0101_0101_0101
}

/// Words that are summed side by side: four keep all sums in registers of baseline x86-64.
const LANES: usize = 4;

/// Two running sums a lane, so that both a changed word and a moved word show (after Fletcher).
struct Checksum {
    sums: [u64; LANES],
    sums_of_sums: [u64; LANES],
}

impl Checksum {
    #[inline(always)]
    fn of_header(header: Line) -> Self {
        let mut sum = Self { sums: [0; LANES], sums_of_sums: [0; LANES] };
        sum.add(&header);
        sum
    }

    #[inline(always)]
    fn add(&mut self, words: &Line) {
        for half in words.as_chunks::<LANES>().0 {
            for (lane, word) in half.iter().enumerate() {
                self.sums[lane] = self.sums[lane].wrapping_add(*word);
                self.sums_of_sums[lane] = self.sums_of_sums[lane].wrapping_add(self.sums[lane]);
            }
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
    let body = Body::new(stamp);
    let mut sum = Checksum::of_header(stamp.header(0));
    let (header, lines) = split_mut(page);
    for (number, line) in (0..).zip(lines) {
        *line = body.line(number);
        sum.add(line);
    }
    *header = stamp.header(sum.finish());
}

/// Brings a page that holds the write before `stamp` to `stamp`, touching only what that changes.
pub fn advance(page: &mut Page, stamp: &Stamp) {
    if stamp.write == Write::Page {
        return fill(page, stamp);
    }
    let body = Body::new(stamp);
    let mut sum = Checksum::of_header(stamp.header(0));
    // The sum is that of what the page must hold: what it does hold was checked, and is not read
    // a second time.
    for number in 0..BODY_LINES {
        sum.add(&body.line(number));
    }
    let (header, lines) = split_mut(page);
    let changed = stamp.changed_line();
    let (line, after) = (&mut lines[super::index(changed)], body.line(changed));
    if stamp.write == Write::Byte {
        let byte = super::index(stamp.sequence % BODY_BYTES % 64);
        let (word, byte) = (byte / 8, byte % 8);
        let mut bytes = line[word].to_le_bytes();
        bytes[byte] = after[word].to_le_bytes()[byte];
        line[word] = u64::from_le_bytes(bytes);
    } else {
        *line = after;
    }
    *header = stamp.header(sum.finish());
}

/// Is the page, to the last bit, what `stamp` says?
#[must_use]
pub fn matches(page: &Page, stamp: &Stamp) -> bool {
    let body = Body::new(stamp);
    let mut sum = Checksum::of_header(stamp.header(0));
    let (header, lines) = split(page);
    let mut difference = [0; LINE_WORDS];
    let mut compare = |found: &Line, expected: &Line| {
        difference = core::array::from_fn(|i| difference[i] | (found[i] ^ expected[i]));
    };
    for (number, found) in (0..).zip(lines) {
        let expected = body.line(number);
        sum.add(&expected);
        compare(found, &expected);
    }
    compare(header, &stamp.header(sum.finish()));
    difference.into_iter().fold(0, |all, word| all | word) == 0
}

/// Header line and body lines.
fn split(page: &Page) -> (&Line, &[Line]) {
    let (lines, _) = page.as_chunks::<LINE_WORDS>();
    (&lines[0], &lines[1..])
}

/// Header line and body lines.
fn split_mut(page: &mut Page) -> (&mut Line, &mut [Line]) {
    let (lines, _) = page.as_chunks_mut::<LINE_WORDS>();
    let (header, body) = lines.split_at_mut(1);
    (&mut header[0], body)
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
