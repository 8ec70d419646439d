//! A gateway in which every family of metrics has something to show, and what its scrape says.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::certs::revocation_list;
use crate::support::pki::Pki;
use crate::support::stream::Stream;
use crate::support::{Config, Gateway, Kind, Request};

/// One family of a scrape.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub labels: BTreeSet<String>,
}

/// A gateway with all that has metrics: certificates, a revocation list, logins, both transports used.
pub fn busy_gateway() -> Gateway {
    let pki = Pki::new();
    let config = pki
        .install(Config::new())
        .dtls("crl_file = \"crl.pem\"\nverify = \"optional\"\nauthentication = false")
        .udp("authentication = false")
        .tcp("authentication = false")
        .tls("authentication = false")
        .set("authentication", "backend = \"file\"")
        .file("users.txt", "");
    let mut gateway = Gateway::prepare(&config);
    let list = revocation_list(&pki.ca, &[]).to_pem().unwrap();
    gateway.write("crl.pem", &list);
    gateway.launch();
    gateway.assert_serves();
    let mut stream = Stream::tcp(gateway.udp_addr());
    assert_eq!(
        stream.request(&Request::put("ps/scrape").payload("1")).status(),
        "2.04"
    );
    let mut client = gateway.client(Kind::Udp);
    let answer = client.request(&Request::post("mqtt/connection?clientid=scrape"));
    assert_eq!(answer.status(), "2.01");
    gateway
}

/// The families of a scrape by name.
pub fn families(scrape: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    for line in scrape.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, rest)) = line.split_once('{') {
            let (labels, _) = rest.rsplit_once('}').unwrap();
            let family = family_of(&families, name);
            let family = families.get_mut(&family).expect("samples follow their TYPE");
            for label in labels.split(',').filter_map(|pair| pair.split_once('=')) {
                if label.0 != "le" {
                    family.labels.insert(label.0.to_owned());
                }
            }
        }
    }
    families
}

/// The family that a sample belongs to: a histogram has samples of three names.
pub fn family_of(families: &BTreeMap<String, Family>, sample: &str) -> String {
    let histogram = ["_bucket", "_sum", "_count"]
        .iter()
        .filter_map(|suffix| sample.strip_suffix(suffix))
        .find(|name| {
            families
                .get(*name)
                .is_some_and(|family| family.kind == "histogram")
        });
    histogram.unwrap_or(sample).to_owned()
}
