//! Which sources a listener talks to: allow and deny rules by address range, the first match decides.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// One rule of a listener's `access_rules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRule {
    /// Whether sources that match are served.
    pub allow: bool,
    /// The range it is about; `None` is every source.
    pub range: Option<IpNet>,
}

impl AccessRule {
    /// Reads `allow 192.0.2.0/24`, `deny 2001:db8::1` or `deny all`.
    ///
    /// # Errors
    /// What is wrong with `text`, to be shown to its author.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (Some(verb), Some(range), None) = (words.next(), words.next(), words.next()) else {
            return Err(
                "expected `allow` or `deny` and an address range, such as \"allow 192.0.2.0/24\" or \"deny all\""
                    .to_owned(),
            );
        };
        let allow = match verb {
            "allow" => true,
            "deny" => false,
            _ => return Err("expected `allow` or `deny` first".to_owned()),
        };
        if range == "all" {
            return Ok(Self { allow, range: None });
        }
        let net = range
            .parse::<IpNet>()
            .or_else(|_| range.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| "expected an address, a range such as 192.0.2.0/24, or `all`".to_owned())?;
        Ok(Self {
            allow,
            range: Some(canonical(net)),
        })
    }

    fn matches(&self, ip: IpAddr) -> bool {
        self.range.is_none_or(|net| net.contains(&ip))
    }
}

/// Reads an address or a network, in the form that sources are compared in.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()?;
    let net = canonical(net);
    // What is wider than the mapped addresses is of no source: those are written as IPv4.
    let is_mapped = net.addr().is_ipv6() && net.addr().to_canonical().is_ipv4();
    (!is_mapped).then_some(net.trunc())
}

/// An IPv4-mapped IPv6 range as the IPv4 range that it is, because peers' addresses are canonical too.
fn canonical(net: IpNet) -> IpNet {
    match net.addr().to_canonical() {
        IpAddr::V4(v4) if net.addr().is_ipv6() && net.prefix_len() >= 96 => {
            IpNet::new(IpAddr::V4(v4), net.prefix_len() - 96).unwrap_or(net)
        }
        _ => net,
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.allow { "allow" } else { "deny" };
        match self.range {
            Some(net) => write!(f, "{verb} {net}"),
            None => write!(f, "{verb} all"),
        }
    }
}

/// The rules of one listener in order. A source that no rule matches is served, as with the rules of EMQX's listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRules(Arc<[AccessRule]>);

impl AccessRules {
    /// Most rules of one listener: each datagram is held against them in order.
    pub const MAX: usize = 1024;

    /// The rules in the order they are tried.
    #[must_use]
    pub fn new(rules: Vec<AccessRule>) -> Self {
        Self(rules.into())
    }

    /// Whether a source is served. `ip` is canonical: not an IPv4-mapped IPv6 address.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.0
            .iter()
            .find(|rule| rule.matches(ip))
            .is_none_or(|rule| rule.allow)
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules in order.
    pub fn iter(&self) -> impl Iterator<Item = &AccessRule> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> AccessRules {
        AccessRules::new(
            texts
                .iter()
                .map(|text| AccessRule::parse(text).unwrap())
                .collect(),
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = rules(&[
            "deny 192.0.2.7",
            "allow 192.0.2.0/24",
            "allow 2001:db8::/32",
            "deny all",
        ]);
        assert!(!rules.allows(ip("192.0.2.7")));
        assert!(rules.allows(ip("192.0.2.8")));
        assert!(rules.allows(ip("2001:db8:1::1")));
        assert!(!rules.allows(ip("198.51.100.1")));
        assert!(!rules.allows(ip("::1")));
    }

    #[test]
    fn a_source_that_no_rule_matches_is_served() {
        assert!(AccessRules::default().allows(ip("192.0.2.1")));
        assert!(rules(&["deny 192.0.2.1"]).allows(ip("192.0.2.2")));
    }

    #[test]
    fn a_mapped_range_matches_ipv4_peers() {
        assert!(!rules(&["deny ::ffff:192.0.2.0/120"]).allows(ip("192.0.2.9")));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "allow",
            "permit all",
            "allow 192.0.2.0/33",
            "allow host",
            "deny all now",
        ] {
            assert!(AccessRule::parse(text).is_err(), "{text}");
        }
    }
}
