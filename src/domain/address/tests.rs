use proptest::prelude::*;

use super::*;

fn kind(addr: &str) -> String {
    classify(addr.parse().expect("an address")).to_string()
}

/// Every registry row: first address, last address, kind, and whether what lies just below and just
/// above is another kind (by name).
#[test]
fn every_v4_block_holds_from_its_first_to_its_last_address() {
    #[rustfmt::skip]
    let table = [
        // before, first, last, after, kind, kind before, kind after
        ("", "0.0.0.0", "0.0.0.0", "0.0.0.1", "unspecified", "", "this_network"),
        ("0.0.0.0", "0.0.0.1", "0.255.255.255", "1.0.0.0", "this_network", "unspecified", "public"),
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", "private", "public", "public"),
        ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0", "shared", "public", "public"),
        ("100.100.100.199", "100.100.100.200", "100.100.100.200", "100.100.100.201", "metadata", "shared", "shared"),
        ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0", "loopback", "public", "public"),
        ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17", "metadata", "public", "public"),
        ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0", "link_local", "public", "public"),
        ("169.254.169.253", "169.254.169.254", "169.254.169.254", "169.254.169.255", "metadata", "link_local", "link_local"),
        ("169.254.170.1", "169.254.170.2", "169.254.170.2", "169.254.170.3", "metadata", "link_local", "link_local"),
        ("169.254.170.22", "169.254.170.23", "169.254.170.23", "169.254.170.24", "metadata", "link_local", "link_local"),
        ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0", "private", "public", "public"),
        ("191.255.255.255", "192.0.0.0", "192.0.0.7", "192.0.0.8", "ds_lite", "public", "dummy"),
        ("192.0.0.7", "192.0.0.8", "192.0.0.8", "192.0.0.9", "dummy", "ds_lite", "pcp_anycast"),
        ("192.0.0.8", "192.0.0.9", "192.0.0.9", "192.0.0.10", "pcp_anycast", "dummy", "turn_anycast"),
        ("192.0.0.9", "192.0.0.10", "192.0.0.10", "192.0.0.11", "turn_anycast", "pcp_anycast", "ietf_protocol"),
        ("192.0.0.169", "192.0.0.170", "192.0.0.171", "192.0.0.172", "nat64_discovery", "ietf_protocol", "ietf_protocol"),
        ("192.0.0.191", "192.0.0.192", "192.0.0.192", "192.0.0.193", "metadata", "ietf_protocol", "ietf_protocol"),
        ("192.0.0.10", "192.0.0.11", "192.0.0.255", "192.0.1.0", "ietf_protocol", "turn_anycast", "public"),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0", "documentation", "public", "public"),
        ("192.31.195.255", "192.31.196.0", "192.31.196.255", "192.31.197.0", "as112", "public", "public"),
        ("192.52.192.255", "192.52.193.0", "192.52.193.255", "192.52.194.0", "amt", "public", "public"),
        ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0", "6to4_relay", "public", "public"),
        ("192.88.99.1", "192.88.99.2", "192.88.99.2", "192.88.99.3", "6a44_relay", "6to4_relay", "6to4_relay"),
        ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0", "private", "public", "public"),
        ("192.175.47.255", "192.175.48.0", "192.175.48.255", "192.175.49.0", "as112", "public", "public"),
        ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0", "benchmarking", "public", "public"),
        ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0", "documentation", "public", "public"),
        ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0", "documentation", "public", "public"),
        ("223.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.0", "multicast", "public", "reserved"),
        ("239.255.255.255", "240.0.0.0", "255.255.255.254", "255.255.255.255", "reserved", "multicast", "broadcast"),
        ("255.255.255.254", "255.255.255.255", "255.255.255.255", "", "broadcast", "reserved", ""),
    ];
    for (before, first, last, after, is, kind_before, kind_after) in table {
        assert_eq!(kind(first), is, "{first}");
        assert_eq!(kind(last), is, "{last}");
        if !before.is_empty() {
            assert_eq!(kind(before), kind_before, "{before}");
        }
        if !after.is_empty() {
            assert_eq!(kind(after), kind_after, "{after}");
        }
    }
}

#[test]
fn every_v6_block_holds_from_its_first_to_its_last_address() {
    const F: &str = "ffff:ffff:ffff:ffff";
    #[rustfmt::skip]
    let table = [
        // before, first, last, after, kind, kind before, kind after
        ("", "::", "::", "::1", "unspecified", "", "loopback"),
        ("::", "::1", "::1", "::2", "loopback", "unspecified", "this_network"),
        ("64:ff9b:0:ffff:ffff:ffff:ffff:ffff", "64:ff9b:1::808:808", "64:ff9b:1:ffff:ffff:ffff:808:808", "64:ff9b:2::", "nat64_local", "not_global_unicast", "not_global_unicast"),
        (&format!("ff:ffff:ffff:ffff:{F}"), "100::", &format!("100::{F}"), "100:0:0:2::", "discard", "not_global_unicast", "not_global_unicast"),
        (&format!("100::{F}"), "100:0:0:1::", &format!("100:0:0:1:{F}"), "100:0:0:2::", "dummy", "discard", "not_global_unicast"),
        (&format!("1fff:ffff:ffff:ffff:{F}"), "2001:1::1", "2001:1::1", "2001:1::", "pcp_anycast", "not_global_unicast", "ietf_protocol"),
        ("2001:1::1", "2001:1::2", "2001:1::2", "2001:1::4", "turn_anycast", "pcp_anycast", "ietf_protocol"),
        ("2001:1::2", "2001:1::3", "2001:1::3", "2001:1::4", "dns_sd_srp_anycast", "turn_anycast", "ietf_protocol"),
        (&format!("2001:1:ffff:ffff:{F}"), "2001:2::", &format!("2001:2:0:ffff:{F}"), "2001:2:1::", "benchmarking", "ietf_protocol", "ietf_protocol"),
        (&format!("2001:2:ffff:ffff:{F}"), "2001:3::", &format!("2001:3:ffff:ffff:{F}"), "2001:4::", "amt", "ietf_protocol", "ietf_protocol"),
        (&format!("2001:4:111:ffff:{F}"), "2001:4:112::", &format!("2001:4:112:ffff:{F}"), "2001:4:113::", "as112", "ietf_protocol", "ietf_protocol"),
        (&format!("2001:f:ffff:ffff:{F}"), "2001:10::", &format!("2001:1f:ffff:ffff:{F}"), "2001:20::", "orchid", "ietf_protocol", "orchid_v2"),
        (&format!("2001:1f:ffff:ffff:{F}"), "2001:20::", &format!("2001:2f:ffff:ffff:{F}"), "2001:30::", "orchid_v2", "orchid", "drone_remote_id"),
        (&format!("2001:2f:ffff:ffff:{F}"), "2001:30::", &format!("2001:3f:ffff:ffff:{F}"), "2001:40::", "drone_remote_id", "orchid_v2", "ietf_protocol"),
        (&format!("2001:3f:ffff:ffff:{F}"), "2001:40::", &format!("2001:1ff:ffff:ffff:{F}"), "2001:200::", "ietf_protocol", "drone_remote_id", "public"),
        (&format!("2001:db7:ffff:ffff:{F}"), "2001:db8::", &format!("2001:db8:ffff:ffff:{F}"), "2001:db9::", "documentation", "public", "public"),
        (&format!("2001:ffff:ffff:ffff:{F}"), "2002:808:808::", "2002:dfff:ffff::1", "2003::", "6to4", "public", "public"),
        (&format!("2620:4f:7fff:ffff:{F}"), "2620:4f:8000::", &format!("2620:4f:8000:ffff:{F}"), "2620:4f:8001::", "as112", "public", "public"),
        (&format!("3ffe:ffff:ffff:ffff:{F}"), "3fff::", &format!("3fff:fff:ffff:ffff:{F}"), "3fff:1000::", "documentation", "public", "public"),
        (&format!("3fff:ffff:ffff:ffff:{F}"), "4000::", &format!("5eff:ffff:ffff:ffff:{F}"), "5f00::", "not_global_unicast", "public", "srv6_sids"),
        (&format!("5eff:ffff:ffff:ffff:{F}"), "5f00::", &format!("5f00:ffff:ffff:ffff:{F}"), "5f01::", "srv6_sids", "not_global_unicast", "not_global_unicast"),
        (&format!("fbff:ffff:ffff:ffff:{F}"), "fc00::", &format!("fdff:ffff:ffff:ffff:{F}"), "fe00::", "unique_local", "not_global_unicast", "not_global_unicast"),
        ("fd00:ec2::253", "fd00:ec2::254", "fd00:ec2::254", "fd00:ec2::255", "metadata", "unique_local", "unique_local"),
        ("fd00:ec2::22", "fd00:ec2::23", "fd00:ec2::23", "fd00:ec2::24", "metadata", "unique_local", "unique_local"),
        ("fd20:ce::253", "fd20:ce::254", "fd20:ce::254", "fd20:ce::255", "metadata", "unique_local", "unique_local"),
        (&format!("fe7f:ffff:ffff:ffff:{F}"), "fe80::", &format!("febf:ffff:ffff:ffff:{F}"), "fec0::", "link_local", "not_global_unicast", "site_local"),
        (&format!("febf:ffff:ffff:ffff:{F}"), "fec0::", &format!("feff:ffff:ffff:ffff:{F}"), "ff00::", "site_local", "link_local", "multicast"),
        (&format!("feff:ffff:ffff:ffff:{F}"), "ff00::", &format!("ffff:ffff:ffff:ffff:{F}"), "", "multicast", "site_local", ""),
    ];
    for (before, first, last, after, is, kind_before, kind_after) in table {
        assert_eq!(kind(first), is, "{first}");
        assert_eq!(kind(last), is, "{last}");
        if !before.is_empty() {
            assert_eq!(kind(before), kind_before, "{before}");
        }
        if !after.is_empty() {
            assert_eq!(kind(after), kind_after, "{after}");
        }
    }
}

/// How each form writes `v4`, and the kind it has when `v4` is public.
fn forms(v4: Ipv4Addr) -> Vec<(Ipv6Addr, &'static str)> {
    let [a, b, c, d] = v4.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    vec![
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low), "ipv4_mapped"),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low), "ipv4_compatible"),
        (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low), "ipv4_translated"),
        (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low), "nat64"),
        (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low), "nat64_local"),
        (Ipv6Addr::new(0x64, 0xff9b, 1, 0xabcd, 0, 0, high, low), "nat64_local"),
        (Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1), "6to4"),
        (Ipv6Addr::new(0x2002, high, low, 7, 0xffff, 0xffff, 0, 0), "6to4"),
        (Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low), "teredo"),
        (Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0x5efe, high, low), "isatap"),
        (Ipv6Addr::new(0x2a00, 1, 2, 3, 0x200, 0x5efe, high, low), "isatap"),
        (Ipv6Addr::new(0x2a00, 1, 2, 3, 0x300, 0x5efe, high, low), "isatap"),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x5efe, high, low), "link_local"),
    ]
}

#[test]
fn an_embedded_address_is_judged_and_never_public() {
    for (v4, inner) in [
        ("127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("192.168.1.1", "private"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("198.18.0.1", "benchmarking"),
        ("8.8.8.8", ""),
        ("1.1.1.1", ""),
    ] {
        let v4: Ipv4Addr = v4.parse().expect("an address");
        for (v6, form) in forms(v4) {
            let expected = if inner.is_empty() { form } else { inner };
            assert_eq!(classify(IpAddr::V6(v6)).to_string(), expected, "{v4} in {v6}");
            assert_eq!(embedded_v4(v6), Some(v4), "{v6}");
        }
    }
    assert_eq!(kind("::7f00:1"), "loopback");
    assert_eq!(kind("::ffff:0:7f00:1"), "loopback");
    assert_eq!(kind("::ffff:a9fe:a9fe"), "metadata");
}

#[test]
fn an_address_that_carries_two_is_read_both_ways() {
    let v4s = |text: &str| -> Vec<String> {
        embedded_v4s(text.parse().expect("an address")).map(|v4| v4.to_string()).collect()
    };
    assert_eq!(v4s("2001:0:a00:1::f7f7:f7f7"), ["8.8.8.8", "10.0.0.1"], "teredo client, then server");
    assert_eq!(v4s("2002:808:808::5efe:a00:1"), ["8.8.8.8", "10.0.0.1"], "6to4 prefix, ISATAP interface");
    // RFC 6052 section 2.4 gives 192.0.2.33 under each prefix length; here the prefix is the local one.
    assert!(v4s("64:ff9b:1:c000:2:2100::").contains(&"192.0.2.33".to_owned()), "48");
    assert!(v4s("64:ff9b:1:aac0:0:221::").contains(&"192.0.2.33".to_owned()), "56");
    assert!(v4s("64:ff9b:1:aabb:c0:2:2100::").contains(&"192.0.2.33".to_owned()), "64");
    assert!(v4s("64:ff9b:1:aabb::c000:221").contains(&"192.0.2.33".to_owned()), "96");
    for none in ["::", "::1", "2606:4700:4700::1111", "fe80::1", "64:ff9c::7f00:1", "::1:0:0:7f00:1", "2003::1"] {
        assert!(v4s(none).is_empty(), "{none}");
    }
}

#[test]
fn the_great_public_resolvers_are_public() {
    for addr in
        ["1.1.1.1", "8.8.8.8", "9.9.9.9", "2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe", "2a00::1"]
    {
        assert!(classify(addr.parse().expect("an address")).is_public(), "{addr}");
    }
    assert!(classify(IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16))).is_metadata());
    assert!(!classify(IpAddr::V4(Ipv4Addr::LOCALHOST)).is_metadata());
}

#[test]
fn the_synthetic_range_is_one_registry_entry() {
    assert_eq!(classify(IpAddr::V4(SYNTHETIC_V4.network())), AddressClass::Special("benchmarking"));
    assert_eq!(classify(IpAddr::V4(SYNTHETIC_V4.broadcast())), AddressClass::Special("benchmarking"));
}

#[test]
fn no_row_is_hidden_behind_an_earlier_wider_one() {
    for (at, row) in registry::V4.iter().enumerate() {
        let hidden = registry::V4[..at]
            .iter()
            .any(|earlier| row.base & earlier.mask == earlier.base && earlier.mask <= row.mask);
        assert!(!hidden, "{row:?}");
    }
    for (at, row) in registry::V6.iter().enumerate() {
        let hidden = registry::V6[..at]
            .iter()
            .any(|earlier| row.base & earlier.mask == earlier.base && earlier.mask <= row.mask);
        assert!(!hidden, "{row:?}");
    }
}

proptest! {
    #[test]
    fn only_global_unicast_without_an_embedded_address_is_public(bits in any::<u128>()) {
        let addr = Ipv6Addr::from_bits(bits);
        if classify(IpAddr::V6(addr)).is_public() {
            prop_assert_eq!(bits >> 125, 1);
            prop_assert_eq!(embedded_v4(addr), None);
        }
    }

    #[test]
    fn what_std_calls_special_is_never_public(bits in any::<u32>()) {
        let addr = Ipv4Addr::from_bits(bits);
        let special = addr.is_private() || addr.is_loopback() || addr.is_link_local() || addr.is_multicast()
            || addr.is_broadcast() || addr.is_documentation() || addr.is_unspecified();
        if special {
            prop_assert!(!classify(IpAddr::V4(addr)).is_public());
        }
        for (v6, _) in forms(addr) {
            prop_assert!(!classify(IpAddr::V6(v6)).is_public(), "{}", v6);
        }
    }
}
