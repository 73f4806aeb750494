use std::future::poll_fn;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Returns a client, a wire to it whose time limits are all `limit`, and the connection's activity.
async fn wired(limit: Duration) -> (TcpStream, Wire<TcpStream>, Arc<ConnectionActivity>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let activity = Arc::new(ConnectionActivity::default());
    let timeouts = WireTimeouts { header: limit, idle: limit, client_stall: limit };
    let refuse: Refuse = Box::new(|_, _| Bytes::new());
    let wire = Wire::new(stream, Bytes::new(), activity.clone(), timeouts).refusing(refuse);
    (client, wire, activity)
}

/// In this test, hyper does not read: the answer was complete before the whole request had arrived,
/// and upstream does not read the rest of the request.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_hyper_does_not_read_ends_the_connection_and_never_spins() {
    let idle = Duration::from_secs(5);
    let (_client, mut wire, activity) = wired(idle).await;
    drop(activity.begin(true));
    let mut poll_once = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_flush(cx))).await;
    assert!(matches!(poll_once().await, Poll::Ready(Ok(()))));
    tokio::time::advance(2 * idle).await;
    assert!(matches!(poll_once().await, Poll::Ready(Ok(()))), "hyper is woken up once");
    assert!(matches!(poll_once().await, Poll::Ready(Err(_))), "and then it ends");
}

/// While upstream does not read the body, hyper does not read either, so only the wire can notice
/// that the client has left.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_behind_an_unread_body_is_noticed() {
    let (mut client, mut wire, activity) = wired(Duration::from_secs(60)).await;
    let _in_service = activity.begin(true);
    client.write_all(b"a part of a body").await.unwrap();
    // Flushes without pending bytes, as hyper does at each poll.
    let mut poll_once = async || {
        let flushed = poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_flush(cx))).await;
        assert!(flushed.is_ready());
        flushed
    };
    let is_healthy = |flushed: &Poll<io::Result<()>>| matches!(flushed, Poll::Ready(Ok(())));
    assert!(is_healthy(&poll_once().await));
    tokio::time::advance(PROBE_INTERVAL).await;
    assert!(is_healthy(&poll_once().await), "it is still there");
    drop(client);
    tokio::time::advance(PROBE_INTERVAL).await;
    assert!(!is_healthy(&poll_once().await), "it has left");
}

/// hyper keeps an empty line that precedes a head, and waits for the head.
#[tokio::test(start_paused = true)]
async fn a_connection_rests_once_after_each_request_whatever_empty_lines_come() {
    let (mut client, mut wire, activity) = wired(Duration::from_secs(60)).await;
    drop(activity.begin(false));
    let waits = async |wire: &mut Wire<TcpStream>| {
        let mut room = [0; 16];
        let mut buf = ReadBuf::new(&mut room);
        let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut *wire).poll_read(cx, &mut buf))).await;
        activity.flushed();
        (read.is_pending(), activity.may_rest())
    };
    assert_eq!(waits(&mut wire).await, (true, false), "not at once");
    tokio::time::advance(REST_AFTER).await;
    assert_eq!(waits(&mut wire).await, (true, true));
    client.write_all(b"\r\n").await.unwrap();
    assert!(wire.rest(Bytes::new()).await.unwrap());
    assert_eq!(waits(&mut wire).await, (false, false), "hyper reads it");
    tokio::time::advance(REST_AFTER).await;
    assert_eq!(waits(&mut wire).await, (true, false), "and is not sent away for it again");
    drop(activity.begin(false));
    assert_eq!(waits(&mut wire).await, (true, false));
    tokio::time::advance(REST_AFTER).await;
    assert_eq!(waits(&mut wire).await, (true, true), "after the next request it is");
    drop(client);
    assert!(!wire.rest(Bytes::from_static(b"\r\n")).await.unwrap(), "the end");
}
