//! The header by which a balancer states the client of a connection: the PROXY protocol, versions 1 and 2
//! (HAProxy, "The PROXY protocol", sections 2.1 and 2.2).
//!
//! Invariant: [`read`] takes exactly the bytes of the header from the connection, and none behind it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest header of version 1, with the end of its line.
const LONGEST_V1: usize = 107;
/// The beginning of a header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Number of bytes that are read first. No header is shorter, of either version.
const FIRST: usize = SIGNATURE.len();
/// Longest addresses of version 2, in bytes: those of unix sockets.
const LONGEST_ADDRESSES: usize = 216;

/// What a header says of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stated {
    Client(IpAddr),
    /// The balancer speaks for itself, as for its health checks: its own address holds.
    Balancer,
    /// The balancer does not know the address of the client.
    Unknown,
}

/// Reads the header at the beginning of a connection.
///
/// # Errors
///
/// `InvalidData` if the connection begins with something else; the errors of the system.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Stated> {
    let mut first = [0; FIRST];
    stream.read_exact(&mut first).await?;
    match first == SIGNATURE {
        true => read_v2(stream).await,
        false => read_v1(stream, &first).await,
    }
}

async fn read_v2(stream: &mut TcpStream) -> io::Result<Stated> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let mut addresses = [0; LONGEST_ADDRESSES];
    let known = length.min(LONGEST_ADDRESSES);
    let addresses = addresses.get_mut(..known).ok_or_else(invalid)?;
    stream.read_exact(addresses).await?;
    let stated = of_v2(command, family, addresses).ok_or_else(invalid)?;
    // Behind the addresses are details of the connection, which nobody here needs.
    let mut left = (length - known) as u64;
    let mut ignored = [0; 512];
    while left > 0 {
        let part = ignored.get_mut(..usize::try_from(left).unwrap_or(512).min(512)).ok_or_else(invalid)?;
        stream.read_exact(part).await?;
        left -= part.len() as u64;
    }
    Ok(stated)
}

/// Reads the rest of a header of version 1. Its length is not known before its end is seen, so what has
/// arrived is first looked at, and then taken.
async fn read_v1(stream: &mut TcpStream, first: &[u8]) -> io::Result<Stated> {
    let mut line = [0; LONGEST_V1];
    line.get_mut(..first.len()).ok_or_else(invalid)?.copy_from_slice(first);
    let mut length = first.len();
    loop {
        let known = line.get(..length).ok_or_else(invalid)?;
        if !b"PROXY ".iter().zip(known).all(|(expected, byte)| expected == byte) {
            return Err(invalid());
        }
        let rest = line.get_mut(length..).filter(|rest| !rest.is_empty()).ok_or_else(invalid)?;
        let arrived = stream.peek(rest).await?;
        if arrived == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = rest.get(..arrived).and_then(|arrived| memchr::memchr(b'\n', arrived));
        let taken = end.map_or(arrived, |end| end + 1);
        stream.read_exact(rest.get_mut(..taken).ok_or_else(invalid)?).await?;
        length += taken;
        if end.is_some() {
            return line.get(..length).and_then(of_v1).ok_or_else(invalid);
        }
    }
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header")
}

/// Parses a header of version 1, with the end of its line; `None` if it is none.
fn of_v1(line: &[u8]) -> Option<Stated> {
    let line = line.strip_prefix(b"PROXY ")?.strip_suffix(b"\r\n")?;
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(Stated::Unknown);
    }
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (family, source, destination) = (words.next()?, words.next()?, words.next()?);
    let parsed = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from).ok(),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        _ => None,
    };
    let (client, _own) = (parsed(source)?, parsed(destination)?);
    let is_port = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit())
            && (text.len() == 1 || !text.starts_with('0'))
            && text.parse::<u16>().is_ok()
    };
    let are_ports = is_port(words.next()?) && is_port(words.next()?);
    (are_ports && words.next().is_none()).then_some(Stated::Client(client))
}

/// Parses what follows the signature of a header of version 2; `None` if it is invalid. `addresses`: the
/// bytes of the addresses, and of what follows them.
fn of_v2(command: u8, family: u8, addresses: &[u8]) -> Option<Stated> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    match (command, family) {
        (LOCAL, _) => Some(Stated::Balancer),
        (PROXY, 0x00) => Some(Stated::Unknown),
        // TCP over IPv4: both addresses, and both ports.
        (PROXY, 0x11) => {
            let (source, _) = addresses.get(..12)?.split_first_chunk::<4>()?;
            Some(Stated::Client(Ipv4Addr::from(*source).into()))
        }
        (PROXY, 0x21) => {
            let (source, _) = addresses.get(..36)?.split_first_chunk::<16>()?;
            Some(Stated::Client(Ipv6Addr::from(*source).into()))
        }
        // A client of a unix socket of the balancer has no address.
        (PROXY, 0x31) => (addresses.len() >= LONGEST_ADDRESSES).then_some(Stated::Unknown),
        // Datagrams, and what the protocol does not define.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn of_v4(more: &[u8]) -> Vec<u8> {
        v2(0x21, 0x11, &[&[192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 1, 187], more].concat())
    }

    /// Sends the bytes in the given parts, and returns what was read and what is left of the connection.
    async fn reading(parts: &[&[u8]]) -> (io::Result<Stated>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let sending = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let receiving = async {
            let stated = read(&mut server).await;
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.unwrap();
            (stated, rest)
        };
        tokio::join!(sending, receiving).1
    }

    #[tokio::test]
    async fn both_versions_state_the_client() {
        let client = |address: &str| Stated::Client(address.parse().unwrap());
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 16], &[0, 1, 0, 2]].concat();
        let long = of_v4(&[7; 60_000]);
        let cases: [(&[u8], Stated); 12] = [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 443\r\n", client("192.0.2.7")),
            (b"PROXY TCP4 255.255.255.255 0.0.0.0 0 65535\r\n", client("255.255.255.255")),
            (b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n", client("2001:db8::9")),
            (b"PROXY TCP6 :: :: 0 0\r\n", client("::")),
            (b"PROXY UNKNOWN\r\n", Stated::Unknown),
            (b"PROXY UNKNOWN ffff::1 what ever 0 65536\r\n", Stated::Unknown),
            (&of_v4(b""), client("192.0.2.7")),
            (&of_v4(&[4, 0, 3, 1, 2, 3]), client("192.0.2.7")),
            (&long, client("192.0.2.7")),
            (&v2(0x21, 0x21, &v6), client("2001:db8::9")),
            (&v2(0x20, 0x11, b""), Stated::Balancer),
            (&v2(0x21, 0x31, &[0; 216]), Stated::Unknown),
        ];
        for (header, expected) in cases {
            let shown = String::from_utf8_lossy(&header[..header.len().min(60)]).into_owned();
            let whole = [header, b"GET / HTTP/1.1\r\n"].concat();
            let (stated, rest) = reading(&[&whole]).await;
            assert_eq!((stated.unwrap(), &*rest), (expected, &b"GET / HTTP/1.1\r\n"[..]), "{shown}");
            if header.len() < 300 {
                // Byte by byte, which no reader may notice.
                let parts: Vec<&[u8]> = whole.chunks(1).collect();
                let (stated, rest) = reading(&parts).await;
                assert_eq!((stated.unwrap(), &*rest), (expected, &b"GET / HTTP/1.1\r\n"[..]), "{shown}");
            }
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_V1));
        let cases: [&[u8]; 24] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 443\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 443 1\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 443 \r\n",
            b"PROXY TCP4  192.0.2.7 10.0.0.1 8080 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 08080 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n",
            b"PROXY TCP4 192.0.2.07 10.0.0.1 8080 443\r\n",
            b"PROXY TCP4 2001:db8::9 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY UNKNOWNS\r\nxxxxxxxxxxxxx",
            b"proxy TCP4 192.0.2.7 10.0.0.1 8080 443\r\n",
            too_long.as_bytes(),
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x31, &[0; 215]),
            &v2(0x21, 0x41, &[0; 12]),
        ];
        for header in cases {
            let (stated, _) = reading(&[header]).await;
            assert!(stated.is_err(), "{:?}: {stated:?}", String::from_utf8_lossy(header));
        }
        for header in [&b"PROXY TCP4 192.0.2.7"[..], b"PROXY", b"", &SIGNATURE, &of_v4(b"")[..20]] {
            let (stated, _) = reading(&[header]).await;
            assert_eq!(stated.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    /// A header, or something near one.
    fn near_header() -> impl Strategy<Value = Vec<u8>> {
        let v1 =
            "PROXY (TCP4|TCP6|UNKNOWN|UDP4)( [0-9a-f.:]{0,20}){0,5} ?\r?\n?".prop_map(String::into_bytes);
        let v2 = (0x1e_u8..0x24, any::<u8>(), 0..300_u16, prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(command, family, length, rest)| {
                let length = length.to_be_bytes();
                [&SIGNATURE[..], &[command, family], &length, &rest].concat()
            });
        prop_oneof![v1, v2, prop::collection::vec(any::<u8>(), 0..400)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200_000))]

        /// The parsers answer any bytes, and accept only what another reading of the protocol accepts.
        #[test]
        fn no_bytes_confuse_the_parsers(bytes in near_header()) {
            if let Some(Stated::Client(client)) = of_v1(&bytes) {
                let text = String::from_utf8(bytes.clone()).unwrap();
                let words: Vec<&str> = text.trim_end_matches("\r\n").split(' ').collect();
                prop_assert_eq!(words.len(), 6);
                prop_assert_eq!(words[2].parse::<IpAddr>().unwrap(), client);
                prop_assert_eq!(client.is_ipv4(), words[1] == "TCP4");
            }
            if let Some((&[command, family, high, low], rest)) =
                bytes.strip_prefix(&SIGNATURE).and_then(|rest| rest.split_first_chunk::<4>())
            {
                let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
                let stated = of_v2(command, family, &rest[..length]);
                prop_assert!(command == 0x20 || command == 0x21 || stated.is_none());
                if let Some(Stated::Client(IpAddr::V4(client))) = stated {
                    prop_assert_eq!(&client.octets()[..], &rest[..4]);
                }
            }
        }
    }
}
