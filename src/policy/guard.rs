//! DNS past the gateway: names and ports that carry look-ups where no rule can see them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::domain::{Host, Target};

/// DNS (RFC 1035, RFC 7766) and DNS over TLS (RFC 7858).
const DNS_PORTS: [u16; 2] = [53, 853];

/// Public DNS-over-HTTPS services (RFC 8484), each with everything below it.
const DOH_HOSTS: [&str; 32] = [
    "adguard-dns.com",
    "cloudflare-dns.com",
    "cloudflare-gateway.com",
    "dns-unfiltered.adguard.com",
    "dns.adguard.com",
    "dns.alidns.com",
    "dns.controld.com",
    "dns.digitale-gesellschaft.ch",
    "dns.google",
    "dns.google.com",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.quad9.net",
    "dns.sb",
    "dns.switch.ch",
    "dns.twnic.tw",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "dns64.dns.google",
    "dns9.quad9.net",
    "dns.umbrella.com",
    "doh.applied-privacy.net",
    "doh.cleanbrowsing.org",
    "doh.dns.sb",
    "doh.familyshield.opendns.com",
    "doh.libredns.gr",
    "doh.opendns.com",
    "doh.pub",
    "doh.umbrella.com",
    "dns0.eu",
    "freedns.controld.com",
    "one.one.one.one",
];

/// The same services by address.
const DOH_ADDRESSES: [IpAddr; 14] = [
    IpAddr::V4(Ipv4Addr::new(1, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)),
    IpAddr::V4(Ipv4Addr::new(149, 112, 112, 112)),
    IpAddr::V4(Ipv4Addr::new(208, 67, 220, 220)),
    IpAddr::V4(Ipv4Addr::new(208, 67, 222, 222)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1001)),
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)),
    IpAddr::V6(Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0x9)),
    IpAddr::V6(Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe)),
];

/// Whether `target` would carry DNS past the gateway. Only a rule that names exactly this host lets it through.
pub(super) fn carries_dns(target: &Target) -> bool {
    DNS_PORTS.contains(&target.port)
        || match &target.host {
            Host::Addr(addr) => DOH_ADDRESSES.contains(&addr.to_canonical()),
            Host::Name(name) => is_doh_host(name.as_str()),
        }
}

fn is_doh_host(name: &str) -> bool {
    let below = |host: &str| name.strip_suffix(host).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    DOH_HOSTS.iter().any(|host| below(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_ports_and_known_resolvers_carry_dns() {
        for (target, carries) in [
            ("example.org:53", true),
            ("example.org:853", true),
            ("dns.google:443", true),
            ("abc123.dns.nextdns.io:443", true),
            ("mozilla.cloudflare-dns.com:443", true),
            ("doh.opendns.com:80", true),
            ("1.1.1.1:443", true),
            ("[::ffff:1.1.1.1]:443", true),
            ("[2606:4700:4700::1111]:443", true),
            ("example.org:443", false),
            ("notdns.google:443", false),
            ("dns.google.example.org:443", false),
            ("1.1.1.2:443", false),
        ] {
            let target = Target::parse(target.as_bytes(), None).expect("target");
            assert_eq!(carries_dns(&target), carries, "{target}");
        }
    }
}
