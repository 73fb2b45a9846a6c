//! Tables of flows that are replaced by others: what stood in them stands in the new ones before a packet comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use aya::{
    maps::{HashMap, Map, MapData, MapError},
    programs::links::{FdLink, PinnedLink},
};
use fairlead::dataplane::{Attached, Capacities, Carried, Dataplane, Instance, Mode, Programs};
use fairlead_abi::{Address, FLOWS_LAYOUT, FlowEntry, FlowKey, FlowState, Roles, map, protocol};
use nix::sched::{CloneFlags, unshare};

use super::node::settings;

/// A table of them.
pub type Flows = BTreeMap<FlowKey, FlowEntry>;

/// Sizes of tables.
pub const SMALL: u32 = 512;
pub const LARGE: u32 = 2048;

/// Pins without links: agents that come and go.
pub struct Pins(Instance);

impl Drop for Pins {
    fn drop(&mut self) {
        self.0.remove().unwrap();
    }
}

impl Pins {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(Instance::new(&format!("test-carried-{}-{number}", process::id())))
    }

    /// An agent comes, with tables of these sizes for established and half-open flows.
    pub fn load(&self, flows: u32, half_open: u32) -> Dataplane {
        let settings = settings(Roles::RECEIVER);
        let tables = fairlead_core::planner::Capacities {
            buckets: settings.bucket_mask + 1,
            slots: 1024,
            backends: 64,
            service_ids: 64,
            hops: 16,
            deliveries: 16,
            gateways: 16,
            source_ranges: 16,
        };
        let capacities = Capacities { tables, flows, half_open, probes: 16, cache: 16, fragments: 64 };
        let programs = env::var_os("FAIRLEAD_BPF")
            .map_or(Programs::Embedded, |path| Programs::File(PathBuf::from(path)));
        Dataplane::load(&self.0, &programs, &settings, &capacities).unwrap()
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.0.root().join(name)
    }

    fn table(&self, folder: &str, name: &str) -> HashMap<MapData, FlowKey, FlowEntry> {
        let data = MapData::from_pin(self.folder(folder).join(name)).unwrap();
        Map::from_map_data(data).unwrap().try_into().unwrap()
    }

    pub fn put(&self, folder: &str, name: &str, flows: &Flows) {
        let mut table = self.table(folder, name);
        for (key, flow) in flows {
            table.insert(key, flow, 0).unwrap();
        }
    }

    pub fn flows(&self, folder: &str, name: &str) -> Flows {
        self.table(folder, name).iter().collect::<Result<_, MapError>>().unwrap()
    }

    fn id(&self, folder: &str, name: &str) -> u32 {
        MapData::from_pin(self.folder(folder).join(name)).unwrap().info().unwrap().id()
    }

    /// What is pinned beside maps and links.
    fn programs(&self) -> BTreeSet<String> {
        let names =
            fs::read_dir(self.0.root()).unwrap().map(|pin| pin.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("programs-")).collect()
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.folder(from), self.folder(to)).unwrap();
    }
}

pub fn key(number: u32) -> FlowKey {
    FlowKey {
        endpoint: Address::v4([192, 0, 2, 1]),
        client: Address::v4(number.to_be_bytes()),
        endpoint_port: 8080_u16.to_be_bytes(),
        client_port: 40_000_u16.to_be_bytes(),
        protocol: protocol::TCP,
        padding: [0; 3],
    }
}

/// A flow whose last packet came at `seen`.
pub fn flow(state: FlowState, seen: u32) -> FlowEntry {
    FlowEntry {
        vip: Address::v4([203, 0, 113, 1]),
        port: 80_u16.to_be_bytes(),
        mss: 1400,
        sequence: 7,
        state: state as u8,
        seen: seen.into(),
        ..FlowEntry::default()
    }
}

pub fn flows(numbers: std::ops::Range<u32>, state: FlowState) -> Flows {
    numbers.map(|number| (key(number), flow(state, 1000 + number))).collect()
}

fn carried(map: &'static str, found: u64, left_out: u64, capacity: u32) -> Carried {
    Carried { map, found, left_out, capacity }
}

#[test]
fn larger_tables_take_everything_over() {
    let pins = Pins::new();
    let mut former = pins.load(SMALL, SMALL);
    let mut established = flows(0..400, FlowState::Established);
    let mut half_open = flows(1000..1100, FlowState::HalfOpen);
    pins.put("v4", map::FLOWS, &established);
    pins.put("v4", map::HALF_OPEN, &half_open);

    let mut new = pins.load(LARGE, LARGE);
    assert_eq!(pins.flows("v4-next", map::FLOWS), established, "as soon as the new table is there");
    // While the new agent looks around, one flow of each table goes on, one comes, and one is established.
    let now = former.ticks().unwrap();
    let closing = flow(FlowState::Closing, now);
    let more = [(key(1), closing), (key(500), flow(FlowState::Established, now))];
    established.extend(more);
    pins.put("v4", map::FLOWS, &more.into());
    let answered = FlowEntry { sequence: 9, ..half_open[&key(1001)] };
    let more = [(key(1001), answered), (key(1200), flow(FlowState::Unproven, now))];
    half_open.extend(more);
    pins.put("v4", map::HALF_OPEN, &more.into());

    let told = new.carry_flows().unwrap();
    assert_eq!(told, [carried(map::FLOWS, 401, 0, LARGE), carried(map::HALF_OPEN, 101, 0, LARGE)]);
    assert_eq!(pins.flows("v4-next", map::FLOWS), established);
    assert_eq!(pins.flows("v4-next", map::HALF_OPEN), half_open);
}

#[test]
fn a_table_whose_size_stays_is_the_same_one() {
    let pins = Pins::new();
    drop(pins.load(SMALL, SMALL));
    let mut new = pins.load(LARGE, SMALL);
    assert_eq!(pins.id("v4-next", map::HALF_OPEN), pins.id("v4", map::HALF_OPEN));
    assert_ne!(pins.id("v4-next", map::FLOWS), pins.id("v4", map::FLOWS));
    pins.put("v4", map::HALF_OPEN, &flows(0..10, FlowState::HalfOpen));
    assert_eq!(new.carry_flows().unwrap(), [], "nothing is to be copied");
}

#[test]
fn a_smaller_table_takes_what_fits_and_living_connections_first() {
    let pins = Pins::new();
    drop(pins.load(LARGE, LARGE));
    // As they stand in the table they are mixed.
    let alive = flows(0..SMALL - 12, FlowState::Established);
    let closing = flows(SMALL..SMALL + 300, FlowState::Closing);
    pins.put("v4", map::FLOWS, &closing);
    pins.put("v4", map::FLOWS, &alive);
    pins.put("v4", map::HALF_OPEN, &flows(0..1000, FlowState::HalfOpen));

    let mut new = pins.load(SMALL, SMALL);
    let told = new.carry_flows().unwrap();
    let of_flows = carried(map::FLOWS, u64::from(SMALL) + 288, 288, SMALL);
    assert_eq!(told, [of_flows, carried(map::HALF_OPEN, 1000, 1000 - u64::from(SMALL), SMALL)]);
    let kept = pins.flows("v4-next", map::FLOWS);
    assert_eq!(kept.len(), SMALL as usize, "it is full");
    assert!(alive.iter().all(|(key, flow)| kept.get(key) == Some(flow)), "a living connection is lost");
    assert!(kept.iter().all(|(key, flow)| alive.get(key).or(closing.get(key)) == Some(flow)));
    // Once there is room again, what had none comes after.
    let mut table = pins.table("v4-next", map::FLOWS);
    for number in 0..20 {
        table.remove(&key(number)).unwrap();
        pins.table("v4", map::FLOWS).remove(&key(number)).unwrap();
    }
    let told = new.carry_flows().unwrap();
    assert_eq!(told[0], carried(map::FLOWS, u64::from(SMALL) + 268, 268, SMALL));
    assert_eq!(pins.flows("v4-next", map::FLOWS).len(), SMALL as usize);
}

#[test]
fn what_packets_brought_is_not_replaced_by_what_was_before() {
    let pins = Pins::new();
    drop(pins.load(SMALL, SMALL));
    let other = |entry: FlowEntry| FlowEntry { vip: Address::v4([203, 0, 113, 2]), ..entry };
    let (established, closing) = (FlowState::Established, FlowState::Closing);
    // An agent ended between switching the links and settling: both sets of tables may be in use.
    pins.rename("v4", "v4-switched");
    drop(pins.load(LARGE, SMALL));
    let rows = [
        ("another connection came since", flow(closing, 2000), other(flow(established, 3000)), false),
        ("it was closed after it was copied", flow(closing, 3000), flow(established, 2000), true),
        ("at the same tick", flow(closing, 2000), flow(established, 2000), true),
        ("the new table saw it closed at the same tick", flow(established, 2000), flow(closing, 2000), false),
        ("a later packet alone", flow(established, 3000), flow(established, 2000), false),
    ];
    for (number, (_, former, new, _)) in (0..).zip(&rows) {
        pins.put("v4-switched", map::FLOWS, &[(key(number), *former)].into());
        pins.put("v4", map::FLOWS, &[(key(number), *new)].into());
    }
    pins.put("v4-switched", map::FLOWS, &flows(100..200, established));
    let mut next = pins.load(LARGE, SMALL);
    next.carry_flows().unwrap();
    let after = pins.flows("v4", map::FLOWS);
    for (number, (what, former, new, replaced)) in (0..).zip(&rows) {
        assert_eq!(after[&key(number)], if *replaced { *former } else { *new }, "{what}");
    }
    assert_eq!(after.len(), rows.len() + 100);
}

#[test]
fn what_came_while_the_links_were_switched_comes_after() {
    // A thread's own network namespace, whose loopback interface is nobody else's.
    let story = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let pins = Pins::new();
        pins.load(SMALL, SMALL).attach("lo", Mode::Generic).unwrap();
        let mut flows = flows(0..100, FlowState::Established);
        pins.put("v4", map::FLOWS, &flows);
        let mut new = pins.load(LARGE, LARGE);
        new.carry_flows().unwrap();
        let now = new.ticks().unwrap();
        assert_eq!(new.attach("lo", Mode::Generic).unwrap(), Attached::Updated);
        let (known, later) = (flow(FlowState::Closing, now + 1), flow(FlowState::Established, now + 2));
        let last = [(key(1), known), (key(2), known), (key(200), known)];
        pins.put("v4", map::FLOWS, &last.into());
        pins.put("v4", map::HALF_OPEN, &[(key(300), known)].into());
        // Meanwhile another connection came by the new programs.
        let later = FlowEntry { port: 81_u16.to_be_bytes(), ..later };
        pins.put("v4-switched", map::FLOWS, &[(key(2), later)].into());
        let told = new.carry_flows().unwrap();
        assert_eq!(told, [carried(map::FLOWS, 101, 0, LARGE), carried(map::HALF_OPEN, 1, 0, LARGE)]);
        new.settle(&["lo"]).unwrap();
        flows.extend([(key(1), known), (key(2), later), (key(200), known)]);
        assert_eq!(pins.flows("v4", map::FLOWS), flows);
        assert_eq!(pins.flows("v4", map::HALF_OPEN), [(key(300), known)].into());
        assert_eq!(new.carry_flows().unwrap(), [], "all is settled");
    };
    std::thread::spawn(story).join().unwrap();
}

#[test]
fn starts_that_failed_leave_one_table_of_programs_at_most() {
    let story = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let pins = Pins::new();
        let mut first = pins.load(SMALL, SMALL);
        first.attach("lo", Mode::Generic).unwrap();
        first.settle(&["lo"]).unwrap();
        drop(first);
        let used = pins.programs();
        assert_eq!(used.len(), 1);
        for _ in 0..3 {
            drop(pins.load(LARGE, SMALL));
            let all = pins.programs();
            assert!(all.is_superset(&used) && all.len() == 2, "{used:?} are in use: {all:?}");
        }
        // These end when one of their interfaces has the programs.
        for _ in 0..3 {
            let used = pins.programs();
            let mut new = pins.load(LARGE, SMALL);
            let all = pins.programs();
            assert!(
                all.intersection(&used).count() == 1 && all.len() == 2,
                "of {used:?} one is in use: {all:?}"
            );
            new.attach("lo", Mode::Generic).unwrap();
        }
        let mut last = pins.load(LARGE, SMALL);
        last.attach("lo", Mode::Generic).unwrap();
        last.settle(&["lo"]).unwrap();
        assert_eq!(pins.programs().len(), 1);
    };
    std::thread::spawn(story).join().unwrap();
}

#[test]
fn an_update_that_is_refused_changes_no_link() {
    let story = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let pins = Pins::new();
        let mut first = pins.load(SMALL, SMALL);
        first.attach("lo", Mode::Generic).unwrap();
        first.settle(&["lo"]).unwrap();
        let link = |program| pins.folder(&format!("link-lo-{program}-1-generic"));
        let open = || FdLink::from(PinnedLink::from_pin(link("egress")).unwrap());
        let before = open().info().unwrap().program_id();
        // No link of this kind takes an XDP program.
        fs::remove_file(link("ingress")).unwrap();
        open().pin(link("ingress")).unwrap();
        pins.load(LARGE, SMALL).attach("lo", Mode::Generic).unwrap_err();
        assert_eq!(open().info().unwrap().program_id(), before);
    };
    std::thread::spawn(story).join().unwrap();
}

#[test]
fn another_version_with_the_same_layout_hands_its_flows_over() {
    for version in ["v0", "v5"] {
        let pins = Pins::new();
        drop(pins.load(SMALL, SMALL));
        let (established, half_open) =
            (flows(0..300, FlowState::Established), flows(500..600, FlowState::HalfOpen));
        pins.put("v4", map::FLOWS, &established);
        pins.put("v4", map::HALF_OPEN, &half_open);
        pins.rename("v4", version);
        let mut new = pins.load(LARGE, SMALL);
        assert_eq!(new.carry_flows().unwrap(), [carried(map::FLOWS, 300, 0, LARGE)]);
        assert_eq!(pins.flows("v4", map::FLOWS), established);
        assert_eq!(pins.id("v4", map::HALF_OPEN), pins.id(version, map::HALF_OPEN));
    }
}

#[test]
fn another_layout_is_not_read() {
    let change = |pins: &Pins, to: Option<&str>| {
        let tag = pins.folder("v0").join("FLOWS_LAYOUT");
        assert_eq!(fs::read_link(&tag).unwrap().as_os_str(), FLOWS_LAYOUT);
        fs::remove_file(&tag).unwrap();
        to.into_iter().for_each(|to| symlink(to, &tag).unwrap());
    };
    for (to, half_open) in [(Some("0"), SMALL), (None, LARGE)] {
        let pins = Pins::new();
        drop(pins.load(SMALL, SMALL));
        pins.put("v4", map::FLOWS, &flows(0..300, FlowState::Established));
        pins.rename("v4", "v0");
        change(&pins, to);
        let mut new = pins.load(SMALL, half_open);
        assert_eq!(new.carry_flows().unwrap(), []);
        assert_eq!(pins.flows("v4", map::FLOWS), Flows::new());
        assert_ne!(pins.id("v4", map::HALF_OPEN), pins.id("v0", map::HALF_OPEN));
    }
}

#[test]
fn a_million_flows_are_carried_over_within_seconds() {
    const MILLION: u32 = 1 << 20;
    let pins = Pins::new();
    drop(pins.load(MILLION, SMALL));
    let mut table = pins.table("v4", map::FLOWS);
    for number in 0..MILLION {
        table.insert(key(number), flow(FlowState::Established, 1000), 0).unwrap();
    }
    let began = Instant::now();
    drop(pins.load(MILLION, SMALL));
    let without = began.elapsed();
    let began = Instant::now();
    let mut new = pins.load(2 * MILLION, SMALL);
    let copied = began.elapsed();
    let began = Instant::now();
    let told = new.carry_flows().unwrap();
    let again = began.elapsed();
    println!("a start without copying: {without:?}, with a million flows: {copied:?}, once more: {again:?}");
    assert_eq!(told, [carried(map::FLOWS, MILLION.into(), 0, 2 * MILLION)]);
    assert_eq!(pins.table("v4-next", map::FLOWS).keys().count(), MILLION as usize);
    assert!(copied + again < Duration::from_secs(20), "{copied:?} and {again:?}");
}
