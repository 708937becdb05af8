//! Names and the synthetic addresses that stand for them in one runtime.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::domain::HostName;

/// Names of one runtime that have an address at the same time. A browser's page needs a hundred.
pub const MAX_NAMES: usize = 4096;

/// The prefixes that synthetic addresses are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntheticNets {
    /// IPv4. Half of it may be in use at once, so a /19 or smaller holds fewer than [`MAX_NAMES`].
    pub v4: Ipv4Net,
    /// IPv6.
    pub v6: Ipv6Net,
}

/// Both addresses of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synthetic {
    /// For `A`.
    pub v4: Ipv4Addr,
    /// For `AAAA`.
    pub v6: Ipv6Addr,
}

/// A bounded map of names and addresses, both ways.
///
/// A name keeps its addresses while it is among the [`MAX_NAMES`] used last, and in any case while it has an
/// open connection. An address that was let go stands for nothing until every other address of the net was
/// handed out, so that a client that remembers it too long is refused instead of sent elsewhere.
#[derive(Debug)]
pub struct SyntheticNames {
    nets: SyntheticNets,
    most: usize,
    /// Offsets 1 to this are handed out.
    last: u32,
    next: u32,
    by_name: HashMap<HostName, Entry>,
    by_offset: HashMap<u32, HostName>,
    /// Names without an open connection, by when they were used.
    idle: BTreeMap<u64, HostName>,
    tick: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u32,
    used: u64,
    open: usize,
}

impl SyntheticNames {
    /// No names yet; at most `most`, and at most half of the smaller net.
    pub fn new(nets: SyntheticNets, most: usize) -> Self {
        let hosts = |bits: u8| if bits >= 32 { u32::MAX - 1 } else { (1_u32 << bits).saturating_sub(2) };
        let last = hosts(32 - nets.v4.prefix_len()).min(hosts(128 - nets.v6.prefix_len())).max(1);
        let half = usize::try_from(last / 2).unwrap_or(usize::MAX).max(1);
        Self {
            nets,
            most: most.clamp(1, half),
            last,
            next: 1,
            by_name: HashMap::new(),
            by_offset: HashMap::new(),
            idle: BTreeMap::new(),
            tick: 0,
        }
    }

    /// The addresses of `name`, as they were or new ones. `None` when every name that fits has an open
    /// connection.
    pub fn assign(&mut self, name: &HostName) -> Option<Synthetic> {
        if let Some(entry) = self.by_name.get(name).copied() {
            self.touch(name);
            return Some(self.addresses(entry.offset));
        }
        if self.by_name.len() >= self.most {
            let (_, oldest) = self.idle.pop_first()?;
            let entry = self.by_name.remove(&oldest).expect("an idle name is a name");
            self.by_offset.remove(&entry.offset);
        }
        let offset = self.free_offset();
        self.tick += 1;
        self.by_name.insert(name.clone(), Entry { offset, used: self.tick, open: 0 });
        self.by_offset.insert(offset, name.clone());
        self.idle.insert(self.tick, name.clone());
        Some(self.addresses(offset))
    }

    /// Whether `addr` lies in one of the nets, whatever it stands for.
    pub fn covers(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => self.nets.v4.contains(&addr),
            IpAddr::V6(addr) => self.nets.v6.contains(&addr),
        }
    }

    /// The name that `addr` stands for.
    pub fn name_of(&self, addr: IpAddr) -> Option<&HostName> {
        self.by_offset.get(&self.offset(addr)?)
    }

    /// Counts a connection to `addr` as open; its name. To be followed by [`SyntheticNames::close`].
    pub fn open(&mut self, addr: IpAddr) -> Option<HostName> {
        let name = self.name_of(addr)?.clone();
        let entry = self.by_name.get_mut(&name)?;
        if entry.open == 0 {
            self.idle.remove(&entry.used);
        }
        entry.open += 1;
        Some(name)
    }

    /// Ends what [`SyntheticNames::open`] began.
    pub fn close(&mut self, name: &HostName) {
        let Some(entry) = self.by_name.get_mut(name) else { return };
        entry.open = entry.open.saturating_sub(1);
        if entry.open == 0 {
            self.tick += 1;
            self.idle.remove(&entry.used);
            entry.used = self.tick;
            self.idle.insert(self.tick, name.clone());
        }
    }

    /// How many names have an address.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether no name has one.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn touch(&mut self, name: &HostName) {
        let Some(entry) = self.by_name.get_mut(name).filter(|entry| entry.open == 0) else { return };
        self.tick += 1;
        self.idle.remove(&entry.used);
        entry.used = self.tick;
        self.idle.insert(self.tick, name.clone());
    }

    /// The next offset that is not in use. At most half are, so the search ends.
    fn free_offset(&mut self) -> u32 {
        loop {
            let offset = self.next;
            self.next = if offset >= self.last { 1 } else { offset + 1 };
            if !self.by_offset.contains_key(&offset) {
                return offset;
            }
        }
    }

    fn addresses(&self, offset: u32) -> Synthetic {
        Synthetic {
            v4: Ipv4Addr::from(u32::from(self.nets.v4.network()) + offset),
            v6: Ipv6Addr::from(u128::from(self.nets.v6.network()) + u128::from(offset)),
        }
    }

    fn offset(&self, addr: IpAddr) -> Option<u32> {
        if !self.covers(addr) {
            return None;
        }
        match addr {
            IpAddr::V4(addr) => Some(u32::from(addr) - u32::from(self.nets.v4.network())),
            IpAddr::V6(addr) => u32::try_from(u128::from(addr) - u128::from(self.nets.v6.network())).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn nets(v4: &str) -> SyntheticNets {
        SyntheticNets { v4: v4.parse().expect("a net"), v6: "fd00::/64".parse().expect("a net") }
    }

    fn name(number: u32) -> HostName {
        HostName::parse(format!("n{number}.test").as_bytes()).expect("a name")
    }

    #[test]
    fn a_name_has_one_address_of_each_family_and_both_lead_back() {
        let mut names = SyntheticNames::new(nets("198.18.0.0/15"), MAX_NAMES);
        let first = names.assign(&name(1)).expect("room");
        assert_eq!(names.assign(&name(1)), Some(first));
        assert_ne!(names.assign(&name(2)), Some(first));
        for addr in [IpAddr::V4(first.v4), IpAddr::V6(first.v6)] {
            assert_eq!(names.name_of(addr), Some(&name(1)));
        }
        for addr in ["198.18.0.0", "198.18.9.9", "198.17.255.255", "127.0.0.1", "fd00::", "fd00:0:0:1::1", "::1"] {
            assert_eq!(names.name_of(addr.parse().expect("an address")), None, "{addr}");
        }
        assert!(!names.covers("127.0.0.1".parse().expect("an address")));
    }

    #[test]
    fn an_address_that_was_let_go_is_nobodys_for_long() {
        let mut names = SyntheticNames::new(nets("10.0.0.0/24"), 2);
        let old = names.assign(&name(0)).expect("room");
        for number in 1..254 {
            let new = names.assign(&name(number)).expect("room");
            assert_ne!(new, old);
            assert!(number < 2 || names.name_of(old.v4.into()).is_none(), "{number}");
        }
        assert_eq!(names.assign(&name(1000)), Some(old), "the net has been used up once");
    }

    #[test]
    fn when_every_name_is_in_use_a_new_one_gets_nothing() {
        let mut names = SyntheticNames::new(nets("10.0.0.0/24"), 2);
        for number in 0..2 {
            let addresses = names.assign(&name(number)).expect("room");
            assert_eq!(names.open(addresses.v4.into()), Some(name(number)));
        }
        assert_eq!(names.assign(&name(2)), None);
        names.close(&name(1));
        assert!(names.assign(&name(2)).is_some());
        assert!(names.by_name.contains_key(&name(0)) && !names.by_name.contains_key(&name(1)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Assign(u32),
        Open(u32),
        Close(u32),
    }

    proptest::proptest! {
        #[test]
        fn names_and_addresses_agree_whatever_happens(
            steps in proptest::collection::vec((0_u8..3, 0_u32..12), 1..200),
        ) {
            let mut names = SyntheticNames::new(nets("10.0.0.0/27"), 6);
            let mut open: HashMap<HostName, (usize, Synthetic)> = HashMap::new();
            for (kind, number) in steps {
                let step = match kind { 0 => Step::Assign(number), 1 => Step::Open(number), _ => Step::Close(number) };
                match step {
                    Step::Assign(number) => {
                        let had = names.by_name.get(&name(number)).map(|entry| names.addresses(entry.offset));
                        let got = names.assign(&name(number));
                        proptest::prop_assert!(had.is_none() || had == got, "stable while it is known");
                        proptest::prop_assert!(got.is_some() || open.len() == 6);
                    }
                    Step::Open(number) => {
                        if let Some(entry) = names.by_name.get(&name(number)) {
                            let addresses = names.addresses(entry.offset);
                            proptest::prop_assert_eq!(names.open(addresses.v6.into()), Some(name(number)));
                            open.entry(name(number)).or_insert((0, addresses)).0 += 1;
                        }
                    }
                    Step::Close(number) => {
                        if let Some((count, _)) = open.get_mut(&name(number)) {
                            *count -= 1;
                            names.close(&name(number));
                            if *count == 0 { open.remove(&name(number)); }
                        }
                    }
                }
                proptest::prop_assert!(names.len() <= 6);
                proptest::prop_assert_eq!(names.by_offset.len(), names.len());
                proptest::prop_assert_eq!(names.idle.len() + open.len(), names.len());
                let offsets: HashSet<u32> = names.by_name.values().map(|entry| entry.offset).collect();
                proptest::prop_assert_eq!(offsets.len(), names.len());
                for (name, (_, addresses)) in &open {
                    proptest::prop_assert_eq!(names.name_of(addresses.v4.into()), Some(name), "never one in use");
                }
            }
        }
    }
}
