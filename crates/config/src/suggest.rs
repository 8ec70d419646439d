//! What someone who mistyped a name probably meant.

use super::section::Key;

/// The name of `known` that is at most two edits away, the nearest first.
pub(super) fn did_you_mean<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What to say of a key that the table `path` does not have.
pub(super) fn unknown_key(path: &str, name: &str, known: &[&str]) -> String {
    let what = if path.is_empty() {
        format!("unknown section or key `{name}`")
    } else {
        format!("unknown key `{name}` in [{path}]")
    };
    if let Some(near) = did_you_mean(name, known) {
        return format!("{what}; did you mean `{near}`?");
    }
    let elsewhere: Vec<String> = super::reference()
        .iter()
        .filter(|Key { name: other, .. }| *other == name)
        .map(|Key { section, .. }| format!("[{section}]"))
        .collect();
    if !elsewhere.is_empty() {
        return format!("{what}; it belongs in {}", elsewhere.join(" or "));
    }
    format!("{what}; known here: {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["bind", "max_sessions", "mtu"];
        assert_eq!(did_you_mean("max_session", &known), Some("max_sessions"));
        assert_eq!(did_you_mean("bnid", &known), Some("bind"));
        assert_eq!(did_you_mean("sessions", &known), None);
        assert_eq!(did_you_mean("xyz", &known), None);
    }

    #[test]
    fn a_key_of_another_section_is_sent_there() {
        let message = unknown_key("node", "observe_check", &["name", "workers"]);
        assert!(message.ends_with("it belongs in [coap]"), "{message}");
    }
}
