//! The numbers of `/metrics` as JSON, for the dashboard and `portcullis top`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;

/// All numbers at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    /// When, in seconds since 1970.
    pub time: f64,
    /// Samples by the name that Prometheus gives them, `_bucket`, `_sum` and `_count` included.
    pub samples: BTreeMap<String, Vec<Sample>>,
}

/// The value of a family for one set of labels.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// Names and values of its labels; empty where the family has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A finite number, in the unit that the family's name ends with.
    pub value: f64,
}

impl Metrics {
    /// Reads the text format of Prometheus. What is no finite number is left out.
    #[must_use]
    pub fn parse(text: &str, time: f64) -> Self {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = parse_line(line) {
                samples.entry(name.to_owned()).or_default().push(sample);
            }
        }
        Self { time, samples }
    }

    /// The sum of all samples of this name whose labels fit.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            labels
                .iter()
                .all(|(name, value)| sample.labels.get(*name).is_some_and(|own| own == value))
        };
        let samples = self.samples.get(name).map_or(&[][..], Vec::as_slice);
        samples.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// As [`Self::sum`], rounded to a whole number that is not negative.
    #[must_use]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, which is meant"
        )]
        let count = sum.round() as u64;
        count
    }
}

fn parse_line(line: &str) -> Option<(&str, Sample)> {
    let (name, labels, rest) = match line.find(['{', ' '])? {
        at if line.get(at..)?.starts_with('{') => {
            let (labels, rest) = parse_labels(line.get(at + 1..)?)?;
            (line.get(..at)?, labels, rest)
        }
        at => (line.get(..at)?, BTreeMap::new(), line.get(at..)?),
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((name, Sample { labels, value }))
}

/// The labels up to `}`, and what follows.
fn parse_labels(text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        loop {
            match chars.next()? {
                (at, '"') => {
                    rest = after.get(at + 1..)?;
                    break;
                }
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        }
        labels.insert(name.to_owned(), value);
    }
}

/// All numbers now
#[utoipa::path(get, path = "/api/v1/metrics", tag = "status", responses((status = 200, body = Metrics)))]
pub(super) async fn get_metrics(State(api): State<Arc<Api>>) -> Json<Metrics> {
    Json(now(&api))
}

/// What a scrape would show now.
pub(super) fn now(api: &Api) -> Metrics {
    let wall = api.site.now().wall;
    let time = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Metrics::parse(&api.site.metrics_text(), time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_and_without_labels_are_read() {
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{listener=\"x\",reason=\"a b\"} 3\n\
                    a_total{listener=\"y\"} 4.5\nb 1e3\nc_bucket{le=\"+Inf\"} 7\nnan NaN\n\n";
        let metrics = Metrics::parse(text, 1.0);
        assert!((metrics.sum("a_total", &[]) - 7.5).abs() < 1e-9);
        assert_eq!(metrics.count("a_total", &[("listener", "x")]), 3);
        assert_eq!(metrics.count("b", &[]), 1000);
        assert_eq!(metrics.count("c_bucket", &[("le", "+Inf")]), 7);
        assert!(!metrics.samples.contains_key("nan"));
        assert_eq!(metrics.count("nothing", &[]), 0);
    }

    #[test]
    fn escaped_label_values_are_unescaped() {
        let metrics = Metrics::parse(r#"a{l="x\"y\\z\nw}",m="{"} 1"#, 0.0);
        let sample = &metrics.samples["a"][0];
        assert_eq!(sample.labels["l"], "x\"y\\z\nw}");
        assert_eq!(sample.labels["m"], "{");
    }

    #[test]
    fn broken_lines_are_left_out() {
        for line in ["a", "a{", "a{b", "a{b=\"c", "a{b=\"c\"}", "a x", "{} "] {
            assert!(Metrics::parse(line, 0.0).samples.is_empty(), "{line}");
        }
    }
}
