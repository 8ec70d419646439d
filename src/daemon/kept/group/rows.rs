//! A record as it stands where all nodes see it: sealed, under a name within what has its mark.

use std::time::Duration;

use crate::dtls;
use crate::gateway::kept::{Role, role_of, session_of};
use crate::group::sessions::Lead;
use crate::state::{Contents, HOT_WORDS, Kind, LAYOUT, MARK, ReadBytes, WriteBytes};

use super::super::seal::{Opener, Sealer};

/// What names a row.
pub(super) type RowName = Vec<u8>;

/// The row of a session or a connection itself: there is one of each mark, whoever wrote it.
pub(super) const ROOT: &[u8] = b"root";

/// How rows are laid out.
const ROWS: u64 = LAYOUT ^ 1 << 33;

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) mark: u64,
    pub(super) name: RowName,
    /// What leads there, where it is what others belong to; none where it belongs.
    pub(super) lead: Option<Lead>,
    pub(super) is_root: bool,
}

impl Place {
    /// Where a record of a store goes that another node may go on with; none where none may.
    pub(super) fn of(contents: &Contents, store: u64, index: u32) -> Option<Self> {
        let mark = *contents.hot.get(MARK)?;
        if dtls::place_of(contents).is_some() {
            let cid = dtls::cid_of(contents).filter(|_| dtls::may_change_nodes(contents))?;
            return Some(Self {
                mark,
                name: ROOT.to_vec(),
                lead: Some(Lead::Cid(cid)),
                is_root: true,
            });
        }
        let is_root = role_of(contents)? == Role::Connection;
        let name = match is_root {
            true => ROOT.to_vec(),
            false => [&[contents.kind.0][..], &store.to_be_bytes(), &index.to_be_bytes()].concat(),
        };
        Some(Self {
            mark,
            name,
            lead: session_of(contents).map(Lead::Session),
            is_root,
        })
    }
}

/// A record as it was written.
pub(super) struct Row {
    /// How often its bundle had been taken over by then.
    pub(super) takes: u64,
    /// When the times in it begin to count, since 1970.
    pub(super) began: Duration,
    pub(super) contents: Contents,
}

fn about(mark: u64, name: &[u8]) -> Vec<u8> {
    [&ROWS.to_be_bytes()[..], &mark.to_be_bytes(), name].concat()
}

impl Row {
    /// As it stands there.
    pub(super) fn seal(
        &self,
        sealer: &mut Sealer,
        mark: u64,
        name: &[u8],
    ) -> Result<Vec<u8>, openssl::error::ErrorStack> {
        let mut out = WriteBytes::default();
        out.u8(self.contents.kind.0)
            .u64(self.takes)
            .u64(u64::try_from(self.began.as_millis()).unwrap_or(u64::MAX));
        for word in self.contents.hot {
            out.u64(word);
        }
        out.raw(&self.contents.body);
        sealer.seal(&about(mark, name), out.as_slice())
    }

    /// What stands there under a name, where it was written with this key and for this place.
    pub(super) fn open(opener: &mut Opener<'_>, mark: u64, name: &[u8], sealed: &[u8]) -> Option<Self> {
        let opened = opener.open(&about(mark, name), sealed)?;
        let mut bytes = ReadBytes(&opened);
        let kind = Kind(bytes.u8()?);
        let (takes, began) = (bytes.u64()?, Duration::from_millis(bytes.u64()?));
        let mut hot = [0; HOT_WORDS];
        for word in &mut hot {
            *word = bytes.u64()?;
        }
        Some(Self {
            takes,
            began,
            contents: Contents {
                kind,
                hot,
                body: bytes.0.to_vec().into(),
            },
        })
    }
}
