//! What a fleet is told to do, all of its connections at once or one shortly after the other.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// In this time all connections do what they are told: a thousand at once would be nobody's clients.
pub(super) const SPREAD: Duration = Duration::from_secs(1);

/// What is to be done. Later ones include the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Go on.
    Hold,
    /// Idle connections close and open again from the same port.
    Reopen,
    /// All are asked a last time, and end.
    End,
}

/// The orders as one connection hears them.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    order: watch::Receiver<Order>,
    phase: Duration,
}

impl Orders {
    /// `phase`: from 0 to 1, when in [`SPREAD`] it does as it is told.
    pub(super) fn new(order: watch::Receiver<Order>, phase: f64) -> Self {
        Self { order, phase: SPREAD.mul_f64(phase) }
    }

    /// Waits for its turn to open again; false if the end comes first.
    pub(super) async fn reopen(&self) -> bool {
        let reopens = self.wait_for(Order::Reopen).await == Order::Reopen;
        if reopens {
            sleep(self.phase).await;
        }
        reopens
    }

    /// Waits for its turn to end.
    pub(super) async fn end(&self) {
        self.wait_for(Order::End).await;
        sleep(self.phase).await;
    }

    async fn wait_for(&self, wanted: Order) -> Order {
        // A fleet that is gone gives no orders any more.
        self.order.clone().wait_for(|&order| order >= wanted).await.map_or(Order::End, |order| *order)
    }
}
