use std::future::pending;
use std::time::Duration;

use std::path::Path;

use super::*;
use crate::keys::token::Token;
use crate::thread_supervisor::Ended;

fn app(directory: &Path) -> App {
    let keys = directory.join("keys.yaml");
    let hash = Token::generate().unwrap().hash().to_stored();
    std::fs::write(&keys, format!("keys: [{{id: key_a, hash: \"{hash}\", permissions: [read]}}]\n")).unwrap();
    let source = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\n\
         keys: {{path: {}}}\nadmin: off\nworkers: 1\n",
        keys.display()
    );
    let config = Config::parse(&directory.join("bearward.yaml"), &source, &|_| None).unwrap();
    App::bind(&config, Clock::system(), Hooks::default()).unwrap()
}

/// The server stops if one of these threads ends: without its workers it would serve nobody, and
/// without its reload thread it would accept revoked keys for ever.
#[tokio::test]
async fn a_server_whose_vital_thread_ends_stops_and_reports_it() {
    let directory = tempfile::tempdir().unwrap();
    for duty in [Duty::Worker, Duty::Reload] {
        let app = app(directory.path());
        let threads = app.logs().threads;
        let running = tokio::spawn(app.run(pending()));
        threads.spawn(duty, "one-of-them", || panic!("a test asked for this")).unwrap().join().unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
        assert!(ended.unwrap_err().to_string().contains("one-of-them"), "{duty:?}");
    }
}

#[tokio::test]
async fn a_log_that_has_no_thread_any_more_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let app = app(directory.path());
    let threads = app.logs().threads;
    threads.spawn(Duty::Log, "log", || Ended::Early).unwrap().join().unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(20), app.run(async {})).await.unwrap();
    assert!(stopped.unwrap(), "it stops when asked to, with all done");
}
