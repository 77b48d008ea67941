//! Where a request comes from, as far as limits tell clients apart.

use std::net::{IpAddr, Ipv6Addr};

/// Whose request it is: what one client may take of something that all share is counted for each of these. The port
/// puts it into the extensions of every request that is not a lookup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A client on this machine, over the admin socket: it shares its limits with no other.
    #[default]
    Local,
    /// An address: of IPv6 the first 64 bits, because one client has all that begin with these.
    Address(IpAddr),
}

impl Origin {
    /// The origin of a connection from `address`.
    pub fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_one_address_and_in_ipv6_one_network() {
        let origin = |text: &str| Origin::of(text.parse().expect("an address"));
        for (one, other, same) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(origin(one) == origin(other), same, "{one} and {other}");
        }
    }
}
