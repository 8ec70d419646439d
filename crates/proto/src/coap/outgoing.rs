//! What a message of ours says.

use super::blockwise::Block;
use super::codec::Writer;
use super::contract::{Code, Token};
use super::metrics::MessageType;
use super::options;

/// A message of ours before it is bytes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outgoing<'a> {
    pub(crate) code: u8,
    pub(crate) location: &'a [Box<str>],
    pub(crate) path: &'a [String],
    pub(crate) query: &'a [String],
    pub(crate) observe: Option<u32>,
    pub(crate) content_format: Option<u16>,
    pub(crate) max_age: Option<u32>,
    pub(crate) etag: Option<[u8; 8]>,
    pub(crate) block1: Option<Block>,
    pub(crate) block2: Option<Block>,
    pub(crate) size1: Option<usize>,
    pub(crate) size2: Option<usize>,
    pub(crate) echo: Option<[u8; 8]>,
    pub(crate) payload: &'a [u8],
}

impl Outgoing<'_> {
    /// Writes it at the end of a buffer.
    pub(crate) fn write(&self, out: &mut Vec<u8>, kind: MessageType, mid: u16, token: Token) {
        let mut writer = Writer::new(out, kind, Code(self.code), mid, token);
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if let Some(etag) = &self.etag {
            writer.option(options::ETAG, etag);
        }
        writer.uint(options::OBSERVE, self.observe);
        for segment in self.location {
            writer.option(options::LOCATION_PATH, segment.as_bytes());
        }
        for segment in self.path {
            writer.option(options::URI_PATH, segment.as_bytes());
        }
        writer.uint(options::CONTENT_FORMAT, self.content_format.map(u32::from));
        writer.uint(options::MAX_AGE, self.max_age);
        for parameter in self.query {
            writer.option(options::URI_QUERY, parameter.as_bytes());
        }
        writer.uint(options::BLOCK2, self.block2.map(Block::value));
        writer.uint(options::BLOCK1, self.block1.map(Block::value));
        writer.uint(options::SIZE2, self.size2.map(size));
        writer.uint(options::SIZE1, self.size1.map(size));
        if let Some(echo) = &self.echo {
            writer.option(options::ECHO, echo);
        }
        writer.payload(self.payload);
    }
}

/// Cuts a text to at most `max` bytes, between characters.
pub(crate) fn cut_text(text: &[u8], max: usize) -> &[u8] {
    let mut end = max.min(text.len());
    while end > 0 && text.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        let text = "aé€".as_bytes();
        for (max, cut) in [(2, "a"), (3, "aé"), (5, "aé"), (6, "aé€"), (99, "aé€")] {
            assert_eq!(cut_text(text, max), cut.as_bytes());
        }
    }
}
