//! The configuration file, without those that it names: no input panics, and each problem is at a place that is there.

use std::path::Path;

use portcullis::config::{PathBase, parse};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let file = Path::new("/nowhere/portcullis.toml");
    let base = PathBase {
        directory: "/nowhere".into(),
        credentials: None,
    };
    if let Err(problems) = parse(text, file, &base) {
        assert!(!problems.0.is_empty());
        for problem in &problems.0 {
            let Some(place) = &problem.place else { continue };
            let lines = text.split('\n').count();
            assert!((1..=lines + 1).contains(&place.line), "{problem}");
        }
    }
}
