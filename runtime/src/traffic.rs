//! Bytes on the links, as a device counted them.

use moe_bundle::RankId;

/// Bytes by (writing rank, rank whose memory is written). Own memory is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkBytes {
    ranks: u32,
    bytes: Vec<u64>,
}

impl LinkBytes {
    /// From a function that knows each link.
    pub fn new(ranks: u32, mut of_link: impl FnMut(RankId, RankId) -> u64) -> LinkBytes {
        let pairs = (0..ranks).flat_map(|writer| (0..ranks).map(move |owner| (RankId(writer), RankId(owner))));
        let bytes = pairs.map(|(writer, owner)| if writer == owner { 0 } else { of_link(writer, owner) }).collect();
        LinkBytes { ranks, bytes }
    }

    /// Number of ranks.
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Bytes that `writer` has written into the memory of `owner`.
    pub fn bytes(&self, writer: RankId, owner: RankId) -> u64 {
        self.bytes[writer.index() * self.ranks as usize + owner.index()]
    }

    /// Over all links.
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// What came in addition since an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &LinkBytes) -> LinkBytes {
        LinkBytes::new(self.ranks, |writer, owner| self.bytes(writer, owner) - earlier.bytes(writer, owner))
    }
}
