//! Memory that many connections have left behind, given back once they are gone.

use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(5);
/// Connections that must have gone: what fewer leave is soon used again.
const MANY: i64 = 256;

/// When to give memory back: many connections, and a quarter of all that there were, have gone since the last
/// time. What is given back is asked for again by those who come: so not for each that goes.
#[derive(Debug, Default)]
struct Tide {
    /// The most connections since then.
    high: i64,
}

impl Tide {
    /// Looks at how many there are now.
    fn has_gone_out(&mut self, open: i64) -> bool {
        self.high = self.high.max(open);
        let gone = self.high - open;
        let out = gone >= MANY && gone >= self.high / 4;
        if out {
            self.high = open;
        }
        out
    }
}

/// Looks now and then, for ever.
pub async fn run(metrics: Arc<Metrics>) {
    let mut tide = Tide::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        if tide.has_gone_out(metrics.connections_open.value()) {
            // It takes a while.
            let _ = tokio::task::spawn_blocking(keystile_heap::give_back).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_many_have_gone() {
        let mut tide = Tide::default();
        for (open, out) in [
            (0, false),
            (1_000, false),
            (760, false),
            (744, true),
            (745, false),
            (500, false),
            (480, true),
            (0, true),
            (0, false),
            (10_000, false),
            (9_000, false),
            (7_501, false),
            (7_500, true),
            (8_000, false),
        ] {
            assert_eq!(tide.has_gone_out(open), out, "{open}");
        }
    }
}
