//! Text that people write and read: durations, numbers of things, and names that are nearly right.

use std::time::Duration;

/// `200ms`, `5s`, `2m` or `1h`.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration: write a whole number and ms, s, m or h, such as 200ms");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..unit].parse().map_err(|_| wrong())?;
    let milliseconds: u64 = match &text[unit..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)
}

/// As [`parse_duration`] reads it, in the largest unit that has no fraction.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= size && milliseconds.is_multiple_of(size) {
            return format!("{}{unit}", milliseconds / size);
        }
    }
    format!("{milliseconds}ms")
}

/// `1 slot`, `2 slots`.
#[must_use]
pub fn counted(count: impl Into<u64>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// Which of `names` was probably meant by `word`; case, `-` and `_` don't count.
#[must_use]
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let bare =
        |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let word = bare(word);
    let distance = |name: &&'n str| strsim::damerau_levenshtein(&word, &bare(name));
    let best = names.into_iter().min_by_key(distance)?;
    (distance(&best) <= word.len().max(3) / 3).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!([0u32, 1, 2].map(|count| counted(count, "slot")), ["0 slots", "1 slot", "2 slots"]);
    }

    #[test]
    fn durations_go_there_and_back() {
        for (text, milliseconds) in
            [("0ms", 0), ("200ms", 200), ("1s", 1000), ("90s", 90_000), ("2m", 120_000), ("3h", 10_800_000)]
        {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(text), Ok(duration));
            assert_eq!(show_duration(duration), text);
        }
        for text in
            ["", "5", "s", "1.5s", "-1s", "5 s", "5d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse_duration(text).unwrap_err().contains("is not a duration"), "{text}");
        }
    }

    #[test]
    fn near_misses_are_found_and_others_not() {
        let names = ["podCidrs", "name", "region", "zone"];
        for (word, name) in
            [("podCIDRs", "podCidrs"), ("pod_cidrs", "podCidrs"), ("regoin", "region"), ("nane", "name")]
        {
            assert_eq!(nearest(word, names), Some(name), "{word}");
        }
        assert_eq!(nearest("weight", names), None);
        assert_eq!(nearest("x", []), None);
    }
}
