//! Host patterns of routes: a host, or `*.` and a domain.
//!
//! `config` parses host patterns; `route` and `guard` use them. Invariant: a pattern is written as
//! `guard` writes the hosts of requests, in lower case, without a port and without a final dot, so
//! that each pattern can match some host.

use std::net::Ipv6Addr;

use crate::pattern_fault::PatternFault;

/// A parsed host pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostPattern {
    /// One host, by its exact name.
    Exact(String),
    /// All hosts with one label or more before a domain: `*.example.com`, stored as `.example.com`.
    Under(String),
}

impl HostPattern {
    /// Parses a host pattern. Upper case is turned into lower case, because names ignore case (RFC
    /// 4343).
    ///
    /// # Errors
    ///
    /// Fails if no request can name the host.
    pub(crate) fn parse(text: &str) -> Result<HostPattern, PatternFault> {
        let host = text.to_ascii_lowercase();
        let (wildcard, name) = match host.strip_prefix("*.") {
            Some(name) => ("*.", name),
            None => ("", host.as_str()),
        };
        if is_name(name) || (wildcard.is_empty() && is_canonical_ipv6(name)) {
            return Ok(match wildcard {
                "" => HostPattern::Exact(name.to_owned()),
                _ => HostPattern::Under(format!(".{name}")),
            });
        }
        let right = respelled(name).map(|right| format!("{wildcard}{right}"));
        let right = right.filter(|right| *right != host && HostPattern::parse(right).is_ok());
        let example =
            || "a name or an address without a port, as in api.example.com or *.example.com".to_owned();
        Err(PatternFault {
            message: format!("`{text}` is no host that a request could name"),
            hint: Some(right.map_or_else(example, |right| format!("{right} is meant?"))),
        })
    }

    /// Whether this pattern matches a request's canonical host.
    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => host == name,
            HostPattern::Under(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// Whether this pattern matches every host that `narrow` matches.
    pub(crate) fn covers(&self, narrow: &HostPattern) -> bool {
        match narrow {
            HostPattern::Exact(name) => self.matches(name),
            HostPattern::Under(suffix) => {
                matches!(self, HostPattern::Under(own) if suffix.ends_with(own.as_str()))
            }
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Under(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Whether a host is a name, in upper or lower case: labels that are not empty, with dots between
/// them. An IPv4 address counts as a name, too.
pub(crate) fn is_name(host: &str) -> bool {
    let mut previous = b'.';
    for byte in host.bytes() {
        let is_sound = match byte {
            b'.' => previous != b'.',
            _ => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
        };
        if !is_sound {
            return false;
        }
        previous = byte;
    }
    previous != b'.' && host.len() <= 255
}

/// Whether a host is an IPv6 address in brackets, as RFC 5952 writes it.
fn is_canonical_ipv6(host: &str) -> bool {
    ipv6(host).is_some_and(|address| host == format!("[{address}]"))
}

fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Returns the host that was most likely meant by a name that no request can have.
pub(crate) fn respelled(name: &str) -> Option<String> {
    // People often paste the whole URL of a page.
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let name = name.split('/').next().unwrap_or_default();
    if let Ok(address) = name.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        return Some(format!("[{address}]"));
    }
    let name = match name.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    };
    if let Some(address) = ipv6(name) {
        return Some(format!("[{address}]"));
    }
    let name = name.trim_end_matches('.').trim_start_matches('.');
    let labels = name.split(['.', '\u{3002}']).map(|label| match label.is_ascii() {
        true => Some(label.to_owned()),
        false => punycode(&label.to_lowercase()).map(|label| format!("xn--{label}")),
    });
    labels.collect::<Option<Vec<_>>>().map(|labels| labels.join("."))
}

/// Encodes a label in ASCII by Punycode (RFC 3492, section 6.3, with the parameters of section 5).
fn punycode(label: &str) -> Option<String> {
    const BASE: u32 = 36;
    const SKEW: u32 = 38;
    const FIRST: u32 = 128;
    let (mut n, mut delta, mut bias) = (FIRST, 0_u32, 72);
    let mut out: String = label.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(out.len()).ok()?;
    let total = u32::try_from(label.chars().count()).ok()?;
    if basic > 0 {
        out.push('-');
    }
    let mut handled = basic;
    while handled < total {
        let next = label.chars().map(u32::from).filter(|c| *c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(handled + 1)?)?;
        n = next;
        for c in label.chars().map(u32::from) {
            if c < n {
                delta = delta.checked_add(1)?;
            }
            if c != n {
                continue;
            }
            let (mut q, mut k) = (delta, BASE);
            loop {
                let threshold = k.saturating_sub(bias).clamp(1, 26);
                if q < threshold {
                    break;
                }
                out.push(digit(threshold + (q - threshold) % (BASE - threshold))?);
                q = (q - threshold) / (BASE - threshold);
                k += BASE;
            }
            out.push(digit(q)?);
            // The bias is adapted as in RFC 3492, section 6.1.
            let mut scaled = if handled == basic { delta / 700 } else { delta / 2 };
            scaled += scaled / (handled + 1);
            let mut steps = 0;
            while scaled > (BASE - 1) * 26 / 2 {
                scaled /= BASE - 1;
                steps += BASE;
            }
            bias = steps + BASE * scaled / (scaled + SKEW);
            delta = 0;
            handled += 1;
        }
        delta = delta.checked_add(1)?;
        n += 1;
    }
    Some(out)
}

fn digit(value: u32) -> Option<char> {
    match value {
        0..=25 => char::from_u32(u32::from(b'a') + value),
        _ => char::from_u32(u32::from(b'0') + value - 26),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_no_request_could_name_is_refused_with_the_one_that_is_meant() {
        for (text, right) in [
            ("api.example.com:8443", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("https://api.example.com/v1", "api.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
            ("münchen.de", "xn--mnchen-3ya.de"),
            ("例え.jp", "xn--r8jz45g.jp"),
            ("::1", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[2001:0DB8::1]", "[2001:db8::1]"),
            ("*.example.com:443", "*.example.com"),
            (".example.com", "example.com"),
        ] {
            let fault = HostPattern::parse(text).unwrap_err();
            assert_eq!(fault.hint, Some(format!("{right} is meant?")), "{text}");
        }
        for text in [
            "",
            "*",
            "*.",
            "a..b",
            "*example.com",
            "api.*",
            "*.*.com",
            "a b",
            "u@a",
            "a/b/",
            "*.[::1]",
            "*.::1",
        ] {
            let fault = HostPattern::parse(text);
            assert!(fault.is_err(), "{text}: {fault:?}");
        }
    }

    #[test]
    fn hosts_match_and_cover() {
        let host = |text: &str| HostPattern::parse(text).unwrap();
        assert!(host("API.example").matches("api.example"));
        assert!(host("*.b.example").matches("x.b.example") && !host("*.b.example").matches("b.example"));
        assert!(!host("*.b.example").matches("evilb.example"));
        assert!(host("*.b").covers(&host("x.b")) && host("*.b").covers(&host("*.x.b")));
        assert!(!host("*.b").covers(&host("b")) && !host("x.b").covers(&host("*.b")));
        assert!(host("*.b").covers(&host("*.b")) && host("[::1]").matches("[::1]"));
    }
}
