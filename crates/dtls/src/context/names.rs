//! Which certificates a client is shown: by the name that it asks for (SNI; RFC 6066, 3), and by the kinds that it can check.

use std::collections::{BTreeMap, HashMap};

/// The certificates for clients that ask for no name, or for one that none has: the first of each kind.
pub(super) const ANY: &str = "";

/// For each name the certificates that a client who asks for it is shown: of those with that name the first of each kind, by
/// their places. `own` are the names and the kind of each certificate.
pub(super) fn selections<K: PartialEq + Copy>(own: &[(Vec<String>, K)]) -> BTreeMap<String, Vec<usize>> {
    let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, (names, kind)) in own.iter().enumerate() {
        for name in names.iter().map(String::as_str).chain([ANY]) {
            let chosen = all.entry(name.to_owned()).or_default();
            let has_kind = |at: &usize| own.get(*at).is_some_and(|(_, other)| other == kind);
            if !chosen.iter().any(has_kind) {
                chosen.push(at);
            }
        }
    }
    all
}

/// What there is for a name: its own, or that of the wildcard in the place of its first label (RFC 6125, 6.4.3).
pub(super) fn of_name<'a, T>(all: &'a HashMap<String, T>, name: &str) -> Option<&'a T> {
    let name = name.to_ascii_lowercase();
    all.get(&name).or_else(|| {
        let (_, domain) = name.split_once('.')?;
        all.get(&format!("*.{domain}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_first_certificate_of_each_kind_that_has_it() {
        let own = |names: &[&str], kind: char| (names.iter().map(ToString::to_string).collect(), kind);
        let all = selections(&[
            own(&["a.test"], 'e'),
            own(&["a.test", "*.b.test"], 'r'),
            own(&["*.b.test", "c.test"], 'e'),
            own(&["c.test"], 'e'),
        ]);
        for (name, chosen) in [
            (ANY, &[0, 1][..]),
            ("a.test", &[0, 1]),
            ("*.b.test", &[1, 2]),
            ("c.test", &[2]),
        ] {
            assert_eq!(all[name], chosen, "{name}");
        }
        let all: HashMap<String, usize> = all.into_keys().zip(0..).collect();
        for (name, found) in [
            ("A.test", Some("a.test")),
            ("x.B.test", Some("*.b.test")),
            ("y.x.b.test", None),
            ("b.test", None),
            ("d.test", None),
        ] {
            assert_eq!(of_name(&all, name), found.map(|found| &all[found]), "{name}");
        }
    }
}
