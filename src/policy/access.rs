//! `access_rules` of a listener: which source addresses it listens to, asked for every datagram.

use std::fmt;
use std::net::IpAddr;

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError {
    /// Its place in the list, from 0.
    pub index: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}: {}", self.index + 1, self.message)
    }
}

impl std::error::Error for AccessError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    All,
    V4 { net: u32, mask: u32 },
    V6 { net: u128, mask: u128 },
}

impl Range {
    fn contains(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::All, _) => true,
            (Self::V4 { net, mask }, IpAddr::V4(ip)) => ip.to_bits() & mask == net,
            (Self::V6 { net, mask }, IpAddr::V6(ip)) => ip.to_bits() & mask == net,
            _ => false,
        }
    }
}

/// The rules of one listener; the first that contains the address decides, and none means allow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRules {
    rules: Box<[(bool, Range)]>,
}

impl AccessRules {
    /// Reads rules of the form `allow|deny all|ADDRESS|ADDRESS/PREFIX`.
    ///
    /// # Errors
    /// Every rule that is wrong.
    pub fn parse<S: AsRef<str>>(rules: &[S]) -> Result<Self, Vec<AccessError>> {
        let mut parsed = Vec::with_capacity(rules.len());
        let mut errors = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            match parse_rule(rule.as_ref()) {
                Ok(rule) => parsed.push(rule),
                Err(message) => errors.push(AccessError { index, message }),
            }
        }
        if errors.is_empty() {
            Ok(Self { rules: parsed.into() })
        } else {
            Err(errors)
        }
    }

    /// Whether datagrams from `ip` are listened to. An IPv4-mapped address is judged as the IPv4 address.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        if self.rules.is_empty() {
            return true;
        }
        let ip = ip.to_canonical();
        self.rules
            .iter()
            .find(|(_, range)| range.contains(ip))
            .is_none_or(|(allow, _)| *allow)
    }
}

fn parse_rule(rule: &str) -> Result<(bool, Range), String> {
    let form =
        || format!("{rule:?} is not of the form \"allow ADDRESS\", \"deny ADDRESS/PREFIX\" or \"deny all\"");
    let mut words = rule.split_whitespace();
    let (Some(verb), Some(whom), None) = (words.next(), words.next(), words.next()) else {
        return Err(form());
    };
    let allow = match verb {
        "allow" => true,
        "deny" => false,
        _ => return Err(form()),
    };
    if whom == "all" {
        return Ok((allow, Range::All));
    }
    let (address, prefix) = whom
        .split_once('/')
        .map_or((whom, None), |(ip, prefix)| (ip, Some(prefix)));
    let ip: IpAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is no IP address"))?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => longest,
        Some(text) => text
            .parse::<u32>()
            .ok()
            .filter(|prefix| *prefix <= longest)
            .ok_or_else(|| format!("prefix {text:?} is not 0 to {longest}"))?,
    };
    Ok((allow, range(ip, prefix)))
}

fn range(ip: IpAddr, prefix: u32) -> Range {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            Range::V4 {
                net: ip.to_bits() & mask,
                mask,
            }
        }
        IpAddr::V6(ip) => match (ip.to_ipv4_mapped(), prefix.checked_sub(96)) {
            (Some(mapped), Some(prefix)) => range(mapped.into(), prefix),
            _ => {
                let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                Range::V6 {
                    net: ip.to_bits() & mask,
                    mask,
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rules: &[&str], ip: &str) -> bool {
        AccessRules::parse(rules).unwrap().allows(ip.parse().unwrap())
    }

    #[test]
    fn the_first_rule_that_contains_the_address_decides_and_none_means_allow() {
        let rules = ["deny 192.0.2.7", "allow 192.0.2.0/24", "deny all"];
        assert!(allows(&rules, "192.0.2.8"));
        assert!(!allows(&rules, "192.0.2.7"));
        assert!(!allows(&rules, "192.0.3.8"));
        assert!(!allows(&rules, "2001:db8::1"));
        assert!(allows(&["deny 10.0.0.0/8"], "192.0.2.1"));
        assert!(allows(&[], "192.0.2.1"));
    }

    #[test]
    fn mapped_addresses_and_mapped_rules_are_ipv4() {
        assert!(!allows(&["deny 192.0.2.0/24"], "::ffff:192.0.2.9"));
        assert!(!allows(&["deny ::ffff:192.0.2.0/120"], "192.0.2.9"));
        assert!(allows(&["deny ::ffff:192.0.2.0/120"], "192.0.3.9"));
    }

    #[test]
    fn prefixes_work_at_their_ends() {
        assert!(!allows(&["deny 0.0.0.0/0"], "203.0.113.1"));
        assert!(allows(&["deny 0.0.0.0/0"], "2001:db8::1"));
        assert!(!allows(&["deny ::/0"], "2001:db8::1"));
        assert!(!allows(&["deny 2001:db8:1::5/64"], "2001:db8:1::9"));
        assert!(allows(&["deny 2001:db8:1::/64"], "2001:db8:1:1::9"));
        assert!(!allows(&["deny 192.0.2.1/32"], "192.0.2.1"));
        assert!(allows(&["deny 192.0.2.1/32"], "192.0.2.2"));
    }

    #[test]
    fn all_errors_come_at_once() {
        let rules = [
            "allow",
            "permit all",
            "allow 300.0.0.1",
            "deny 10.0.0.0/33",
            "deny all",
            "allow a b c",
            "deny ::/-1",
        ];
        let errors = AccessRules::parse(&rules).unwrap_err();
        assert_eq!(
            errors.iter().map(|e| e.index).collect::<Vec<_>>(),
            [0, 1, 2, 3, 5, 6]
        );
        assert!(errors[3].to_string().contains("0 to 32"), "{}", errors[3]);
    }
}
