//! From TOML values to ours, one at a time.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use lb_common::hash::PORTS_PER_BUCKET;
use toml::de::DeValue;

use super::reader::Bad;
use crate::health::request::{self, HeaderError, MAX_HEADER_VALUE};
use crate::model::Header;

/// No timeout in the file is longer: the data path counts time in 32-bit ticks that wrap after 78 hours.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn text<'a>(value: &'a DeValue<'_>, example: &str) -> Result<&'a str, Bad> {
    value.as_str().ok_or_else(|| Bad::type_of(value, &format!("a string, as {example}")))
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Bad> {
    value.as_bool().ok_or_else(|| Bad::type_of(value, "true or false"))
}

/// A whole number of this range.
pub(super) fn integer(first: u32, last: u32) -> impl Fn(&DeValue<'_>) -> Result<u32, Bad> {
    move |value| {
        let wanted = format!("a whole number of {first} to {last}");
        let Some(integer) = value.as_integer() else { return Err(Bad::type_of(value, &wanted)) };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|n| u32::try_from(n).ok()).filter(|n| (first..=last).contains(n));
        number.ok_or_else(|| {
            Bad::new(format!("{} is out of range", integer.as_str()), format!("give {wanted}"))
        })
    }
}

/// A duration of this range, both ends included.
pub(super) fn duration(first: Duration, last: Duration) -> impl Fn(&DeValue<'_>) -> Result<Duration, Bad> {
    use humantime::format_duration as show;
    move |value| {
        let advice =
            || format!("give a duration of {} to {}, as \"2s\" or \"1m 30s\"", show(first), show(last));
        let Some(text) = value.as_str() else {
            return Err(Bad::new(Bad::type_of(value, "").reason, advice()));
        };
        let duration = humantime::parse_duration(text)
            .map_err(|e| Bad::new(format!("{text:?} is not a duration ({e})"), advice()))?;
        if (first..=last).contains(&duration) {
            Ok(duration)
        } else {
            Err(Bad::new(format!("{text:?} is out of range"), advice()))
        }
    }
}

/// One of these words; some are understood and refused, because they do not exist yet.
pub(super) fn choice<T: Copy>(
    known: &'static [(&'static str, T)],
    later: &'static [&'static str],
) -> impl Fn(&DeValue<'_>) -> Result<T, Bad> {
    move |value| {
        let words: Vec<String> = known.iter().map(|(word, _)| format!("{word:?}")).collect();
        let wanted = words.join(" or ");
        let Some(text) = value.as_str() else { return Err(Bad::type_of(value, &wanted)) };
        match known.iter().find(|(word, _)| *word == text) {
            Some((_, choice)) => Ok(*choice),
            None if later.contains(&text) => {
                Err(Bad::new(format!("{text:?} is not available yet"), format!("use {wanted}")))
            }
            None => Err(Bad::new(format!("{text:?} is not known"), format!("use {wanted}"))),
        }
    }
}

/// A name that can be a metric label and stand in a table.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Bad> {
    let name = text(value, "\"superset\"")?;
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if (1..=63).contains(&name.len()) && name.chars().all(good) {
        return Ok(name.to_owned());
    }
    Err(Bad::new(
        format!("{name:?} is not a name"),
        "use 1 to 63 letters, digits, dots, dashes and underscores",
    ))
}

/// The name of a network interface, by the kernel's rules (`dev_valid_name`).
pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Bad> {
    let name = text(value, "\"eth0\"")?;
    let good = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if (1..=15).contains(&name.len()) && name.chars().all(good) && name != "." && name != ".." {
        return Ok(name.to_owned());
    }
    Err(Bad::new(format!("{name:?} is not an interface name"), "see `ip link` for the interfaces' names"))
}

/// An absolute path: the agent's working directory is nobody's business.
pub(super) fn file_path(value: &DeValue<'_>) -> Result<PathBuf, Bad> {
    let path = text(value, "\"/etc/evenkeel/token\"")?;
    if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') {
        return Ok(path.into());
    }
    Err(Bad::new(
        format!("{path:?} is not the absolute path of a file"),
        "begin with a slash and end with a name",
    ))
}

/// An absolute path that fits a socket's address.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, Bad> {
    let path = file_path(value)?;
    let length = path.as_os_str().len();
    if length < SOCKET_PATH {
        return Ok(path);
    }
    Err(Bad::new(format!("has {length} bytes"), format!("use a path of at most {} bytes", SOCKET_PATH - 1)))
}

/// Bytes of `sockaddr_un.sun_path`, the zero at its end included.
const SOCKET_PATH: usize = 108;

/// `ADDRESS:PORT` of anything.
pub(super) fn socket(value: &DeValue<'_>) -> Result<SocketAddr, Bad> {
    let advice = "give ADDRESS:PORT, as \"10.77.0.11:8088\" or \"[fd77::11]:8088\"";
    let Some(text) = value.as_str() else { return Err(Bad::new(Bad::type_of(value, "").reason, advice)) };
    let socket: SocketAddr =
        text.parse().map_err(|_| Bad::new(format!("{text:?} is not an address and port"), advice))?;
    if socket.port() == 0 {
        return Err(Bad::new("port 0 is no port", "give a port of 1 to 65535"));
    }
    Ok(socket)
}

/// `ADDRESS:PORT` that packets can be forwarded to or from.
pub(super) fn endpoint(value: &DeValue<'_>) -> Result<SocketAddr, Bad> {
    let socket = socket(value)?;
    unicast(socket.ip())?;
    Ok(socket)
}

/// An entry of `nat.addresses`: an address, or a prefix without host bits.
pub(super) fn network(value: &DeValue<'_>) -> Result<IpNet, Bad> {
    let text = text(value, "\"10.77.0.1\" or \"10.77.1.0/28\"")?;
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            Bad::new(
                format!("{text:?} is not an address or prefix"),
                "give an address, as \"10.77.0.1\", or a prefix, as \"10.77.1.0/28\"",
            )
        })?,
    };
    if net.addr() != net.network() {
        let advice = format!("give \"{}\" for the one address or \"{}\" for all", net.addr(), net.trunc());
        return Err(Bad::new(format!("{text:?} has bits behind the prefix"), advice));
    }
    unicast(net.addr())?;
    Ok(net)
}

/// How many addresses a prefix holds.
pub(super) fn address_count(net: &IpNet) -> u128 {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX >> 8)
}

fn unicast(address: IpAddr) -> Result<(), Bad> {
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "a link-local address, which is no use without its link"
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Err(Bad::new(format!("{address} is an IPv4-mapped address"), "write it as IPv4"));
        }
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(()),
    };
    Err(Bad::new(format!("{address} is {kind}"), "give a unicast address that is routed"))
}

/// `nat.ports`.
pub(super) fn ports(value: &DeValue<'_>) -> Result<(u16, u16), Bad> {
    let text = text(value, "\"1024-32767\"")?;
    let wrong = |reason: &str| Bad::new(format!("{text:?} {reason}"), "give FIRST-LAST, as \"1024-32767\"");
    let (first, last) = range::<u16>(text).ok_or_else(|| wrong("is not a range of ports"))?;
    if first == 0 {
        return Err(wrong("begins with port 0"));
    }
    if first > last {
        return Err(wrong("ends before it begins"));
    }
    if u32::from(last - first) + 1 < PORTS_PER_BUCKET {
        return Err(wrong("holds less than eight ports"));
    }
    Ok((first, last))
}

/// `expect_status`: a code or a range of codes; a lone code may be a number.
pub(super) fn status(value: &DeValue<'_>) -> Result<(u16, u16), Bad> {
    let advice = "give a code or a range of 100 to 599, as \"200\" or \"200-399\"";
    let (text, range) = match value {
        DeValue::Integer(code) => (code.to_string(), code.to_string().parse().ok().map(|c: u16| (c, c))),
        DeValue::String(text) => {
            (text.to_string(), range(text).or_else(|| text.trim().parse().ok().map(|c: u16| (c, c))))
        }
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => return Err(Bad::new(Bad::type_of(value, "").reason, advice)),
    };
    range
        .filter(|&(first, last)| 100 <= first && first <= last && last <= 599)
        .ok_or_else(|| Bad::new(format!("{text:?} is not a status"), advice))
}

/// `path` of a check.
pub(super) fn path(value: &DeValue<'_>) -> Result<String, Bad> {
    let path = text(value, "\"/health\"")?;
    request::path(path).map_err(|_| {
        Bad::new(
            format!("{path:?} is not a path"),
            "begin with a slash and leave out spaces, as \"/health\" or \"/health?full=1\"",
        )
    })?;
    Ok(path.to_owned())
}

/// `host` of a check.
pub(super) fn host(value: &DeValue<'_>) -> Result<String, Bad> {
    let host = text(value, "\"superset.example.com\"")?;
    request::host(host).map_err(|_| {
        Bad::new(format!("{host:?} is not a host"), "give a host name or address, with or without a port")
    })?;
    Ok(host.to_owned())
}

/// An entry of `headers` of a check. The value may be a secret and is in no message.
pub(super) fn header(name: &str, value: &DeValue<'_>) -> Result<Header, Bad> {
    let value = text(value, "\"session=...\"")?;
    let (name, _) =
        request::header(name, value).map_err(|why| Bad::new(why.to_string(), header_advice(why)))?;
    Ok(Header { name: name.to_string(), value: value.to_owned() })
}

fn header_advice(why: HeaderError) -> String {
    match why {
        HeaderError::Name => "use letters, digits and dashes".to_owned(),
        HeaderError::Taken => "remove it; for Host there is the key host".to_owned(),
        HeaderError::Value => format!("give at most {MAX_HEADER_VALUE} printable ASCII characters"),
    }
}

/// `expect_body` of a check.
pub(super) fn body(value: &DeValue<'_>) -> Result<String, Bad> {
    let body = text(value, "\"OK\"")?;
    if body.is_empty() || body.len() > 1024 {
        let reason = format!("has {} bytes", body.len());
        return Err(Bad::new(
            reason,
            "give 1 to 1024 bytes that occur in a good answer, or leave the key out",
        ));
    }
    Ok(body.to_owned())
}

fn range<T: std::str::FromStr>(text: &str) -> Option<(T, T)> {
    let (first, last) = text.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}
