//! The users file: no input panics, every error names a line that is there, and no error quotes a hash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::auth::users;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match users::parse(text) {
        Ok(users) => {
            for (name, hash) in users {
                assert!(users::check_name(&name).is_ok());
                let _cost = (hash.memory_kib(), hash.scheme(), hash.weakness());
            }
        }
        Err(errors) => {
            for (line, message) in errors {
                let quoted = text.lines().nth(line - 1).unwrap();
                let hash = quoted.split_once(':').map_or("", |(_, hash)| hash.trim());
                // Words with blanks between them may be the message's own; no hash and hardly a password is like that.
                let secret = hash.len() >= 24 && !hash.contains(char::is_whitespace) && !hash.contains("..");
                assert!(!secret || !message.contains(hash), "{message}");
            }
        }
    }
});
