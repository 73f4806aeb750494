//! Directories that are replaced as a whole: the change is seen as soon as one of a file is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Files, Form, Served, entry};
use crate::harness::until;

/// Well under `keys.watch.poll`, at which everything is seen.
const SOON: Duration = Duration::from_secs(2);

/// Waits until a look that an earlier change caused is over, so that the next change has to be
/// noticed by itself. Nothing that a client can ask for says when the server has looked and found
/// no change.
async fn hints_are_over() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

async fn seen_soon(served: &Served, what: &str, change: impl FnOnce()) {
    hints_are_over().await;
    assert_eq!(served.statuses(["a", "b"]).await, [200, 401], "{what}");
    let began = Instant::now();
    change();
    served.until_status("b", 200).await;
    assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
    assert_eq!(served.status("a").await, 401, "{what}");
}

fn write_key(directory: &Path, name: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(format!("{name}.yaml")), entry(name, "")).unwrap();
}

#[tokio::test]
async fn a_directory_of_keys_that_is_replaced_by_renames_is_seen_soon() {
    let served = Served::of(Form::Directory, &[entry("a", "")]).await;
    let (store, root) = (served.files.store(), served.files.root.path());
    write_key(&root.join("keys.new"), "b");
    seen_soon(&served, "renames", || {
        fs::rename(&store, root.join("keys.old")).unwrap();
        fs::rename(root.join("keys.new"), &store).unwrap();
    })
    .await;
    // What is in the new one is watched as the old one was, also once that is gone.
    hints_are_over().await;
    fs::remove_dir_all(root.join("keys.old")).unwrap();
    hints_are_over().await;
    let began = Instant::now();
    write_key(&store, "c");
    served.until_status("c", 200).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // And once more, with a time in which there is none.
    fs::rename(&store, root.join("older")).unwrap();
    until("it is reported", async || served.of_keys().await["is_current"] == false).await;
    assert_eq!(served.status("c").await, 200);
    write_key(&root.join("keys.new"), "a");
    hints_are_over().await;
    let began = Instant::now();
    fs::rename(root.join("keys.new"), &store).unwrap();
    served.until_status("a", 200).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    hints_are_over().await;
    let began = Instant::now();
    write_key(&store, "d");
    served.until_status("d", 200).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_link_to_a_directory_of_keys_that_is_swapped_is_seen_soon() {
    let files = Files::new(Form::Directory);
    let root = files.root.path().to_owned();
    fs::remove_dir(files.store()).unwrap();
    write_key(&root.join("v1"), "a");
    write_key(&root.join("v2"), "b");
    symlink("v1", files.store()).unwrap();
    let served = files.serve().await.unwrap_or_else(|error| panic!("{error}"));
    seen_soon(&served, "a link", || {
        symlink("v2", root.join("new")).unwrap();
        fs::rename(root.join("new"), served.files.store()).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_directory_above_a_store_that_is_replaced_is_seen_soon() {
    for form in [Form::Yaml, Form::JsonLines, Form::Directory] {
        let outer = tempfile::tempdir().unwrap();
        let (inner, new) = (outer.path().join("conf"), outer.path().join("conf.new"));
        let mut files = Files::new(form);
        for (directory, name) in [(&new, "b"), (&inner, "a")] {
            fs::create_dir_all(directory.join("deep")).unwrap();
            files.place = Some(directory.join("deep"));
            if form == Form::Directory {
                fs::create_dir(files.store()).unwrap();
            }
            files.write(&[entry(name, "")]);
        }
        let served = files.serve().await.unwrap_or_else(|error| panic!("{error}"));
        seen_soon(&served, &format!("{form:?}"), || {
            fs::rename(&inner, outer.path().join("conf.old")).unwrap();
            fs::rename(&new, &inner).unwrap();
        })
        .await;
    }
}
