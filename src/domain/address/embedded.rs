//! IPv4 addresses inside IPv6 ones.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Most IPv4 addresses that one IPv6 address can be read to carry: a local-use NAT64 address by its
/// four possible prefix lengths, plus the interface id.
const MAX_EMBEDDED: usize = 5;

/// The IPv4 address that `addr` carries, by the first form that fits: mapped `::ffff:a.b.c.d`, compatible
/// `::a.b.c.d` (RFC 4291), translated `::ffff:0:a.b.c.d` (RFC 2765), NAT64 (RFC 6052, RFC 8215), 6to4
/// (RFC 3056), the client of Teredo (RFC 4380), ISATAP (RFC 5214).
pub fn embedded_v4(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    embedded_v4s(addr).next()
}

/// Every IPv4 address that `addr` can be read to carry, the likeliest first: for Teredo also the server,
/// for local-use NAT64 the address by every prefix length, and an ISATAP interface id below any prefix.
/// A denied IPv4 range must match any of them.
pub fn embedded_v4s(addr: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = addr.to_bits();
    let mut found = [None; MAX_EMBEDDED];
    match addr.segments() {
        // `::` and `::1` are addresses of their own, not compatible forms of 0.0.0.0 and 0.0.0.1.
        [0, 0, 0, 0, 0, 0, ..] if bits > 1 => found[0] = Some(v4_at(bits, 96)),
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            found[0] = Some(v4_at(bits, 96));
        }
        [0x64, 0xff9b, 1, ..] => {
            // The operator's prefix is 96, 64, 56 or 48 bits long. Below 96 the octet at bits 64 to 71
            // is left out (RFC 6052 section 2.2).
            found[0] = Some(v4_at(bits, 96));
            found[1] = Some(v4_at(bits, 72));
            found[2] = Some(v4_around_u(bits, 56));
            found[3] = Some(v4_around_u(bits, 48));
        }
        [0x2002, ..] => found[0] = Some(v4_at(bits, 16)),
        [0x2001, 0, ..] => {
            // The client's address is written inverted, so that a NAT does not rewrite it.
            found[0] = Some(v4_at(!bits, 96));
            found[1] = Some(v4_at(bits, 32));
        }
        _ => {}
    }
    if is_isatap(bits) {
        found[MAX_EMBEDDED - 1] = Some(v4_at(bits, 96));
    }
    found.into_iter().flatten()
}

/// An interface id of `::0:5efe:a.b.c.d` with the universal and group bits either way.
const fn is_isatap(bits: u128) -> bool {
    let interface_id_high = (bits >> 32) as u32;
    interface_id_high & !0x0300_0000 == 0x0000_5efe
}

/// The 32 bits that start `offset` bits from the left.
const fn v4_at(bits: u128, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((bits >> (96 - offset)) as u32)
}

/// The same without the octet at bits 64 to 71.
const fn v4_around_u(bits: u128, offset: u32) -> Ipv4Addr {
    let before = 64 - offset;
    let head = (bits >> 64) as u32 & ((1 << before) - 1);
    let tail = (bits >> (96 - 8 - offset)) as u32 & (u32::MAX >> before);
    Ipv4Addr::from_bits((head << (32 - before)) | tail)
}
