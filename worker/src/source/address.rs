//! Which addresses cameras may have.
//!
//! A tenant chooses a camera's address, the provider owns the network the server stands in: without a policy a camera
//! "address" could be the server's own services or a cloud's metadata endpoint. Pure. Invariant: the address that was
//! checked is the address that is connected to; whoever resolves a name passes on the address, never the name.

use std::net::IpAddr;

use ipnet::IpNet;

/// Which addresses may be connected to, and whether a password may go there in clear text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
    allows_basic: bool,
}

impl AddressPolicy {
    /// Exactly these networks; or, if there are none, every unicast address that is not loopback, link-local or
    /// unspecified.
    pub const fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed, allows_basic: false }
    }

    /// The same, and whether cameras that want their password in clear text (Basic, RFC 7617) get it.
    pub fn with_basic(self, allows_basic: bool) -> Self {
        Self { allows_basic, ..self }
    }

    /// Whether a password may be told in clear text.
    pub const fn allows_basic(&self) -> bool {
        self.allows_basic
    }

    /// Whether `address` may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        // `::ffff:127.0.0.1` is 127.0.0.1 (RFC 4291, section 2.5.5.2).
        let address = address.to_canonical();
        if self.allowed.is_empty() {
            return match address {
                IpAddr::V4(v4) => {
                    // 240.0.0.0/4 is reserved (RFC 1112, section 4), 0.0.0.0/8 is "this network" (RFC 791).
                    !(v4.is_loopback()
                        || v4.is_link_local()
                        || v4.is_multicast()
                        || v4.is_broadcast()
                        || v4.octets()[0] == 0
                        || v4.octets()[0] >= 240)
                }
                IpAddr::V6(v6) => {
                    !(v6.is_loopback()
                        || v6.is_unspecified()
                        || v6.is_multicast()
                        || v6.is_unicast_link_local())
                }
            };
        }
        self.allowed.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &AddressPolicy, address: &str) -> bool {
        policy.allows(address.parse().unwrap())
    }

    #[test]
    fn without_a_list_every_ordinary_address_is_allowed() {
        let policy = AddressPolicy::default();
        for address in ["10.0.0.7", "192.168.1.2", "172.16.0.1", "203.0.113.5", "fd00::1", "2001:db8::1"] {
            assert!(allows(&policy, address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
        ] {
            assert!(!allows(&policy, address), "{address}");
        }
    }

    #[test]
    fn with_a_list_exactly_it_is_allowed() {
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()]);
        assert!(
            allows(&policy, "127.0.0.1")
                && allows(&policy, "::ffff:127.0.0.1")
                && allows(&policy, "10.1.2.3")
        );
        assert!(!allows(&policy, "10.2.0.1") && !allows(&policy, "::1") && !allows(&policy, "203.0.113.5"));
    }
}
