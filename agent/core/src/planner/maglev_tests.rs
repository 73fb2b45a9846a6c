//! Balance, disruption, and the paper's own formulation as the yardstick.

use std::net::Ipv4Addr;

use super::*;

fn fleet(backends: u32, weight: impl Fn(u32) -> u16) -> Vec<Candidate> {
    (0..backends)
        .map(|n| Candidate {
            identity: identity(Ipv4Addr::from(0x0a00_0000 + n * 7 + 3).into()),
            weight: weight(n),
        })
        .collect()
}

#[test]
fn probe() {
    for n in [
        2u32, 5, 9, 10, 16, 17, 22, 27, 28, 33, 45, 46, 60, 72, 73, 85, 97, 98, 99, 100, 110, 116, 117, 150,
        190, 191, 250, 320, 321, 400, 500, 800, 1600, 3200,
    ] {
        for w in [0, 1] {
            let all = fleet(n, |i| if w == 0 { 65535 } else { [65535, 30000, 10000][i as usize % 3] });
            let size = ring_size(all.len());
            let before = ring(&all, size);
            let (mut sum, mut count, mut worst) = (0.0, 0.0, 0.0f64);
            for gone in (0..n).step_by((n as usize / 40).max(1)) {
                let mut fewer = all.clone();
                fewer[gone as usize].weight = 0;
                let after = ring(&fewer, size);
                let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
                let held = before.iter().filter(|&&a| u32::from(a) == gone).count();
                sum += moved as f64;
                count += held as f64;
                worst = worst.max(moved as f64 / held as f64);
            }
            let total: u64 = all.iter().map(|c| u64::from(c.weight)).sum();
            let (mut lo, mut hi) = (9.0f64, 0.0f64);
            for (i, c) in all.iter().enumerate() {
                let have = before.iter().filter(|&&a| usize::from(a) == i).count() as f64;
                let rel = have / (f64::from(size) * f64::from(c.weight) / total as f64);
                lo = lo.min(rel);
                hi = hi.max(rel);
            }
            print!("{lo:.2}..{hi:.2} {n} w{w} size {size}: mean {:.2} worst {worst:.2}   ", sum / count);
        }
        println!();
    }
}
