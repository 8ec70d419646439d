//! Bodies that come in by Block1 (RFC 7959, 2.5 and 2.9).

use std::time::Instant;

use bytes::Bytes;

use crate::coap::contract::Code;
use crate::coap::metrics::TransferResult;
use crate::types::reason::Limit;
use crate::types::standing::Standing;

use super::block::Block;
use super::transfers::{Key, Transfers};

/// A body in the making.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(super) bytes: Vec<u8>,
    content_format: Option<u16>,
}

/// One block as it came in.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) block: Block,
    pub(crate) payload: &'a [u8],
    /// The length of the whole body, if the client announced it (RFC 7959, 4).
    pub(crate) size1: Option<u32>,
    pub(crate) content_format: Option<u16>,
    /// Bytes that a body may have.
    pub(crate) max_body: usize,
    /// What is known of its sender.
    pub(crate) standing: Standing,
}

/// What became of a block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assembled {
    /// It was the last one: the body.
    Whole(Bytes),
    /// More must follow: 2.31.
    Continue,
    /// It does not fit.
    Refused(Code, &'static str),
}

impl Transfers {
    /// Takes one block of an upload.
    pub(crate) fn assemble(&mut self, now: Instant, key: Key, piece: Piece<'_>) -> Assembled {
        let assembled = self.take_piece(now, &key, piece);
        match &assembled {
            Assembled::Whole(_) => self.metrics.transfers.inc(TransferResult::UploadDone),
            Assembled::Continue => {}
            Assembled::Refused(code, _) => {
                self.remove(&key);
                self.metrics.transfers.inc(TransferResult::UploadFailed);
                if *code == Code::REQUEST_ENTITY_TOO_LARGE {
                    self.metrics.limits.inc(Limit::BodySize);
                }
            }
        }
        assembled
    }

    fn take_piece(&mut self, now: Instant, key: &Key, piece: Piece<'_>) -> Assembled {
        let Piece { block, payload, .. } = piece;
        let offset = block.offset();
        if !block.fits(payload.len()) {
            return Assembled::Refused(Code::BAD_REQUEST, "payload does not have the length of its block");
        }
        let max = piece.max_body.min(self.longest_body(piece.standing));
        let announced = piece.size1.map_or(0, |size1| size1 as usize);
        if announced > max || offset + payload.len() > max {
            return Assembled::Refused(Code::REQUEST_ENTITY_TOO_LARGE, "body is too large");
        }
        if block.num == 0 {
            return self.begin(now, key, &piece);
        }
        let Some(upload) = self.upload(key) else {
            return Assembled::Refused(Code::REQUEST_ENTITY_INCOMPLETE, "no block came before this one");
        };
        if upload.content_format != piece.content_format {
            return Assembled::Refused(
                Code::REQUEST_ENTITY_INCOMPLETE,
                "Content-Format differs between blocks",
            );
        }
        let known = upload.bytes.get(offset..offset + payload.len());
        if block.more && known == Some(payload) {
            // The answer to it was lost, and the client asked again with a new message id.
            self.grown(now, key, piece.standing);
            return Assembled::Continue;
        }
        if offset != upload.bytes.len() {
            return Assembled::Refused(
                Code::REQUEST_ENTITY_INCOMPLETE,
                "a block is missing before this one",
            );
        }
        upload.bytes.extend_from_slice(payload);
        if block.more {
            self.grown(now, key, piece.standing);
            return Assembled::Continue;
        }
        match self.take_upload(key) {
            Some(upload) => Assembled::Whole(Bytes::from(upload.bytes)),
            None => Assembled::Refused(Code::REQUEST_ENTITY_INCOMPLETE, "no block came before this one"),
        }
    }

    fn begin(&mut self, now: Instant, key: &Key, piece: &Piece<'_>) -> Assembled {
        if self.remove(key) {
            self.metrics.transfers.inc(TransferResult::UploadFailed);
        }
        if !piece.block.more {
            return Assembled::Whole(Bytes::copy_from_slice(piece.payload));
        }
        let upload = Upload {
            bytes: piece.payload.to_vec(),
            content_format: piece.content_format,
        };
        match self.put_upload(now, key.clone(), piece.standing, upload) {
            true => Assembled::Continue,
            false => Assembled::Refused(Code::SERVICE_UNAVAILABLE, "no room for another body"),
        }
    }
}
