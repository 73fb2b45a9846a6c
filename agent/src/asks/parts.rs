//! What the task that moves messages is made of, and where what it finds out goes.

use std::{path::PathBuf, sync::Arc};

use fairlead_core::{
    asks::{Counters, Limits, Secrets},
    model::Held,
};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{Finding, Heard, Opened, OwnCount, OwnList, Served};
use crate::dataplane::{Ingress, MessageKeys, Reports};

/// What the task is given.
pub struct Parts {
    /// The file with the federation's secrets.
    pub secrets_file: PathBuf,
    /// What stands in it.
    pub secrets: Secrets,
    /// How much may be asked.
    pub limits: Limits,
    /// This node's cluster, whose endpoints' keys it has as a receiver.
    pub cluster: Option<Arc<str>>,
    /// Its name there.
    pub node: Arc<str>,
    /// Where this gateway's tunnel packets come from; nothing where it is none.
    pub own: Vec<IpNet>,
    /// Where all gateways' tunnel packets come from.
    pub gateways: Vec<IpNet>,
    /// What the programs report.
    pub reports: Reports,
    /// What the programs check questions by.
    pub keys: MessageKeys,
    /// What answers questions about this gateway's own endpoints, where it is a receiver too.
    pub ingress: Option<Ingress>,
    /// Which backends may hold flows.
    pub served: watch::Receiver<Arc<Served>>,
    /// What this node's own endpoints hold, each time it was counted.
    pub counted: watch::Receiver<Arc<OwnCount>>,
    /// Those that could hold flows, where counting takes long.
    pub listed: watch::Receiver<Arc<OwnList>>,
    /// Where what is found out goes.
    pub ends: Ends,
    /// The agent's start.
    pub started: Instant,
}

/// Where what is found out goes.
pub struct Ends {
    /// For the flow cache and the slots.
    pub findings: mpsc::Sender<Finding>,
    /// For the planner.
    pub heard: watch::Sender<Arc<Heard>>,
    /// For metrics.
    pub counted: watch::Sender<Counters>,
    /// Flows of all endpoints, for people. No plan depends on them: they change all the time.
    pub flows: watch::Sender<Arc<Held>>,
    /// For the demand.
    pub opened: watch::Sender<Arc<Opened>>,
}
