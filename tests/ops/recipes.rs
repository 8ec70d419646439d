//! The recipes of `docs/recipes.md` that can be run here.

use std::process::Command;

use crate::pages::blocks;
use crate::{repository, text_of};

#[test]
fn the_bridge_of_the_page_carries_messages_both_ways() {
    let work = tempfile::tempdir().unwrap();
    let blocks = blocks(&text_of("docs/recipes.md"));
    let mut run = Command::new("bash");
    run.arg(repository("tests/ops/recipes.sh"))
        .arg(env!("CARGO_BIN_EXE_portcullis"));
    for info in ["text mosquitto", "toml bridge"] {
        let block = blocks.iter().find(|block| block.info == info).expect(info);
        let file = work.path().join(info);
        std::fs::write(&file, &block.text).unwrap();
        run.arg(file);
    }
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("both ways"), "{said}");
}
