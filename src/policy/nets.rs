//! Which networks contain an address.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::embedded_v4s;

/// Networks and the rules that name them. IPv4 and IPv6 never match each other here: `::/0` does not
/// hold `::ffff:10.0.0.1`. Who wants that looks up every [form](every_form) of the address.
#[derive(Debug, Default)]
pub(super) struct NetIndex {
    v4: Tree,
    v6: Tree,
}

/// Networks nest or are disjoint. Sorted by first address, widest first, the innermost network that
/// holds an address is the last one to start at or before it, or a network around that one.
#[derive(Debug, Default)]
struct Tree(Vec<Net>);

#[derive(Debug)]
struct Net {
    first: u128,
    last: u128,
    /// The next wider network around this one.
    around: Option<u32>,
    /// Rules in file order.
    rules: Vec<u32>,
}

impl NetIndex {
    /// An index of `(network, rule)` pairs.
    pub(super) fn of(pairs: impl IntoIterator<Item = (IpNet, u32)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, rule) in pairs {
            let (first, last) = (bits(net.network()), bits(net.broadcast()));
            if net.network().is_ipv4() { &mut v4 } else { &mut v6 }.push((first, last, rule));
        }
        Self { v4: Tree::of(v4), v6: Tree::of(v6) }
    }

    /// The networks that hold `addr`, innermost first: the rules of each, and whether it is a network
    /// of that one address.
    pub(super) fn holding(&self, addr: IpAddr) -> NetWalk<'_> {
        let tree = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let addr = bits(addr);
        let after = tree.0.partition_point(|net| net.first <= addr);
        NetWalk { tree, addr, at: after.checked_sub(1) }
    }

    /// Whether there is no network at all.
    pub(super) fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }
}

impl Tree {
    fn of(mut pairs: Vec<(u128, u128, u32)>) -> Self {
        pairs.sort_unstable_by_key(|(first, last, rule)| (*first, std::cmp::Reverse(*last), *rule));
        let mut nets: Vec<Net> = Vec::new();
        for (first, last, rule) in pairs {
            if let Some(net) = nets.last_mut()
                && (net.first, net.last) == (first, last)
            {
                if net.rules.last() != Some(&rule) {
                    net.rules.push(rule);
                }
                continue;
            }
            let mut around = nets.len().checked_sub(1);
            while let Some(index) = around
                && nets[index].last < first
            {
                around = nets[index].around.map(|index| index as usize);
            }
            let around = around.map(|index| u32::try_from(index).expect("a bounded file has fewer networks"));
            nets.push(Net { first, last, around, rules: vec![rule] });
        }
        Self(nets)
    }
}

/// Walks outwards through the networks that hold an address.
pub(super) struct NetWalk<'n> {
    tree: &'n Tree,
    addr: u128,
    at: Option<usize>,
}

impl<'n> Iterator for NetWalk<'n> {
    type Item = (&'n [u32], bool);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let net = &self.tree.0[self.at?];
            self.at = net.around.map(|index| index as usize);
            if self.addr <= net.last {
                return Some((&net.rules, net.first == net.last));
            }
        }
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

/// The address that the kernel connects to: `::ffff:10.0.0.1` is `10.0.0.1`.
pub(super) fn canonical(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}

/// Every form in which a deny may mean `addr`: itself, and each IPv4 address that it carries.
pub(super) fn every_form(addr: IpAddr) -> impl Iterator<Item = IpAddr> {
    let carried = match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(embedded_v4s(addr)),
    };
    std::iter::once(addr).chain(carried.into_iter().flatten().map(IpAddr::V4))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn index(nets: &[&str]) -> NetIndex {
        NetIndex::of(nets.iter().zip(0..).map(|(net, rule)| (net.parse().expect("network"), rule)))
    }

    fn rules(index: &NetIndex, addr: &str) -> Vec<u32> {
        let mut rules: Vec<u32> =
            index.holding(addr.parse().expect("address")).flat_map(|(rules, _)| rules).copied().collect();
        rules.sort_unstable();
        rules
    }

    #[test]
    fn every_network_around_an_address_is_found() {
        let index = index(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.168.0.0/16", "10.1.0.0/16", "fd00::/8"]);
        for (addr, expected) in [
            ("10.1.2.3", vec![0, 1, 2, 4]),
            ("10.1.2.4", vec![0, 1, 4]),
            ("10.2.0.0", vec![0]),
            ("11.0.0.0", vec![]),
            ("9.255.255.255", vec![]),
            ("192.168.255.255", vec![3]),
            ("fd00::1", vec![5]),
            ("::ffff:10.1.2.3", vec![]),
        ] {
            assert_eq!(rules(&index, addr), expected, "{addr}");
        }
    }

    #[test]
    fn an_ipv6_network_never_holds_an_ipv4_address() {
        let index = index(&["::/0"]);
        assert_eq!(rules(&index, "10.0.0.1"), [0_u32; 0]);
        assert_eq!(rules(&index, "::ffff:10.0.0.1"), [0], "as IPv6 it does: callers choose the form");
    }

    #[test]
    fn only_a_network_of_one_address_is_exact() {
        let index = index(&["10.0.0.0/31", "10.0.0.1/32"]);
        let walk: Vec<_> = index.holding("10.0.0.1".parse().expect("address")).map(|(_, exact)| exact).collect();
        assert_eq!(walk, [true, false]);
    }

    proptest::proptest! {
        #[test]
        fn the_tree_agrees_with_a_scan(
            nets in proptest::collection::vec((0_u32..64, 0_u8..=32), 0..40),
            probes in proptest::collection::vec(0_u32..64, 1..20),
        ) {
            // Few distinct high bits and low bits, so that networks nest and repeat.
            let spread = |value: u32| Ipv4Addr::from_bits((value >> 3) << 29 | (value & 7));
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(value, len)| IpNet::new(spread(value).into(), len).expect("length").trunc())
                .collect();
            let index = NetIndex::of(nets.iter().copied().zip(0..));
            for probe in probes {
                let addr = IpAddr::from(spread(probe));
                let naive: Vec<u32> =
                    (0..).zip(&nets).filter(|(_, net)| net.contains(&addr)).map(|(rule, _)| rule).collect();
                let mut found: Vec<u32> = index.holding(addr).flat_map(|(rules, _)| rules).copied().collect();
                found.sort_unstable();
                proptest::prop_assert_eq!(found, naive, "{}", addr);
            }
        }
    }
}
