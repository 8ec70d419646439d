//! Block-wise transfer (RFC 7959). State is kept by peer and resource, never by token: a client may use a new token for each block.

mod block;
mod download;
mod transfers;
mod upload;

pub(crate) use block::{BERT, Block};
pub(crate) use download::{Body, etag_of, part};
pub(crate) use transfers::{Key, Transfers};
pub(crate) use upload::{Assembled, Piece};
