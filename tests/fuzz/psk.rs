//! The PSK file: no input panics, every error names a place that is there and quotes nothing, and what is read is found again, by
//! the gateway and by the command that edits the file.

use portcullis::config::psk_file;
use portcullis::dtls::PskStore;

pub(crate) fn run(data: &[u8]) {
    let edited = psk_file::parse(data);
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(edited.is_err());
        return;
    };
    match PskStore::parse(text) {
        Ok(store) => {
            for name in store.identities() {
                assert!(store.named(name).is_some(), "{name}");
            }
            assert!(edited.is_ok());
        }
        Err(errors) => errors.iter().for_each(|error| crate::place::check(text, error)),
    }
}
