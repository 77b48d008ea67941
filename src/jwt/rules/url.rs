//! URLs as Go's `net/url` accepts and refuses them, in its strict form of Go 1.26.
//!
//! The `url` crate is in the tree, but it cannot decide here: it follows the WHATWG grammar, which accepts and repairs
//! other texts than Go does. nats-server's jwt library asks `net/url`, and a token must get the same verdict from both;
//! the vectors under `tests/vectors` check that. Only the parts that a rule looks at are kept.

use std::net::Ipv6Addr;

/// The parts of a URL that rules look at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'u> {
    /// In lower case; empty if there is none.
    pub(super) scheme: String,
    /// Whether user information stands before the host.
    pub(super) has_user: bool,
    /// Without brackets and port; empty if there is none.
    pub(super) host_name: &'u str,
    pub(super) path: &'u str,
}

/// A part of a URL: it decides which bytes are allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    Zone,
    Other,
}

impl<'u> Url<'u> {
    /// The parts of `text`, or what is wrong with it.
    pub(super) fn parse(text: &'u str) -> Result<Self, &'static str> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err("it holds a control character");
        }
        check_escapes(fragment, Place::Other)?;
        let (scheme, rest) = split_scheme(text)?;
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            has_user: false,
            host_name: "",
            path: "",
        };
        let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
        if !rest.starts_with('/') {
            // Such as mailto:name; or a path without a slash in front.
            let segment = rest.split('/').next().unwrap_or_default();
            if scheme.is_empty() && segment.contains(':') {
                return Err("it has a colon where a scheme would stand");
            }
            if scheme.is_empty() {
                check_escapes(rest, Place::Other)?;
                url.path = rest;
            }
            return Ok(url);
        }
        let authority = rest
            .strip_prefix("//")
            .filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
        url.path = rest;
        if let Some(authority) = authority {
            let end = authority.find('/').unwrap_or(authority.len());
            url.path = &authority[end..];
            let authority = &authority[..end];
            let (user, host) = authority
                .rsplit_once('@')
                .map_or((None, authority), |(user, host)| (Some(user), host));
            url.host_name = host_name(&url.scheme, host)?;
            url.has_user = user.is_some();
            check_user(user.unwrap_or_default())?;
        }
        check_escapes(url.path, Place::Other)?;
        Ok(url)
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("its scheme is missing"),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_user(user: &str) -> Result<(), &'static str> {
    if user
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte))
    {
        check_escapes(user, Place::Other)
    } else {
        Err("its user information holds a character that does not belong there")
    }
}

fn host_name<'u>(scheme: &str, host: &'u str) -> Result<&'u str, &'static str> {
    let port_fits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    match host.rfind('[') {
        Some(0) => {
            let (name, port) = host[1..].rsplit_once(']').ok_or("its host lacks a ']'")?;
            if !(port.is_empty() || port.strip_prefix(':').is_some_and(port_fits)) {
                return Err("its port is no number");
            }
            let (address, zone) = name.split_at(name.find("%25").unwrap_or(name.len()));
            check_escapes(address, Place::Host)?;
            check_escapes(zone, Place::Zone)?;
            if address.parse::<Ipv6Addr>().is_err() || zone == "%25" {
                return Err("its brackets hold no IPv6 address");
            }
            Ok(name)
        }
        Some(_) => Err("it has a bracket within its host"),
        None => {
            check_escapes(host, Place::Host)?;
            let (first, last) = (host.find(':'), host.rfind(':'));
            // Other schemes are used with lists of hosts, so Go accepts more than one colon there.
            if first != last && matches!(scheme, "http" | "https") {
                return Err("its host holds more than one colon");
            }
            let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
            if port_fits(port) {
                Ok(name)
            } else {
                Err("its port is no number")
            }
        }
    }
}

/// Checks that each `%` begins an escape of two hexadecimal digits, and that a host or zone has and escapes only the
/// bytes that Go allows there.
fn check_escapes(text: &str, place: Place) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            if place != Place::Other && bytes[at] < 0x80 && !fits_host(bytes[at]) {
                return Err("its host holds a character that does not belong there");
            }
            at += 1;
            continue;
        }
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
            return Err("it has a % that begins no escape");
        };
        let byte = u8::try_from(high * 16 + low).unwrap_or_default();
        let fits = match place {
            Place::Other => true,
            Place::Host => byte >= 0x80 || byte == b'%',
            Place::Zone => byte >= 0x80 || byte == b'%' || byte == b' ' || fits_host(byte),
        };
        if !fits {
            return Err("its host escapes a character that does not need it");
        }
        at += 3;
    }
    Ok(())
}

fn fits_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}
