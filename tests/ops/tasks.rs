//! The tasks of `docs/tasks.md`, done one after the other as the page says.

use std::process::Command;

use crate::pages::blocks;
use crate::{repository, text_of};

#[test]
fn the_ten_tasks_are_done_as_the_page_says() {
    let page = text_of("docs/tasks.md");
    let work = tempfile::tempdir().unwrap();
    let mut tasks = 0;
    for section in page.split("\n## ").skip(1) {
        let (number, _) = section.split_once(". ").expect("a number before each title");
        tasks += 1;
        assert_eq!(number, tasks.to_string());
        let commands = blocks(section)
            .into_iter()
            .filter(|block| block.info == "sh task");
        for (n, block) in commands.enumerate() {
            std::fs::write(work.path().join(format!("{number}-{}.sh", n + 1)), block.text).unwrap();
        }
        assert!(
            work.path().join(format!("{number}-1.sh")).exists(),
            "no commands in {number}"
        );
    }
    let output = Command::new("bash")
        .arg(repository("tests/ops/tasks.sh"))
        .arg(env!("CARGO_BIN_EXE_portcullis"))
        .arg(work.path())
        .arg(repository("config/portcullis.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    // The one of a full disk wants a file system of its own, which not everyone may mount.
    let left_out = said.matches("NOT RUN: task").count();
    assert!(left_out <= 1, "{said}");
    assert!(
        said.contains(&format!("{} tasks done", tasks - left_out)),
        "{said}"
    );
    assert_eq!(tasks, 10);
}
