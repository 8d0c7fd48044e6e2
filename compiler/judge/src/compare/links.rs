//! Bytes on every link, against the contract's account.

use moe_contract::{Call, LinkBytes, RankId};

use crate::check::Check;

pub(super) fn check(counted: &[(Call, LinkBytes)], planned: &[(Call, LinkBytes)]) -> Check {
    let mut check = Check::new("bytes on the links", "the plan", "equal");
    let calls = |of: &[(Call, LinkBytes)]| of.iter().map(|(call, _)| call.name()).collect::<Vec<_>>().join(", ");
    if calls(counted) != calls(planned) {
        check.differ("the run".into(), calls(counted), calls(planned));
        return check;
    }
    for ((call, counted), (_, planned)) in counted.iter().zip(planned) {
        check.ranks(counted.ranks() as usize, planned.ranks() as usize);
        let ranks = counted.ranks().min(planned.ranks());
        for writer in (0..ranks).map(RankId) {
            for owner in (0..ranks).map(RankId).filter(|&owner| owner != writer) {
                check.compared += 1;
                let (found, wanted) = (counted.bytes(writer, owner), planned.bytes(writer, owner));
                if found != wanted {
                    let place = format!("{}, {writer} to {owner}", call.name());
                    check.differ(place, found.to_string(), wanted.to_string());
                }
            }
        }
    }
    check
}
