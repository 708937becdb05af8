//! The tables: IANA IPv4 and IPv6 Special-Purpose Address Registries, the multicast ranges, and the
//! metadata services of clouds.
//!
//! Most specific first: the first row that fits names the address. A test holds that no row is hidden.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A metadata service, whatever range it lies in.
pub(super) const METADATA: &str = "metadata";

/// An ISATAP interface id below a prefix that is not special by itself.
pub(super) const ISATAP: &str = "isatap";

/// Outside 2000::/3, the only IPv6 space that IANA allocates as global unicast.
const NOT_GLOBAL_UNICAST: &str = "not_global_unicast";

/// A prefix and the short name of its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<Bits> {
    pub(super) base: Bits,
    pub(super) mask: Bits,
    pub(super) kind: &'static str,
}

const fn v4(octets: [u8; 4], len: u32, kind: &'static str) -> Block<u32> {
    let base = u32::from_be_bytes(octets);
    let mask = u32::MAX << (32 - len);
    assert!(base & !mask == 0, "the prefix has host bits");
    Block { base, mask, kind }
}

const fn v6(segments: [u16; 8], len: u32, kind: &'static str) -> Block<u128> {
    let [a, b, c, d, e, f, g, h] = segments;
    let base = Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits();
    let mask = u128::MAX << (128 - len);
    assert!(base & !mask == 0, "the prefix has host bits");
    Block { base, mask, kind }
}

pub(super) fn v4_kind(addr: Ipv4Addr) -> Option<&'static str> {
    let bits = addr.to_bits();
    V4.iter().find(|block| bits & block.mask == block.base).map(|block| block.kind)
}

pub(super) fn v6_kind(addr: Ipv6Addr) -> Option<&'static str> {
    let bits = addr.to_bits();
    V6.iter()
        .find(|block| bits & block.mask == block.base)
        .map(|block| block.kind)
        .or((bits >> 125 != 0b001).then_some(NOT_GLOBAL_UNICAST))
}

#[rustfmt::skip]
pub(super) const V4: &[Block<u32>] = &[
    // Metadata services.
    v4([169, 254, 169, 254], 32, METADATA),      // AWS, Azure, Google, OpenStack and most others
    v4([169, 254, 170, 2],   32, METADATA),      // AWS ECS task credentials
    v4([169, 254, 170, 23],  32, METADATA),      // AWS EKS pod identity
    v4([100, 100, 100, 200], 32, METADATA),      // Alibaba
    v4([168, 63, 129, 16],   32, METADATA),      // Azure WireServer; its range is public
    v4([192, 0, 0, 192],     32, METADATA),      // Oracle Cloud classic
    // IANA IPv4 Special-Purpose Address Registry.
    v4([0, 0, 0, 0],         32, "unspecified"),      // RFC 1122 section 3.2.1.3; Linux dials itself
    v4([0, 0, 0, 0],          8, "this_network"),     // RFC 791 section 3.2
    v4([10, 0, 0, 0],         8, "private"),          // RFC 1918
    v4([100, 64, 0, 0],      10, "shared"),           // RFC 6598, carrier-grade NAT
    v4([127, 0, 0, 0],        8, "loopback"),         // RFC 1122 section 3.2.1.3
    v4([169, 254, 0, 0],     16, "link_local"),       // RFC 3927
    v4([172, 16, 0, 0],      12, "private"),          // RFC 1918
    v4([192, 0, 0, 0],       29, "ds_lite"),          // RFC 7335, IPv4 service continuity
    v4([192, 0, 0, 8],       32, "dummy"),            // RFC 7600
    v4([192, 0, 0, 9],       32, "pcp_anycast"),      // RFC 7723
    v4([192, 0, 0, 10],      32, "turn_anycast"),     // RFC 8155
    v4([192, 0, 0, 170],     31, "nat64_discovery"),  // RFC 8880, RFC 7050: .170 and .171
    v4([192, 0, 0, 0],       24, "ietf_protocol"),    // RFC 6890 section 2.1
    v4([192, 0, 2, 0],       24, "documentation"),    // RFC 5737, TEST-NET-1
    v4([192, 31, 196, 0],    24, "as112"),            // RFC 7535
    v4([192, 52, 193, 0],    24, "amt"),              // RFC 7450
    v4([192, 88, 99, 2],     32, "6a44_relay"),       // RFC 6751
    v4([192, 88, 99, 0],     24, "6to4_relay"),       // RFC 7526, deprecated
    v4([192, 168, 0, 0],     16, "private"),          // RFC 1918
    v4([192, 175, 48, 0],    24, "as112"),            // RFC 7534
    v4([198, 18, 0, 0],      15, "benchmarking"),     // RFC 2544; the synthetic range lies here
    v4([198, 51, 100, 0],    24, "documentation"),    // RFC 5737, TEST-NET-2
    v4([203, 0, 113, 0],     24, "documentation"),    // RFC 5737, TEST-NET-3
    v4([255, 255, 255, 255], 32, "broadcast"),        // RFC 8190, RFC 919
    v4([240, 0, 0, 0],        4, "reserved"),         // RFC 1112 section 4
    // IANA IPv4 Multicast Address Space Registry.
    v4([224, 0, 0, 0],        4, "multicast"),        // RFC 5771
];

#[rustfmt::skip]
pub(super) const V6: &[Block<u128>] = &[
    // Metadata services.
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254], 128, METADATA),      // AWS
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23],  128, METADATA),      // AWS EKS pod identity
    v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254], 128, METADATA),      // Google
    // IANA IPv6 Special-Purpose Address Registry.
    v6([0, 0, 0, 0, 0, 0, 0, 1],               128, "loopback"),             // RFC 4291
    v6([0, 0, 0, 0, 0, 0, 0, 0],               128, "unspecified"),          // RFC 4291
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0],           96, "ipv4_mapped"),          // RFC 4291
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0],        96, "nat64"),                // RFC 6052
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0],        48, "nat64_local"),          // RFC 8215
    v6([0x100, 0, 0, 0, 0, 0, 0, 0],            64, "discard"),              // RFC 6666
    v6([0x100, 0, 0, 1, 0, 0, 0, 0],            64, "dummy"),                // RFC 9780
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0],           32, "teredo"),               // RFC 4380
    v6([0x2001, 1, 0, 0, 0, 0, 0, 1],          128, "pcp_anycast"),          // RFC 7723
    v6([0x2001, 1, 0, 0, 0, 0, 0, 2],          128, "turn_anycast"),         // RFC 8155
    v6([0x2001, 1, 0, 0, 0, 0, 0, 3],          128, "dns_sd_srp_anycast"),   // RFC 9665
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0],           48, "benchmarking"),         // RFC 5180
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0],           32, "amt"),                  // RFC 7450
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0],       48, "as112"),                // RFC 7535
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0],        28, "orchid"),               // RFC 4843, deprecated
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0],        28, "orchid_v2"),            // RFC 7343
    v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0],        28, "drone_remote_id"),      // RFC 9374
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0],           23, "ietf_protocol"),        // RFC 2928
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0],       32, "documentation"),        // RFC 3849
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0],           16, "6to4"),                 // RFC 3056
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0],   48, "as112"),                // RFC 7534
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0],           20, "documentation"),        // RFC 9637
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0],           16, "srv6_sids"),            // RFC 9602
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0],            7, "unique_local"),         // RFC 4193
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0],           10, "link_local"),           // RFC 4291
    // Named by RFCs, not in that registry.
    v6([0, 0, 0, 0, 0, 0, 0, 0],                96, "ipv4_compatible"),      // RFC 4291, deprecated
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0],           96, "ipv4_translated"),      // RFC 2765
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0],           10, "site_local"),           // RFC 3879, deprecated
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0],            8, "multicast"),            // RFC 4291
];
