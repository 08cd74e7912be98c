//! The rules for messages to people.

/// The longest message, in bytes: names come from files, and a file can hold a name of any length.
const LONGEST: usize = 4096;

/// Checks that a message is one line of text that a terminal can be trusted with.
///
/// # Panics
/// If it is not.
pub(crate) fn check(message: &str) {
    assert!(!message.trim().is_empty(), "a message says something");
    assert!(!message.contains(char::is_control), "control characters in {message:?}");
    assert!(
        message.len() <= LONGEST,
        "a message of {} bytes: {:.200}",
        message.len(),
        message
    );
}
