//! What happens to endpoints and gateways.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::gateway::Gateway;
use crate::world::{Pod, World};

impl World {
    pub(crate) fn something_happens(&mut self) {
        match self.random.below(13) {
            0 => self.add(),
            1 => self.on_one(|pod, _| pod.ready = false),
            2 => self.on_one(|pod, ms| (pod.in_slices, pod.left) = (false, ms)),
            3 => self.kill(false),
            4 => self.kill(true),
            5 => self.flap(),
            6 => self.disagree(),
            7 => self.resize(),
            8 => self.lose_a_gateway(),
            9 if self.gateways.len() < 4 => self.join(),
            10 => {
                let at = self.any_gateway();
                let ms = self.ms;
                self.gateways.get_mut(&at).expect("it is there").restart(ms);
            }
            _ => {}
        }
    }

    pub(crate) fn add(&mut self) {
        let n = u16::try_from(self.pods.len() + 1).expect("few pods");
        let [high, low] = n.to_be_bytes();
        let pod = Pod {
            in_slices: true,
            ready: true,
            killed: None,
            node_dead: false,
            added: self.ms,
            left: 0,
            flows: BTreeSet::new(),
            quic: 0,
        };
        self.pods.insert(Ipv4Addr::new(10, 0, high, low).into(), pod);
    }

    fn serving(&self) -> Vec<IpAddr> {
        let serves = |pod: &Pod| pod.is_alive() && pod.in_slices && pod.ready;
        self.pods.iter().filter(|(_, pod)| serves(pod)).map(|(&outer, _)| outer).collect()
    }

    /// One that serves, as long as enough are left.
    fn victim(&mut self) -> Option<IpAddr> {
        let serving = self.serving();
        (serving.len() > 4).then(|| serving[self.random.index(serving.len())])
    }

    fn on_one(&mut self, change: impl Fn(&mut Pod, u64)) {
        if let Some(outer) = self.victim() {
            let ms = self.ms;
            change(self.pods.get_mut(&outer).expect("it is there"), ms);
        }
    }

    fn kill(&mut self, with_node: bool) {
        let Some(outer) = self.victim() else { return };
        let pod = self.pods.get_mut(&outer).expect("it is there");
        (pod.killed, pod.node_dead, pod.left) = (Some(self.ms), with_node, self.ms);
        // That a node is dead the API server says only later.
        pod.in_slices = with_node;
        let lost = std::mem::take(&mut pod.flows);
        pod.quic = 0;
        self.out.died += lost.len() as u64;
        self.connections.retain(|flow, _| !lost.contains(flow));
    }

    fn flap(&mut self) {
        let flapping: Vec<IpAddr> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.is_alive() && pod.in_slices && !pod.ready)
            .map(|(&outer, _)| outer)
            .collect();
        if flapping.is_empty() {
            return self.on_one(|pod, _| pod.ready = false);
        }
        let outer = flapping[self.random.index(flapping.len())];
        self.pods.get_mut(&outer).expect("it is there").ready = true;
    }

    fn disagree(&mut self) {
        let (at, serving) = (self.any_gateway(), self.serving());
        let outer = serving[self.random.index(serving.len())];
        let gateway = self.gateways.get_mut(&at).expect("it is there");
        gateway.blind = if gateway.blind.is_some() { None } else { Some(outer) };
    }

    /// Over the number of endpoints at which rings have another size, in one way or the other.
    fn resize(&mut self) {
        if self.serving().len() < 12 {
            (0..6).for_each(|_| self.add());
        } else {
            (0..6).for_each(|_| self.on_one(|pod, ms| (pod.in_slices, pod.left) = (false, ms)));
        }
    }

    fn any_gateway(&mut self) -> u32 {
        let all: Vec<u32> = self.gateways.keys().copied().collect();
        all[self.random.index(all.len())]
    }

    fn lose_a_gateway(&mut self) {
        if self.gateways.len() > 2 {
            let at = self.any_gateway();
            self.gateways.remove(&at);
        }
    }

    pub(crate) fn join(&mut self) {
        let mut gateway = Gateway::join(&self.declared, &self.spec);
        gateway.turn(self.ms);
        self.gateways.insert(self.joined, gateway);
        self.joined += 1;
    }
}
