//! Writes altered answers of upstreams, and what bearward reads of each, for `llhttp.cjs`.
//!
//! answers COUNT SEED: COUNT lines of an input of the fuzz target `answer` as hexadecimal digits, a tab, and
//! the reading as JSON. The inputs are those of the corpus, with up to four random changes each.

use std::io::{BufWriter, Write};
use std::path::Path;

const TOKENS: &[&[u8]] = &[
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b";", b";a=\"b\"", b"\0", b"0\r\n\r\n", b"1\r\na\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 ", b"HTTP/1.1 100 Continue\r\n\r\n", b"content-length: 1\r\n", b"Content-Length:\t0\r\n", b"transfer-encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"connection: close\r\n", b"connection: keep-alive\r\n", b"chunked", b",", b"+1", b"0x1",
    b"trailer: x\r\n", b"x: y\r\n", b" folded\r\n", b"\x80", b"upgrade: x\r\nconnection: upgrade\r\n", b"204", b"304", b"101", b"1_0", b"ffffffffffffffff",
];

fn main() {
    let mut arguments = std::env::args().skip(1).map(|number| number.parse::<u64>().expect("a number"));
    let (count, seed) = (arguments.next().expect("COUNT"), arguments.next().expect("SEED"));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/answer");
    let mut corpus: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    corpus.sort();
    let corpus: Vec<Vec<u8>> = corpus.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut out = BufWriter::new(std::io::stdout().lock());
    for _ in 0..count {
        let mut input = corpus[dice.usize(..corpus.len())].clone();
        for _ in 0..dice.usize(..5) {
            alter(&mut input, &corpus, &mut dice);
        }
        let digits: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        // It panics if hyper reads another answer.
        bearward::fuzzing::answer(&input);
        writeln!(out, "{digits}\t{}", bearward::fuzzing::answer_as_json(&input)).unwrap();
    }
}

fn alter(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut fastrand::Rng) {
    let at = dice.usize(..=input.len());
    let end = input.len().min(at + dice.usize(..8));
    match dice.u8(..6) {
        0 => drop(input.splice(at..at, TOKENS[dice.usize(..TOKENS.len())].iter().copied())),
        1 => drop(input.splice(at..end, TOKENS[dice.usize(..TOKENS.len())].iter().copied())),
        2 => drop(input.drain(at..end)),
        3 => drop(input.splice(at..at, [dice.u8(..)])),
        4 if at < input.len() => input[at] ^= 1 << dice.u8(..8),
        _ => {
            let other = &corpus[dice.usize(..corpus.len())];
            let from = dice.usize(..=other.len());
            drop(input.splice(at.., other[from..].iter().copied()));
        }
    }
}
