//! Bytes on the links: what each kernel writes to a peer, exactly, by item; and the sum for a routing.
//!
//! Invariant: for the same routing, [`LinkBytes::of`] equals what the virtual cluster counts, byte for byte. The diagonal is what a rank
//! writes to its own symmetric memory; it crosses no link. The padding between slots is never written.
//!
//! # Across domains
//! There are no kernels yet; what they would write is counted by the same table ([`crate::Protocol::Hybrid`]). A token goes once to each
//! other domain, to the rank of its source's rail, which hands it on to each rank of its domain that has one of its experts, itself
//! included. Sums come back the same way: those of a domain are added by the rank that handed the token on. So every pair of ranks that a
//! link joins is a writer and a peer, and a copy is one on each link that it takes.

use crate::call::Call;
use crate::exchange::Exchange;
use crate::homes::Homes;
use crate::ids::RankId;
use crate::item::Per;
use crate::kernel::Kernel;
use crate::placement::Turns;
use crate::topology::{Link, Topology};

/// One CTA adds 1 to a u64.
pub const FLAG_BYTES: u64 = 8;

impl Kernel {
    /// Bytes that it writes to a peer for each of something; flags count for the peer.
    pub fn bytes_per(self, per: Per, exchange: &Exchange) -> u64 {
        let row = self.row();
        let sent = row.sends.iter().filter(|sends| sends.per == per && sends.when.of(exchange));
        let flags = match (per, self.publishes(exchange), self.grid(exchange)) {
            (Per::Peer, Some(_), Some(grid)) if exchange.has_flags() => FLAG_BYTES * u64::from(grid.ctas(0)),
            _ => 0,
        };
        sent.map(|sends| sends.item.bytes(exchange)).sum::<u64>() + flags
    }
}

impl Call {
    /// Bytes that it writes to a peer for each of something.
    pub fn bytes_per(self, per: Per, exchange: &Exchange) -> u64 {
        self.kernels(exchange).map(|kernel| kernel.bytes_per(per, exchange)).sum()
    }
}

/// What the routing of all ranks means for the links: copies and picks by (source, destination), on each link that they take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    topology: Topology,
    copies: LinkBytes,
    picks: LinkBytes,
}

impl Flow {
    /// From the picks of every rank, row-major `[tokens, top_k]`. Picks that are no experts (−1, zero experts) flow nowhere.
    ///
    /// # Panics
    /// When `indices` has not one entry per rank.
    pub fn of(exchange: &Exchange, indices: &[&[i32]]) -> Flow {
        let computes = (0..exchange.experts).map(|_| true);
        Flow::to(&Homes::contiguous(exchange.topology(), computes), exchange.top_k, indices)
    }

    /// The same to experts wherever they are.
    ///
    /// # Panics
    /// When `indices` has not one entry per rank.
    pub fn to(homes: &Homes, top_k: u32, indices: &[&[i32]]) -> Flow {
        let topology = homes.topology();
        assert_eq!(indices.len(), topology.ranks as usize, "one list of picks per rank");
        let none = || LinkBytes::none(topology.ranks);
        let mut flow = Flow { topology, copies: none(), picks: none() };
        for (source, indices) in topology.all().zip(indices) {
            let mut turns = Turns::of_rank(source, homes.experts(), indices);
            for picks in indices.chunks(top_k as usize) {
                let mut ranks: Vec<RankId> = picks.iter().filter_map(|&pick| homes.of(pick, &mut turns)).collect();
                ranks.sort_unstable();
                flow.add(source, &ranks);
            }
        }
        flow
    }

    /// A token with the ranks of its picks, ascending.
    fn add(&mut self, source: RankId, ranks: &[RankId]) {
        let topology = self.topology;
        for here in ranks.chunk_by(|one, other| topology.domain_of(*one) == topology.domain_of(*other)) {
            let domain = topology.domain_of(here[0]);
            let forwarder = topology.forwarder(source, domain);
            if forwarder != source {
                self.copies.add(source, forwarder, 1);
                self.picks.add(source, forwarder, here.len() as u64);
            }
            for same in here.chunk_by(|one, other| one == other) {
                self.copies.add(forwarder, same[0], 1);
                self.picks.add(forwarder, same[0], same.len() as u64);
            }
        }
    }

    /// Ranks whose copies `writer` hands to `peer`; none where no link joins them.
    fn sources(&self, writer: RankId, peer: RankId) -> u64 {
        self.topology.link(writer, peer).map_or(0, |link| match link {
            Link::Domain => u64::from(self.topology.domains()),
            Link::Rail => 1,
        })
    }

    /// Tokens of `source` that are sent to `destination`.
    pub fn copies(&self, source: RankId, destination: RankId) -> u64 {
        self.copies.bytes(source, destination)
    }

    /// Picks of `source`'s tokens among the experts of `destination`.
    pub fn picks(&self, source: RankId, destination: RankId) -> u64 {
        self.picks.bytes(source, destination)
    }
}

/// Bytes by (writing rank, rank whose memory is written).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkBytes {
    ranks: u32,
    bytes: Vec<u64>,
}

impl LinkBytes {
    /// No byte.
    pub fn none(ranks: u32) -> LinkBytes {
        LinkBytes { ranks, bytes: vec![0; ranks as usize * ranks as usize] }
    }

    /// From a function that knows each link.
    pub fn new(ranks: u32, mut of_link: impl FnMut(RankId, RankId) -> u64) -> LinkBytes {
        let mut bytes = LinkBytes::none(ranks);
        for (writer, owner) in bytes.links() {
            bytes.add(writer, owner, of_link(writer, owner));
        }
        bytes
    }

    /// Of a call with a routing.
    pub fn of(call: Call, exchange: &Exchange, flow: &Flow) -> LinkBytes {
        let [sent, received, picks, source, peer] =
            [Per::CopySent, Per::CopyReceived, Per::PickReceived, Per::Source, Per::Peer]
                .map(|per| call.bytes_per(per, exchange));
        LinkBytes::new(flow.topology.ranks, |writer, owner| {
            let joined = u64::from(flow.topology.link(writer, owner).is_some());
            flow.copies(writer, owner) * sent
                + flow.copies(owner, writer) * received
                + flow.picks(owner, writer) * picks
                + flow.sources(writer, owner) * source
                + joined * peer
        })
    }

    /// Both sides of the matrix.
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Bytes that `writer` writes into the memory of `owner`.
    pub fn bytes(&self, writer: RankId, owner: RankId) -> u64 {
        self.bytes[self.place(writer, owner)]
    }

    /// Bytes that cross a link: all but the diagonal.
    pub fn crossing(&self) -> u64 {
        let crossing = self.links().filter(|(writer, owner)| writer != owner);
        crossing.map(|(writer, owner)| self.bytes(writer, owner)).sum()
    }

    /// Bytes that a rank writes to others over links of a kind.
    pub fn leaving(&self, rank: RankId, topology: Topology, link: Link) -> u64 {
        let others = topology.all().filter(|&other| other != rank && topology.link(rank, other) == Some(link));
        others.map(|other| self.bytes(rank, other)).sum()
    }

    /// Without the diagonal: what links alone carry.
    #[must_use]
    pub fn between_ranks(&self) -> LinkBytes {
        LinkBytes::new(self.ranks, |writer, owner| if writer == owner { 0 } else { self.bytes(writer, owner) })
    }

    /// What came in addition since an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &LinkBytes) -> LinkBytes {
        LinkBytes::new(self.ranks, |writer, owner| self.bytes(writer, owner) - earlier.bytes(writer, owner))
    }

    fn add(&mut self, writer: RankId, owner: RankId, bytes: u64) {
        let place = self.place(writer, owner);
        self.bytes[place] += bytes;
    }

    fn place(&self, writer: RankId, owner: RankId) -> usize {
        writer.index() * self.ranks as usize + owner.index()
    }

    fn links(&self) -> impl Iterator<Item = (RankId, RankId)> + use<> {
        let ranks = self.ranks;
        (0..ranks).flat_map(move |writer| (0..ranks).map(move |owner| (RankId(writer), RankId(owner))))
    }
}

impl std::ops::AddAssign<&LinkBytes> for LinkBytes {
    fn add_assign(&mut self, other: &LinkBytes) {
        self.bytes.iter_mut().zip(&other.bytes).for_each(|(mine, theirs)| *mine += theirs);
    }
}
