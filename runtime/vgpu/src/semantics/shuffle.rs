//! Where the lanes of a warp read from in a shuffle.

/// How a lane's source is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

/// Sources of all lanes, and the lanes whose source is inside their segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources {
    pub lanes: [u32; 32],
    pub inside: u32,
}

/// The lane that a lane reads from, and whether it is inside the segment.
#[inline(always)]
pub(crate) fn source(mode: ShuffleMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let most = lane & segment | clamp & !segment;
    let least = lane & segment;
    let (source, inside) = match mode {
        ShuffleMode::Up => (lane.wrapping_sub(b), lane.cast_signed() - b.cast_signed() >= most.cast_signed()),
        ShuffleMode::Down => (lane + b, lane + b <= most),
        ShuffleMode::Butterfly => (lane ^ b, lane ^ b <= most),
        ShuffleMode::Index => (least | b & !segment, least | b & !segment <= most),
    };
    if inside { (source & 31, true) } else { (lane, false) }
}

two_versions! {
    const BLOCK;
    /// The sources of all lanes.
    pub(crate) fn sources(mode: ShuffleMode, b: &[u32; 32], c: &[u32; 32]) -> Sources {
        match mode {
            ShuffleMode::Up => all(ShuffleMode::Up, b, c),
            ShuffleMode::Down => all(ShuffleMode::Down, b, c),
            ShuffleMode::Butterfly => all(ShuffleMode::Butterfly, b, c),
            ShuffleMode::Index => all(ShuffleMode::Index, b, c),
        }
    }
}

#[inline(always)]
fn all(mode: ShuffleMode, b: &[u32; 32], c: &[u32; 32]) -> Sources {
    let lanes = std::array::from_fn(|lane| source(mode, lane as u32, b[lane], c[lane]).0);
    let inside: [u32; 32] =
        std::array::from_fn(|lane| u32::from(source(mode, lane as u32, b[lane], c[lane]).1) << lane);
    Sources { lanes, inside: inside.iter().fold(0, |all, lane| all | lane) }
}

#[cfg(test)]
mod tests {
    use super::{ShuffleMode, source};

    #[test]
    fn shuffles_stay_in_their_segment() {
        // Width 32: c = 0x1f, and 0 for up.
        assert_eq!(source(ShuffleMode::Down, 30, 1, 0x1f), (31, true));
        assert_eq!(source(ShuffleMode::Down, 31, 1, 0x1f), (31, false));
        assert_eq!(source(ShuffleMode::Up, 0, 1, 0), (0, false));
        assert_eq!(source(ShuffleMode::Up, 5, 2, 0), (3, true));
        assert_eq!(source(ShuffleMode::Butterfly, 5, 16, 0x1f), (21, true));
        assert_eq!(source(ShuffleMode::Index, 5, 33, 0x1f), (1, true));
        // Width 8: segment mask 0x18.
        assert_eq!(source(ShuffleMode::Index, 13, 2, 0x181f), (10, true));
        assert_eq!(source(ShuffleMode::Down, 7, 1, 0x181f), (7, false));
        assert_eq!(source(ShuffleMode::Up, 8, 1, 0x1800), (8, false));
    }
}
