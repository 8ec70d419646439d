//! Rules and dashboard: well formed, tested, and about metrics that exist.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::scrape::{busy_gateway, families, family_of};
use crate::support::{Gateway, http, ports};
use crate::{repository, text_of};

const RULES: [&str; 2] = ["config/prometheus/recording.yml", "config/prometheus/alerts.yml"];

const DASHBOARD: &str = "config/grafana/portcullis.json";

#[track_caller]
fn promtool(args: &[&str], files: &[&Path]) -> String {
    let output = Command::new("promtool")
        .args(args)
        .args(files)
        .output()
        .expect("promtool (Debian: prometheus) is needed");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// The expressions of a rules file: of `expr: x` and of `expr: |` with its lines.
fn rule_expressions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim().strip_prefix("expr: ") else {
            continue;
        };
        if rest != "|" {
            found.push(rest.to_owned());
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let mut whole = String::new();
        while let Some(next) = lines.next_if(|next| next.len() - next.trim_start().len() > indent) {
            whole.push_str(next.trim());
            whole.push(' ');
        }
        found.push(whole);
    }
    found
}

/// Every value of a key `expr` anywhere in the dashboard.
fn dashboard_expressions() -> Vec<String> {
    fn walk(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                if let Some(expr) = object.get("expr") {
                    found.push(expr.as_str().unwrap().to_owned());
                }
                object.values().for_each(|value| walk(value, found));
            }
            serde_json::Value::Array(array) => array.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&serde_json::from_str(&text_of(DASHBOARD)).unwrap(), &mut found);
    found
}

/// A dashboard's expression as Grafana would send it.
fn sent(expr: &str) -> String {
    expr.replace("$__rate_interval", "5m")
        .replace("\"$job\"", "\"portcullis\"")
        .replace("\"$instance\"", "\".*\"")
}

/// The metrics that an expression names; recorded series and labels are none.
fn metrics_in(expr: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut word = String::new();
    let mut before = ' ';
    for c in expr.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || c == '_' || c == ':' {
            word.push(c);
            continue;
        }
        let quoted = before == '"';
        if !quoted && (word.starts_with("portcullis_") || word.starts_with("process_")) {
            found.insert(word.clone());
        }
        word.clear();
        before = c;
    }
    found
}

#[test]
fn rules_are_well_formed_and_their_tests_pass() {
    let files = RULES.map(repository);
    promtool(&["check", "rules"], &[&files[0], &files[1]]);
    promtool(
        &["test", "rules"],
        &[&repository("config/prometheus/alerts_test.yml")],
    );
}

#[test]
fn every_alert_is_tested_both_ways_and_explained() {
    let tests = text_of("config/prometheus/alerts_test.yml");
    let pages = text_of("docs/troubleshooting.md");
    let alerts = text_of(RULES[1]);
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(
            tests.contains(&format!("alertname: {name} }}")),
            "{name} is not tested silent"
        );
        assert!(
            tests.contains(&format!("{{alertname=\"{name}\"}}")),
            "{name} is not tested firing"
        );
        assert!(pages.contains(name), "{name} is not in docs/troubleshooting.md");
    }
}

#[test]
fn the_dashboard_names_no_data_source_of_ours() {
    let dashboard: serde_json::Value = serde_json::from_str(&text_of(DASHBOARD)).unwrap();
    assert_eq!(dashboard["uid"], "portcullis");
    let mut panels = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            panels += 1;
        }
    }
    assert!(panels > 30, "{panels}");
}

/// A Prometheus that scrapes the gateway and has loaded the rules.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
    _port: ports::Port,
}

impl Prometheus {
    fn watching(gateway: &Gateway) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 500ms, evaluation_interval: 1s }}\nrule_files: [{:?}, {:?}]\n\
             scrape_configs: [{{ job_name: portcullis, static_configs: [{{ targets: ['{}'] }}] }}]\n",
            repository(RULES[0]),
            repository(RULES[1]),
            gateway.metrics_addr()
        );
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        promtool(&["check", "config"], &[&file]);
        let port = ports::reserve();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is needed");
        Self {
            child,
            address,
            _directory: directory,
            _port: port,
        }
    }

    /// The result of an instant query, or what is wrong with it; none while it does not answer.
    fn query(&self, expr: &str) -> Option<Result<Vec<serde_json::Value>, String>> {
        let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (_, body) = http::get(self.address, &format!("/api/v1/query?query={encoded}")).ok()?;
        let answer: serde_json::Value = serde_json::from_str(&body).ok()?;
        Some(match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"].as_array().unwrap().clone()),
            _ => Err(answer["error"].to_string()),
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_expression_is_answered_from_a_live_scrape() {
    let gateway = busy_gateway();
    let families = families(&gateway.metrics());
    let rules = RULES.iter().flat_map(|file| rule_expressions(&text_of(file)));
    let panels = dashboard_expressions();
    assert!(panels.len() > 40, "{}", panels.len());
    let panels: Vec<String> = panels.iter().map(|expr| sent(expr)).collect();
    let unknown: Vec<_> = rules
        .chain(panels.iter().cloned())
        .flat_map(|expr| {
            metrics_in(&expr)
                .into_iter()
                .map(move |name| (name, expr.clone()))
        })
        .filter(|(name, _)| !families.contains_key(&family_of(&families, name)))
        .collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:#?}");

    let prometheus = Prometheus::watching(&gateway);
    let end = Instant::now() + Duration::from_secs(20);
    // Two scrapes make a rate.
    let seen = "count_over_time(up{job=\"portcullis\"}[1m]) >= 3 and up == 1";
    while !matches!(prometheus.query(seen), Some(Ok(samples)) if !samples.is_empty()) {
        assert!(Instant::now() < end, "prometheus does not see the gateway");
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut empty = Vec::new();
    for expr in &panels {
        match prometheus.query(expr).expect("prometheus answers") {
            Err(error) => panic!("{expr}: {error}"),
            // What is filtered to unusual values may show nothing.
            Ok(samples) if samples.is_empty() && !expr.contains(" > 0") => empty.push(expr),
            Ok(_) => {}
        }
    }
    assert!(empty.is_empty(), "panels without data: {empty:#?}");
}

#[test]
fn names_are_found_in_expressions() {
    let found =
        metrics_in("sum(rate(portcullis_a_total{job=\"portcullis_b\"}[5m])) / process_c > portcullis_d");
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        ["portcullis_a_total", "portcullis_d", "process_c"]
    );
    assert_eq!(
        rule_expressions("- alert: x\n  expr: a\n- alert: y\n  expr: |\n    b\n    + c\n  for: d\n"),
        ["a", "b + c "]
    );
}
