//! Spoils packets.

use super::Rng;

/// The shortest frame that BPF_PROG_TEST_RUN takes.
const SHORTEST: usize = 14;
/// The longest that is made.
const LONGEST: usize = 9000;

/// Spoils a frame in one to three ways.
pub fn mutate(rng: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..rng.pick(&[1, 1, 1, 2, 3]) {
        mutate_once(rng, frame);
        frame.truncate(LONGEST);
        frame.resize(frame.len().max(SHORTEST), 0);
    }
}

fn mutate_once(rng: &mut Rng, frame: &mut Vec<u8>) {
    let at = place(rng, frame);
    match rng.below(12) {
        0..4 => frame[at] ^= 1 << rng.below(8),
        4 => frame[at] = rng.pick(&[0, 1, 0x45, 0x60, 0x7f, 0x80, 0xff]),
        5 => frame.truncate(at),
        6 => {
            let length = rng.below(frame.len());
            frame.truncate(length);
        }
        7 => length_field(rng, frame),
        8 => {
            // Two neighbours of the same size change places: addresses, ports, words.
            let size = rng.pick(&[2, 4, 6, 16]);
            if let Some(pair) = frame.get_mut(at..at + 2 * size) {
                let (first, second) = pair.split_at_mut(size);
                first.swap_with_slice(second);
            }
        }
        9 => {
            let more = rng.pick(&[1, 2, 4, 8, 20, 28, 40]);
            let bytes = rng.bytes(more);
            frame.splice(at..at, bytes);
        }
        10 => {
            let fewer = rng.pick(&[1, 2, 4, 8, 20, 28, 40]);
            frame.drain(at..(at + fewer).min(frame.len()));
        }
        _ => {
            // A header again, as in a tunnel.
            let length = rng.pick(&[20, 28, 40, 48]);
            let copy = frame.iter().skip(14).take(length).copied().collect::<Vec<_>>();
            let behind = frame.len().min(14);
            frame.splice(behind..behind, copy);
        }
    }
}

/// A place, most often among the headers.
fn place(rng: &mut Rng, frame: &[u8]) -> usize {
    let most = rng.pick(&[frame.len(), 34, 60, 100, 140]);
    rng.below(frame.len().min(most))
}

/// Changes what looks like a length, of the first header or of one behind it.
fn length_field(rng: &mut Rng, frame: &mut [u8]) {
    let at = 14 + rng.pick(&[0, 0, 0, 4, 20, 28, 40, 48]) + rng.pick(&[2, 4, 0]);
    let Some([a, b]) = frame.get_mut(at..at + 2) else { return };
    let was = u16::from_be_bytes([*a, *b]);
    let is = match rng.below(4) {
        0 => was.wrapping_add(1),
        1 => was.wrapping_sub(1),
        2 => was ^ 1 << rng.below(16),
        _ => rng.pick(&[0, 1, 7, 8, 19, 20, 28, 39, 40, 0xffff]),
    };
    [*a, *b] = is.to_be_bytes();
}
