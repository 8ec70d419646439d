//! The store on disk over restarts, damage, and what stands in its place.

use redb::Database;

use super::*;
use crate::record;
use crate::retained::database::TABLE;
use crate::testing::{clock, message};

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::encode(message, None, clock().moment(), &mut bytes);
    bytes
}

fn filled(directory: &Path, count: usize) {
    let Opened {
        mut disk, reports, ..
    } = Disk::open(directory, clock().moment()).unwrap();
    for index in 0..count {
        let message = message(&format!("t/{index}"), "payload");
        disk.write(&message.topic, Some(encoded(&message))).unwrap();
    }
    let reports = disk.close(Some(reports));
    assert!(matches!(reports.last(), Some(Durable::Upto(last)) if *last as usize == count - 1));
}

#[test]
fn what_is_reported_durable_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 100);
    let mut opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert_eq!(opened.messages.len(), 100);
    opened.disk.write(&opened.messages[0].topic, None).unwrap();
    opened.disk.close(Some(opened.reports));
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert_eq!(opened.messages.len(), 99);
}

/// CVE-2017-9868.
#[test]
fn what_is_retained_on_disk_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("retained");
    filled(&directory, 3);
    let files = std::fs::read_dir(&directory).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert!(!paths.is_empty());
    paths.push(directory);
    for path in paths {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn a_topic_that_mqtt_does_not_carry_is_left_out_and_does_not_stop_the_start() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3);
    let database = Database::create(directory.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    let value = encoded(&message("t/0", "payload"));
    transaction
        .open_table(TABLE)
        .unwrap()
        .insert("bad\u{1}", value.as_slice())
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert_eq!(opened.messages.len(), 3);
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _opened = Disk::open(directory.path(), clock().moment()).unwrap();
    let error = Disk::open(directory.path(), clock().moment()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    assert!(error.to_string().contains("retained.redb"), "{error}");
}

#[test]
fn what_a_kill_left_of_a_store_that_was_being_made_is_made_anew() {
    let finished = tempfile::tempdir().unwrap();
    filled(finished.path(), 1);
    let whole = std::fs::read(finished.path().join(FILE)).unwrap();
    for length in [0, 100, 4096, whole.len()] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        // redb writes its magic number last.
        let mut half = whole[..length].to_vec();
        half.iter_mut().take(64).for_each(|byte| *byte = 0);
        std::fs::write(path.with_extension("new"), half).unwrap();
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(opened.messages.len(), 0);
        assert!(path.exists() && !path.with_extension("new").exists());
    }
}

#[test]
fn a_file_that_is_no_store_is_set_aside_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let rubbish = b"not a database at all".repeat(1000);
    std::fs::write(directory.path().join(FILE), &rubbish).unwrap();
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert!(opened.damage.unwrap().contains("retained.redb.damaged"));
    assert_eq!(std::fs::read(directory.path().join(DAMAGED)).unwrap(), rubbish);
    opened.disk.close(Some(opened.reports));
    filled(directory.path(), 3);
}

#[test]
fn a_directory_in_the_place_of_the_store_or_its_reserve_refuses_no_retained_message() {
    let directory = tempfile::tempdir().unwrap();
    for name in [FILE, RESERVE, "retained.new"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
    }
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert!(opened.damage.unwrap().contains("retained.redb.aside"));
    opened.disk.close(Some(opened.reports));
    filled(directory.path(), 3);
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert_eq!((opened.messages.len(), opened.damage), (3, None));
}

#[test]
fn a_link_to_a_disk_that_is_mounted_late_is_neither_set_aside_nor_replaced() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mounted = disk.path().join("mounted");
    let link = directory.path().join(FILE);
    std::os::unix::fs::symlink(mounted.join(FILE), &link).unwrap();
    let error = Disk::open(directory.path(), clock().moment()).unwrap_err();
    assert_eq!(error.fault(), StartFault::System);
    assert!(link.is_symlink() && error.to_string().contains("is its disk mounted?"));
    filled(&mounted, 3);
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert_eq!((opened.messages.len(), opened.damage), (3, None));
    opened.disk.close(Some(opened.reports));
    assert!(link.is_symlink());
}

#[test]
fn one_damaged_record_costs_itself() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3);
    let database = open_file(open_or_create(&directory.path().join(FILE)).unwrap()).unwrap();
    let topic = TopicName::new("t/1").unwrap();
    commit(&database, [(topic, Some(b"no record".to_vec()))].into_iter()).unwrap();
    drop(database);
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    assert_eq!(opened.messages.len(), 2);
    assert!(opened.damage.unwrap().contains("1 retained message"));
}

#[test]
fn the_reserve_is_given_up_and_taken_again() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 5);
    let path = directory.path().join(FILE);
    let reserve = directory.path().join(RESERVE);
    let (database, ..) = open_whole(&path, clock().moment()).unwrap();
    let mut writer = Writer::new(database, path, reserve.clone());
    assert!(writer.held.is_none() && reserve.exists());
    // As after the error of a full disk.
    writer.held = Some(HashMap::new());
    std::fs::remove_file(&reserve).unwrap();
    writer.reopen().unwrap();
    let record = encoded(&message("new", "x"));
    let batch = HashMap::from([
        (TopicName::new("new").unwrap(), Some(record)),
        (TopicName::new("t/0").unwrap(), None),
    ]);
    assert!(matches!(writer.write_full(batch), Ok(Durable::Full(_))));
    std::fs::create_dir(&reserve).unwrap();
    assert!(matches!(writer.try_again(), Ok(None)), "still no room");
    std::fs::remove_dir(&reserve).unwrap();
    assert!(matches!(writer.try_again(), Ok(Some(Durable::Renewed))));
    drop(writer);
    let opened = Disk::open(directory.path(), clock().moment()).unwrap();
    let mut topics: Vec<&str> = opened
        .messages
        .iter()
        .map(|message| message.topic.as_str())
        .collect();
    topics.sort_unstable();
    assert_eq!(topics, ["new", "t/1", "t/2", "t/3", "t/4"]);
}

#[test]
fn damage_never_stops_the_start_nor_changes_a_message() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let original = tempfile::tempdir().unwrap();
    filled(original.path(), 200);
    let good = std::fs::read(original.path().join(FILE)).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..60 {
        let mut bytes = good.clone();
        if round % 3 == 0 {
            bytes.truncate(rng.random_range(0..bytes.len()));
        } else {
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), &bytes).unwrap();
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert!(
            opened.messages.len() == 200 || opened.damage.is_some(),
            "round {round}"
        );
        assert!(
            opened.messages.iter().all(|message| message.payload == "payload"),
            "round {round}"
        );
    }
}
