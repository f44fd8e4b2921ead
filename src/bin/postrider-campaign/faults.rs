//! Faults: which, when, and how long.

use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::process::Signal;

use crate::fleet::Fleet;
use crate::ledger::{Struck, now};

/// A fault of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// `kill -9`; the node is started again some seconds later
    Kill,
    /// SIGTERM, as a deploy does; the node is started again once it has ended
    Restart,
    /// SIGSTOP for longer than a lease lasts, then SIGCONT
    Freeze,
}

/// Time for which a frozen node stands still: longer than its leases last.
const FROZEN: Duration = Duration::from_secs(15);

impl Fault {
    /// Strikes a node, and waits until it accepts events again.
    /// A killed one stays down for `down`.
    pub(crate) async fn strike(
        self,
        fleet: &mut Fleet,
        node: usize,
        down: Duration,
    ) -> anyhow::Result<Struck> {
        let from = now();
        match self {
            Self::Kill => {
                fleet.signal(node, Signal::KILL)?;
                fleet.end(node).await?;
                tokio::time::sleep(down).await;
                fleet.start(node).await?;
            }
            Self::Restart => {
                fleet.signal(node, Signal::TERM)?;
                fleet.end(node).await?;
                fleet.start(node).await?;
            }
            Self::Freeze => {
                fleet.signal(node, Signal::STOP)?;
                tokio::time::sleep(FROZEN).await;
                fleet.signal(node, Signal::CONT)?;
            }
        }
        let name = self.to_possible_value().context("a fault has a name")?;
        Ok(Struck {
            from,
            until: now(),
            what: format!("{} {}", name.get_name(), fleet.nodes[node].name),
            is_clean: self == Self::Restart,
        })
    }
}
