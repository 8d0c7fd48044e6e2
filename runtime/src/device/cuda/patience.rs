//! Waiting that ends.

use std::time::{Duration, Instant};

use moe_contract::RankId;

use crate::device::DeviceError;

/// Waits until `running` names no rank any more, or tells after some time who still runs.
pub(super) fn wait(
    patience: Duration,
    mut running: impl FnMut() -> Result<Vec<RankId>, DeviceError>,
) -> Result<(), DeviceError> {
    const LONGEST: Duration = Duration::from_millis(10);
    let start = Instant::now();
    let mut pause = Duration::from_micros(20);
    loop {
        let ranks = running()?;
        if ranks.is_empty() {
            return Ok(());
        }
        let left = patience.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(DeviceError::StillRunning { ranks, patience });
        }
        std::thread::sleep(pause.min(left));
        pause = (2 * pause).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_waits_for_ever_is_named_in_time() {
        let patience = Duration::from_millis(30);
        let start = Instant::now();
        let error = wait(patience, || Ok(vec![RankId(1), RankId(3)])).expect_err("they never end");
        assert!(start.elapsed() >= patience);
        assert_eq!(
            error.to_string(),
            "kernels of rank 1, rank 3 still run after 30ms, and nothing can stop a kernel that waits for ever but the end of this \
             process: give waits a deadline"
        );
        let mut asked = 0;
        let ends = || {
            asked += 1;
            Ok(if asked < 4 { vec![RankId(0)] } else { vec![] })
        };
        assert_eq!(wait(Duration::from_secs(60), ends), Ok(()));
        let fault = DeviceError::Fault { report: "it failed".into() };
        assert_eq!(wait(patience, || Err(fault.clone())), Err(fault), "what went wrong comes first");
    }
}
