//! Wrong at M: malformed input.

use super::crossed::matching;
use super::harness::Wrong;
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "cuts-long-channels",
        "M3",
        r#"expected message "1", got message "0""#,
        "of a long channel name only the beginning counts",
        || matching(|held, sent| held.0 == sent.0 && beginning(held.1) == beginning(sent.1)),
    ),
    mutant!(
        "cuts-long-prefixes",
        "M3",
        r#"expected message "2", got message "0""#,
        "of a long prefix only the beginning counts",
        || matching(|held, sent| beginning(held.0) == beginning(sent.0) && held.1 == sent.1),
    ),
    mutant!(
        "swallows-unknown-url-options",
        "M4",
        "was swallowed",
        "an option that nobody knows is ignored (channels: **kwargs)",
        || Wrong::new().url(|_, _| Ok(())),
    ),
    mutant!(
        "does-not-name-the-url-option",
        "M4",
        "the error does not name",
        "an unknown option makes the URL invalid, and that is all one hears",
        || Wrong::new().url(|option, _| match option {
            "prefix" => Ok(()),
            _ => Err("invalid URL".to_owned()),
        }),
    ),
];

fn beginning(name: &str) -> &[u8] {
    &name.as_bytes()[..name.len().min(100)]
}
