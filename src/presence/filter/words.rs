//! `$autocomplete`: a prefix of any word, by the letters that people see.
//!
//! Texts are compared after NFKD without combining marks, with case folded: `jose` finds `José`,
//! and `STRASSE` finds `Straße`. Words are runs of letters and digits. Scripts that are written
//! without spaces have no such runs, so each ideographic, kana or hangul character begins one.

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The text as it is compared. Folding may compose what NFKD takes apart, hence the second round.
pub(super) fn folded(text: &str) -> impl Iterator<Item = char> {
    text.nfkd().default_case_fold().nfkd().filter(|character| !is_combining_mark(*character))
}

/// Returns whether `prefix`, which is folded, is found in `text` at a place that does not lie
/// within a word.
pub(super) fn has_word_with_prefix(text: &str, prefix: &str) -> bool {
    let mut in_word = false;
    text.char_indices().any(|(at, character)| {
        if is_combining_mark(character) {
            return false;
        }
        let was_in_word = in_word;
        let is_word = is_word_of_its_own(character);
        in_word = character.is_alphanumeric() && !is_word;
        (is_word || !(was_in_word && in_word)) && begins_with(&text[at..], prefix)
    })
}

fn begins_with(text: &str, prefix: &str) -> bool {
    let mut text = folded(text);
    prefix.chars().all(|character| text.next() == Some(character))
}

/// Returns whether the character is a word of its own. It then belongs to a script without spaces
/// between words, or, as hangul, with syllables of which each may begin a searched word.
fn is_word_of_its_own(character: char) -> bool {
    matches!(u32::from(character),
        // Hangul: jamo, compatibility jamo, extensions, syllables, halfwidth.
        0x1100..=0x11FF | 0x3131..=0x318E | 0xA960..=0xA97F | 0xAC00..=0xD7FF | 0xFFA0..=0xFFDC
        // Ideographic marks, hiragana, katakana, their extensions, halfwidth katakana.
        | 0x3005..=0x3007 | 0x3021..=0x3029 | 0x3038..=0x303B | 0x3041..=0x3096
        | 0x309D..=0x309F | 0x30A1..=0x30FF | 0x31F0..=0x31FF | 0xFF66..=0xFF9D
        | 0x1AFF0..=0x1B16F
        // Ideographs: extension A, the unified block, compatibility, the planes of the others.
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(prefix: &str, text: &str) -> bool {
        has_word_with_prefix(text, &folded(prefix).collect::<String>())
    }

    #[test]
    fn marks_and_case_make_no_difference() {
        for (prefix, text) in [
            ("jose", "José"),
            ("JOSÉ", "jose"),
            ("jose\u{301}", "Maria José"),
            ("strasse", "Lange Straße"),
            ("STRAß", "strasse"),
            ("ναι", "ΝΑΙ"),
            ("οδυσσευς", "ὈΔΥΣΣΕΎΣ"),
            ("fi", "ﬁnal"),
            ("istanbul", "İstanbul"),
            ("12", "①②"),
        ] {
            assert!(finds(prefix, text), "{prefix} in {text}");
        }
    }

    #[test]
    fn a_mark_does_not_end_a_word() {
        assert!(!finds("te", "cafe\u{301}teria"));
        assert!(finds("te", "cafe\u{301} teria"));
    }

    #[test]
    fn a_character_of_a_script_without_spaces_begins_a_word() {
        for (prefix, text) in [
            ("京", "東京都"),
            ("タワー", "東京タワー"),
            ("ﾀﾜｰ", "東京タワー"),
            ("수", "김철수"),
            ("ㅅ", "김철수"),
            ("abc", "東abc"),
        ] {
            assert!(finds(prefix, text), "{prefix} in {text}");
        }
        assert!(!finds("bc", "東abc"));
    }
}
