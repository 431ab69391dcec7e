//! Changes to bytes that find what a parser forgot: the usual ones of fuzzers, without their memory of what was reached.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Numbers at which sizes, counts and offsets go wrong, as they stand in files and packets.
const NUMBERS: [u32; 8] = [0, 1, 7, 8, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];

/// Changes `data` in one to eight places; `other` is what parts are taken from.
pub fn mutate(data: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    for _ in 0..random.random_range(1..=8) {
        change(data, other, random);
    }
}

fn change(data: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let at = random.random_range(0..=data.len());
    match random.random_range(0..8) {
        0 => data.truncate(at),
        1 => data.insert(at, random.random()),
        2 => {
            if let Some(byte) = data.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        3 => {
            if let Some(byte) = data.get_mut(at) {
                *byte = random.random();
            }
        }
        4 => {
            let number = NUMBERS.choose(random).copied().unwrap_or_default().to_be_bytes();
            let width = *[1, 2, 4].choose(random).unwrap_or(&4);
            for (place, byte) in data.iter_mut().skip(at).zip(&number[4 - width..]) {
                *place = *byte;
            }
        }
        5 => {
            let part = part_of(other, random);
            data.splice(at..at, part.iter().copied());
        }
        6 => {
            let part = part_of(data, random).to_vec();
            data.splice(at..at, part);
        }
        _ => {
            let end = random.random_range(at..=data.len());
            data.drain(at..end);
        }
    }
    // Nothing grows without end.
    data.truncate(1 << 20);
}

fn part_of<'a>(data: &'a [u8], random: &mut StdRng) -> &'a [u8] {
    let start = random.random_range(0..=data.len());
    let length = random.random_range(0..=64.min(data.len() - start));
    &data[start..start + length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn the_same_seed_makes_the_same_changes() {
        let mutated = |seed| {
            let mut data = b"longwatch".to_vec();
            mutate(&mut data, b"another", &mut StdRng::seed_from_u64(seed));
            data
        };
        assert_eq!(mutated(7), mutated(7));
        let different = (0..100).filter(|seed| mutated(*seed) != b"longwatch").count();
        assert!(different > 80, "{different}");
    }
}
