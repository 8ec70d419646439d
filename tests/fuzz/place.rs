//! Errors in text files.

use portcullis::types::LineError;

/// It is at a place that is there, and quotes nothing that could be a secret.
pub(crate) fn check(text: &str, error: &LineError) {
    let line = text.lines().nth(error.line - 1).unwrap_or_default();
    assert!(error.column <= line.chars().count() + 1, "{error}");
    let secret = line.rsplit_once(':').map_or("", |(_, secret)| secret.trim());
    // Words with blanks between them may be the message's own; no hash and hardly a password is like that.
    let is_secret = secret.len() >= 24 && !secret.contains(char::is_whitespace) && !secret.contains("..");
    assert!(!is_secret || !error.message.contains(secret), "{error}");
}
