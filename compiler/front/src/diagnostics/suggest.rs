//! Suggestions for misspelt words.

/// Words longer than this are not compared: nobody misspells them.
const LONGEST: usize = 40;

/// Of more candidates than this none is suggested: only a hostile file has them.
const MOST: usize = 2000;

/// The candidate that `word` most likely means, if one is close: the nearest, and of several the first in the alphabet.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let candidates: Vec<&str> = candidates.into_iter().take(MOST + 1).collect();
    if candidates.len() > MOST {
        return None;
    }
    let lower = word.to_lowercase();
    let allowed = (lower.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let settings = ["hidden", "experts", "shared", "ep", "pp"];
        assert_eq!(closest("hiden", settings), Some("hidden"));
        assert_eq!(closest("Experts", settings), Some("experts"));
        assert_eq!(closest("banana", settings), None);
        assert_eq!(closest("xy", settings), None);
        assert_eq!(closest(&"a".repeat(1_000_000), settings), None);
    }
}
