//! Why there is no plan.

use std::net::SocketAddr;

use lb_common::node::{MAX_PORTS, MAX_SNAT_ADDRESSES, MAX_SNAT_RANGES};

/// Why there is no plan. The configuration is checked for all of this before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Service ids ran out.
    #[error("service {0}: more than {max} services", max = lb_common::service::MAX_SERVICES)]
    TooManyServices(String),
    /// Backend ids ran out.
    #[error("service {0}, backend {1}: more than {max} backends", max = lb_common::backend::MAX_BACKENDS - 1)]
    TooManyBackends(String, String),
    /// Two services for one address and port.
    #[error("service {0}: another service has the address {1}")]
    DuplicateService(String, SocketAddr),
    /// Two backends of one service for one address and port.
    #[error("service {0}: two backends have the address {1}")]
    DuplicateBackend(String, SocketAddr),
    /// More interfaces than the map holds.
    #[error("interface {0}: more than {MAX_PORTS} interfaces")]
    TooManyPorts(String),
    /// More entries of `nat.addresses` than the map holds.
    #[error("nat.addresses: more than {MAX_SNAT_RANGES} entries")]
    TooManyRanges,
    /// More SNAT addresses than the table has blocks.
    #[error("nat.addresses: {0} makes it more than {MAX_SNAT_ADDRESSES} addresses")]
    TooManyAddresses(ipnet::IpNet),
    /// No bucket fits.
    #[error("nat.ports: {0}-{1} holds no eight ports")]
    TooFewPorts(u16, u16),
}
