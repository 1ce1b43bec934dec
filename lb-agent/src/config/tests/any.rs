//! Whatever is in a file, reading it ends in a configuration or in errors.

use proptest::prelude::*;

use super::*;

proptest! {
    /// No text makes it panic, and every error is one line with a file and a line that exists.
    #[test]
    fn any_text(text in any::<String>()) {
        check_any(&text)?;
    }

    /// The same for text that nearly is a configuration: pieces of the example cut, doubled and mixed up.
    #[test]
    fn mutated_configuration(cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, 0usize..5), 1..8)) {
        let scraps = ["", "[[service]]\n", "= 7\n", "\"", "addresses = [[1], {a=2}]\n"];
        let mut text = EXAMPLE.replace("\n# ", "\n");
        for (at, length, scrap) in cuts {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            if text.is_char_boundary(start) && text.is_char_boundary(end) {
                text.replace_range(start..end, scraps[scrap]);
            }
        }
        check_any(&text)?;
    }

    /// The same for any values under the known keys.
    #[test]
    fn any_value(line in 1usize..=21, value in "(\"[ -~]{0,24}\"|-?[0-9]{1,25}|\\[\\]|\\{\\}|true|1e9|\"[0-9.:/-]{1,20}\")") {
        if let Some((key, _)) = VALID[line - 1].split_once(" = ") {
            check_any(&with(&[(line, &format!("{key} = {value}"))]))?;
        }
    }
}

fn check_any(text: &str) -> Result<(), TestCaseError> {
    let Err(all) = parse("lb.toml", text) else { return Ok(()) };
    prop_assert!(!all.errors().is_empty());
    prop_assert_eq!(all.to_string().lines().count(), all.errors().len());
    for error in all.errors() {
        let line = error.line.unwrap_or(0) as usize;
        prop_assert!((1..=text.split('\n').count().max(1)).contains(&line), "{}", error);
        prop_assert!(!error.to_string().chars().any(char::is_control), "{:?}", error);
    }
    Ok(())
}
