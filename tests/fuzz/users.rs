//! The users file: no input panics, every error names a place that is there, and no error quotes a hash.

use portcullis::auth::users;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match users::parse(text) {
        Ok(users) => {
            for (name, hash) in users {
                assert!(users::check_name(&name).is_ok());
                let _cost = (hash.memory_kib(), hash.scheme(), hash.weakness());
            }
        }
        Err(errors) => errors.iter().for_each(|error| crate::place::check(text, error)),
    }
}
