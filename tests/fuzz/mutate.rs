//! From seeds to inputs: a small deterministic mutator. One number gives one input, so a failure is
//! reproduced by its number alone.

/// Longest input. Long enough for a hello over several records; short inputs find more.
const MAX_INPUT: usize = 8 * 1024;

/// Most changes to one seed.
const MAX_CHANGES: u64 = 8;

/// SplitMix64 (Steele, Lea, Flood 2014): any seed is a good seed.
pub(crate) struct Rng(u64);

impl Rng {
    /// The numbers of input `iteration` of target `name`.
    pub(crate) fn new(seed: u64, name: &str, iteration: u64) -> Self {
        let name = name.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut rng = Self(seed ^ name.rotate_left(32));
        rng.0 = rng.next() ^ iteration;
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        const INTERESTING: [u8; 16] = [0, 1, 2, 3, 4, 5, 22, 0x20, 0x2e, 0x2f, 0x25, 0x7f, 0x80, 0xc0, 0xfe, 0xff];
        if self.next().is_multiple_of(2) { INTERESTING[self.below(16)] } else { self.next().to_le_bytes()[0] }
    }
}

/// An input made from one of `seeds` by a few changes.
pub(crate) fn input(rng: &mut Rng, seeds: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut data = if seeds.is_empty() || rng.next().is_multiple_of(16) {
        Vec::new()
    } else {
        seeds[rng.below(seeds.len())].clone()
    };
    for _ in 0..1 + rng.next() % MAX_CHANGES {
        change(&mut data, rng, seeds, words);
        data.truncate(MAX_INPUT);
    }
    data
}

fn change(data: &mut Vec<u8>, rng: &mut Rng, seeds: &[Vec<u8>], words: &[&[u8]]) {
    let at = rng.below(data.len() + 1);
    let longest = if rng.next().is_multiple_of(4) { 256 } else { 8 };
    let len = 1 + rng.below(longest);
    let end = (at + len).min(data.len());
    match rng.below(11) {
        0 => {
            if let Some(byte) = data.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            if let Some(byte) = data.get_mut(at) {
                *byte = rng.byte();
            }
        }
        2 => {
            let bytes: Vec<u8> = (0..len).map(|_| rng.byte()).collect();
            data.splice(at..at, bytes);
        }
        3 => {
            data.drain(at..end);
        }
        4 => {
            let part = data[at..end].to_vec();
            let to = rng.below(data.len() + 1);
            data.splice(to..to, part);
        }
        5 => data.truncate(at),
        // A length field a little off.
        6 => {
            if let Some([high, low]) = data.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
                let by = u16::try_from(rng.below(9)).expect("below nine").wrapping_sub(4);
                [*high, *low] = u16::from_be_bytes([*high, *low]).wrapping_add(by).to_be_bytes();
            }
        }
        7 if !seeds.is_empty() => {
            let other = &seeds[rng.below(seeds.len())];
            data.truncate(at);
            data.extend_from_slice(&other[rng.below(other.len() + 1)..]);
        }
        8 => data[at..end].make_ascii_uppercase(),
        _ if !words.is_empty() => {
            let word = words[rng.below(words.len())];
            let replaced = if rng.next().is_multiple_of(2) { at } else { (at + word.len()).min(data.len()) };
            data.splice(at..replaced, word.iter().copied());
        }
        _ => {}
    }
}

/// A smaller input that still fails: halves, quarters and so on are cut out while that goes on failing.
pub(crate) fn shrink(data: &[u8], fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    // Enough for inputs of some hundred bytes; a longer failure is reported less small.
    const MAX_TRIES: usize = 4096;
    let mut small = data.to_vec();
    let mut tries = 0;
    let mut part = small.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at + part <= small.len() && tries < MAX_TRIES {
            tries += 1;
            let shorter = [&small[..at], &small[at + part..]].concat();
            if fails(&shorter) {
                small = shorter;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    small
}
