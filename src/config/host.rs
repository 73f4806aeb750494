//! Decoders of host names and patterns.

use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::tree::Node;
use crate::host_pattern::HostPattern;
use crate::pattern_fault::PatternFault;

/// Decodes the name of a host, or `*.` and a domain.
pub(super) fn host(d: &mut Decoder<'_>, node: &Node) -> Option<HostPattern> {
    let text = d.word(node)?;
    accepted(d, node.at, HostPattern::parse(&text))
}

/// Decodes the name of a host. A pattern, such as `*.example`, is a fault.
pub(super) fn exact_host(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    match host(d, node)? {
        HostPattern::Exact(name) => Some(name),
        pattern @ HostPattern::Under(_) => {
            d.fault(node.at, format!("`{pattern}`: each name is listed by itself here"));
            None
        }
    }
}

/// Returns a parsed pattern, or reports its fault at the position `at`.
pub(super) fn accepted<T>(d: &mut Decoder<'_>, at: Position, parsed: Result<T, PatternFault>) -> Option<T> {
    parsed.map_err(|fault| d.fault(at, fault.message).hint = fault.hint).ok()
}
