//! The file of denied tokens, `auth.deny`.

use std::path::Path;

use crate::bom;
use crate::config::decode::Decoder;
use crate::config::fault::{Fault, Faults};
use crate::config::tree::{self, Node, Quoting};

/// What a file of denied tokens says.
#[derive(Debug)]
pub(crate) struct WrittenDenied {
    /// Ids of tokens, as their claim `jti` has them (RFC 7519, section 4.1.7).
    pub(crate) jti: Vec<String>,
    /// Holders, as the claim `sub` has them; `*` stands for any characters.
    pub(crate) sub: Vec<String>,
}

/// Parses a file of denied tokens: `jti` and `sub`, at least one of them, each a list.
///
/// # Errors
///
/// All faults of the file.
pub(crate) fn parse(path: &Path, text: &str) -> Result<WrittenDenied, Faults> {
    let Some(root) = tree::parse(path, bom::without(text), Quoting::Allowed)? else {
        let fault = Fault::of_file(path, "the file of denied tokens is empty");
        return Err(fault.hint("`jti: []` says that no token is denied").into());
    };
    let mut decoder = Decoder::new(path, Quoting::Allowed, None);
    let lists = decoder.fields(&root, "denied tokens").map(|mut fields| {
        let jti = decoder.given(&mut fields, "jti", |d, node| d.list(node, token_id));
        let sub = decoder.given(&mut fields, "sub", |d, node| d.list(node, holder));
        let lists = [jti, sub];
        decoder.done(fields);
        lists
    });
    match lists {
        Some([None, None]) if decoder.faults.is_empty() => {
            let fault = Fault::at(path, root.at, "neither `jti` nor `sub`");
            Err(fault.hint("`jti: []` says that no token is denied").into())
        }
        Some([jti, sub]) if decoder.faults.is_empty() => {
            Ok(WrittenDenied { jti: jti.unwrap_or_default(), sub: sub.unwrap_or_default() })
        }
        _ => Err(Faults::sorted(decoder.into_faults())),
    }
}

/// Decodes what a claim is compared with. White space around it would let it match no token.
fn claim(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    match text.trim() == text {
        true => Some(text),
        false => d.hinted(node.at, "has white space around it, so that it denies nobody", "remove it"),
    }
}

/// Decodes a holder, which may be a pattern.
fn holder(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let holder = claim(d, node)?;
    match holder.starts_with('!') {
        true => d.hinted(
            node.at,
            "`!` takes no holder out of those that are denied",
            "list those that are denied",
        ),
        false => Some(holder),
    }
}

/// Decodes the id of a token, which is no pattern.
fn token_id(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let id = claim(d, node)?;
    match id.contains('*') {
        true => d.hinted(node.at, "an id of a token is no pattern", "the whole id; patterns are for `sub`"),
        false => Some(id),
    }
}
