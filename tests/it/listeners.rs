//! The listeners: what each costs the others, and what one address costs another.

use std::net::SocketAddr;
use std::time::Duration;

use bearward::{App, Clock, Config, Hooks, Local, Token};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use crate::harness::{Gateway, Raw, Upstream, answer_of, in_time};

/// Connects from an address of this host that is not the usual one.
async fn connect_from(source: &str, address: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    let stream = in_time("connect", socket.connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    Raw::over(stream)
}

#[tokio::test]
async fn a_listener_that_idles_takes_no_place_of_a_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let hash = Token::generate().unwrap().hash().to_stored();
    std::fs::write(
        path("keys.yaml"),
        format!("keys: [{{id: key_a, hash: \"{hash}\", permissions: [read]}}]\n"),
    )
    .unwrap();
    for workers in [1, 2] {
        let config = format!(
            "listeners: [{{address: 127.0.0.1:0}}, {{address: 127.0.0.1:0}}, {{address: 127.0.0.1:0}}]\n\
             upstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: {}}}\nadmin: off\n\
             limits: {{connections: 1}}\nworkers: {workers}\n",
            path("keys.yaml").display()
        );
        std::fs::write(path("bearward.yaml"), config).unwrap();
        let config = Config::load(&path("bearward.yaml")).unwrap_or_else(|faults| panic!("{faults}"));
        let app = App::bind(&config, Clock::system(), Hooks::default()).unwrap();
        let addresses = app.addresses();
        let (stop, stopping) = oneshot::channel::<()>();
        tokio::spawn(app.run(async { drop(stopping.await) }));
        // In no order, and one twice at once: the one place is free again when the connection has ended.
        for number in [2, 0, 2, 2, 1, 0] {
            let Local::Tcp(address) = &addresses[number] else { panic!("{addresses:?}") };
            let mut raw = Raw::connect(*address).await;
            raw.send("GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            raw.answer().await.assert_denied(401, "MISSING_API_KEY");
            raw.assert_ended().await;
        }
        drop(stop);
    }
}

/// Or whoever reaches the listener could have the process restarted.
#[tokio::test]
async fn a_flood_of_connections_to_the_admin_listener_pushes_out_its_own() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let probe = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut prober = connect_from("127.0.0.2", gateway.admin).await;
    prober.send(probe).await;
    assert_eq!(prober.answer().await.status, 200);
    let mut held = Vec::new();
    for number in 0..200 {
        let mut raw = connect_from("127.0.0.3", gateway.admin).await;
        if number % 2 == 0 {
            raw.send("GET /livez HT").await;
        }
        held.push(raw);
    }
    // The listener has taken them all once the last one is answered.
    let last = held.last_mut().unwrap();
    last.send(probe).await;
    assert_eq!(last.answer().await.status, 200);
    prober.send(probe).await;
    assert_eq!(prober.answer().await.status, 200, "it goes on, on the connection that it had");
    let mut fresh = connect_from("127.0.0.4", gateway.admin).await;
    fresh.send(probe).await;
    let answer = tokio::time::timeout(Duration::from_secs(2), fresh.answer()).await;
    assert_eq!(answer.expect("a new one is served at once").status, 200);
    // The flood has lost its oldest ones.
    held.first_mut().unwrap().assert_ended().await;
}
