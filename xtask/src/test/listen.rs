//! What a run of `cargo test` says on standard output: which lines people see, how many tests it counted, and what
//! it left out.
//!
//! In: lines of libtest's output, as they come. Out: [`Heard`]. Pure.

use std::ops::AddAssign;

use serde::Serialize;

/// How tests ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What has been heard so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) counts: Counts,
    /// What tests said they had left out, each once, in the order of first mention.
    pub(crate) left_out: Vec<String>,
    /// Inside the list of what passing tests printed, which only interests for what it says was left out.
    quiet: bool,
}

impl Heard {
    /// Takes in one line; whether a person should see it.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(what) = line.trim_start().strip_prefix("left out:") {
            let what = what.trim().to_owned();
            if !self.left_out.contains(&what) {
                self.left_out.push(what);
            }
        }
        if let Some(counts) = result(line) {
            self.counts += counts;
            self.quiet = false;
        } else if line == "successes:" {
            self.quiet = true;
        } else if line == "failures:" {
            self.quiet = false;
        }
        !self.quiet
    }
}

/// The counts in libtest's closing line:
/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s`.
fn result(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let count = counts.split("; ").find_map(|count| count.strip_suffix(word))?;
        count.trim_end().parse().ok()
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a ... ok
test b ... FAILED
test c ... ignored, needs a router

successes:

---- a stdout ----
noise
left out: 12 of 16 kernels


successes:
    a

failures:

---- b stdout ----
left out: 12 of 16 kernels
left out: IPv6
thread 'b' panicked

failures:
    b

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 2 tests
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s
";

    #[test]
    fn counts_are_summed_over_all_runs() {
        let mut heard = Heard::default();
        for line in OUTPUT.lines() {
            heard.line(line);
        }
        assert_eq!(heard.counts, Counts { passed: 3, failed: 1, skipped: 1 });
    }

    #[test]
    fn what_was_left_out_is_heard_once() {
        let mut heard = Heard::default();
        for line in OUTPUT.lines() {
            heard.line(line);
        }
        assert_eq!(heard.left_out, ["12 of 16 kernels", "IPv6"]);
    }

    #[test]
    fn people_see_what_failing_tests_print_and_not_what_passing_ones_do() {
        let mut heard = Heard::default();
        let seen: Vec<&str> = OUTPUT.lines().filter(|line| heard.line(line)).collect();
        assert!(!seen.contains(&"noise"));
        for line in ["test a ... ok", "thread 'b' panicked", "    b", "running 2 tests"] {
            assert!(seen.contains(&line), "{line}");
        }
        assert_eq!(seen.iter().filter(|line| line.starts_with("test result:")).count(), 2);
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(result("test result: who knows"), None);
        assert_eq!(result("test sums ... ok. 1 passed; 0 failed; 0 ignored"), None);
    }
}
