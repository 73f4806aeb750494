//! Watches files: finds out whether files have changed, and whether a change is complete.
//!
//! Only directories are watched: if a file is replaced by a rename, a watch on the file itself
//! reports the first replacement and no later one. An event of the system only triggers a check;
//! the check decides whether a file has changed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::watch_set::{WatchSet, expanded};
use crate::config::ReadFile;
use crate::config::fault::{Fault, Faults};
use crate::digest::Sha256;
use crate::regular_file;
use crate::stamp::Stamp;

/// How long a file that was written in place must stay unchanged before it is read. This time is
/// longer than the pauses of a writer, because the first part of a list of keys is also a valid
/// list. The time is short enough for a change to take effect within a second.
const SETTLED_IN_PLACE: Duration = Duration::from_millis(500);
/// How long a file that was renamed into its place must stay unchanged before it is read. Such a
/// file is complete; the time only groups files that are replaced together.
const SETTLED_WHOLE: Duration = Duration::from_millis(30);
/// The time after which a directory of files is read even if one of the files changes all the time.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(5);
/// The total size in bytes up to which files are compared by content. Larger sets of files are
/// compared by their stamps only.
const COMPARED_BYTES: u64 = 4 * 1024 * 1024;
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The stamps of several files, including the files in directories; `None` for a missing file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    pub(super) fn of(files: &[PathBuf]) -> Self {
        Stamps(expanded(files).map(|path| (path.clone(), Stamp::of(&path))).collect())
    }

    fn bytes(&self) -> u64 {
        self.0.iter().filter_map(|(_, stamp)| stamp.as_ref()).map(|stamp| stamp.length).sum()
    }
}

/// Files that are reloaded together or not at all.
#[derive(Debug)]
pub(super) struct FileSet {
    /// The configured paths: a directory stands for the files in it.
    files: Vec<PathBuf>,
    /// The directory entries on the paths of the files, when the watch was last set up.
    watch_set: WatchSet,
    /// The state of the files when they were last read, whether they were applied or refused.
    taken: Stamps,
    digest: Option<[u8; 32]>,
    pending: Option<Pending>,
    /// Whether a file was renamed into its place since the files were last read.
    came_whole: bool,
    /// Files that were written in place since the files were last read, and not replaced
    /// afterwards.
    in_place: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Pending {
    stamps: Stamps,
    since: Instant,
    /// The time at which the files began to change.
    restless_since: Instant,
}

/// The outcome of a check of a set of files.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FilesState {
    /// The files have not changed.
    Same,
    /// The files are changing, and must be checked again after this time.
    Changing(Duration),
    /// The files have other content, and have stopped changing.
    Changed,
}

impl FileSet {
    /// Makes a set of files. `taken` is the state of the files when they were read. `read` lists
    /// the files whose content the configuration contains.
    pub(super) fn new(files: Vec<PathBuf>, taken: Stamps, read: &[ReadFile]) -> Self {
        let mut set = FileSet {
            watch_set: WatchSet::to(&files),
            files,
            taken,
            digest: None,
            pending: None,
            came_whole: false,
            in_place: BTreeSet::new(),
        };
        if !read.iter().all(ReadFile::is_current) {
            set.forget();
        } else if set.taken.bytes() <= COMPARED_BYTES {
            let digest = set.read();
            // If the files have changed since they were read, this digest belongs to other content
            // and is dropped; the next check finds the change.
            set.digest = digest.filter(|_| Stamps::of(&set.files) == set.taken);
        }
        set
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Finds the directory entries on the paths of the files anew, and returns these entries.
    pub(super) fn watch_set(&mut self) -> &WatchSet {
        self.watch_set = WatchSet::to(&self.files);
        &self.watch_set
    }

    /// Notes an event of the system. Returns whether the event concerns one of the files, or a link
    /// to a file.
    pub(super) fn heard(&mut self, touched: &Touched) -> bool {
        // The event of a rename names two entries, the second of which is the destination.
        let named = touched.paths.last().filter(|path| self.watch_set.covers(path));
        match (touched.came_whole, named) {
            (Some(true), Some(path)) => {
                self.in_place.remove(path);
                self.came_whole = true;
            }
            (Some(false), Some(path)) => {
                self.in_place.insert(path.clone());
            }
            // An event without paths means that the system has lost events.
            (_, None) if touched.paths.is_empty() => self.came_whole = false,
            _ => {}
        }
        touched.paths.is_empty() || touched.paths.iter().any(|path| self.watch_set.covers(path))
    }

    /// Notes that an event was missed. After that, it is unknown whether a changed file is
    /// complete.
    pub(super) fn missed(&mut self) {
        self.came_whole = false;
    }

    /// Whether the files are in the state in which they were last read.
    pub(super) fn is_as_taken(&self) -> bool {
        Stamps::of(&self.files) == self.taken
    }

    /// Forgets the state of the files, so that the next check finds a change.
    pub(super) fn forget(&mut self) {
        self.taken = Stamps::default();
        self.digest = None;
        self.pending = None;
    }

    /// Checks whether the files have changed, without waiting. `is_thorough`: whether contents are
    /// compared even if no stamp has changed.
    pub(super) fn check(&mut self, now: Instant, is_thorough: bool) -> FilesState {
        let stamps = Stamps::of(&self.files);
        if stamps == self.taken {
            self.pending = None;
            let compares = is_thorough && self.digest.is_some() && stamps.bytes() <= COMPARED_BYTES;
            // Contents are compared because the times of some file systems can't be trusted. An
            // unreadable file does not count as a change.
            return match compares.then(|| self.read()).flatten() {
                Some(digest) if Some(digest) != self.digest => self.settle(stamps),
                _ => FilesState::Same,
            };
        }
        let since = match &self.pending {
            Some(pending) if pending.stamps == stamps => pending.since,
            _ => now,
        };
        let restless_since = self.pending.as_ref().map_or(now, |pending| pending.restless_since);
        let is_whole = self.came_whole && self.in_place.is_empty();
        let settles_after = if is_whole { SETTLED_WHOLE } else { SETTLED_IN_PLACE };
        let stood = now.saturating_duration_since(since);
        // A file that is written all the time must not delay a revocation in another file of the
        // directory.
        let waits = !self.watch_set.directories.is_empty() && now - restless_since >= DIRECTORY_PATIENCE;
        if stood < settles_after && !waits {
            self.pending = Some(Pending { stamps, since, restless_since });
            return FilesState::Changing(settles_after - stood);
        }
        self.settle(stamps)
    }

    /// Checks whether the files have changed, without the waiting time of [`FileSet::check`],
    /// because the files are known to have settled.
    pub(super) fn look_settled(&mut self) -> FilesState {
        let stamps = Stamps::of(&self.files);
        self.settle(stamps)
    }

    fn settle(&mut self, stamps: Stamps) -> FilesState {
        // The contents of large files are not compared: a reload that changes nothing is accepted,
        // so that the files are not read a second time.
        let digest = (stamps.bytes() <= COMPARED_BYTES).then(|| self.read()).flatten();
        // The digest is of no use if a file changed while it was read.
        if Stamps::of(&self.files) != stamps {
            self.pending = None;
            return FilesState::Changing(SETTLED_WHOLE);
        }
        let is_same = digest.is_some() && digest == self.digest;
        self.taken = stamps;
        self.digest = digest;
        self.pending = None;
        self.came_whole = false;
        self.in_place.clear();
        if is_same { FilesState::Same } else { FilesState::Changed }
    }

    fn read(&self) -> Option<[u8; 32]> {
        digest_of(&self.files)
    }
}

/// Checks that all files are regular and not too large: a pipe would block, and a device has no
/// end.
pub(super) fn openable<'f>(files: impl IntoIterator<Item = &'f PathBuf>) -> Result<(), Faults> {
    let fault = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        let what = match metadata.is_file() {
            true if metadata.len() <= MAX_BYTES => return None,
            true => "is larger than the limit of files",
            false => "is not a regular file",
        };
        Some(Fault::of_file(path, what))
    };
    let faults: Vec<Fault> = files.into_iter().filter_map(fault).collect();
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

/// Returns a digest of the paths and contents of all files; `None` if a file is unreadable.
pub(super) fn digest_of(files: &[PathBuf]) -> Option<[u8; 32]> {
    let files: Vec<PathBuf> = expanded(files).collect();
    openable(&files).ok()?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    for path in files {
        digest.update(path.as_os_str().as_encoded_bytes());
        let mut file = regular_file::open(&path).ok()?;
        let mut length = 0u64;
        loop {
            let read = file.read(&mut buffer).ok()?;
            if read == 0 {
                break;
            }
            digest.update(buffer.get(..read)?);
            length += read as u64;
        }
        digest.update(length.to_be_bytes());
    }
    Some(digest.finish())
}

/// A change of directory entries that the system has reported.
#[derive(Debug)]
pub(super) struct Touched {
    pub(super) paths: Vec<PathBuf>,
    /// `true` if the entry was renamed into its place and is complete; `false` if the entry is
    /// being written in place; `None` if it is unknown which is the case.
    pub(super) came_whole: Option<bool>,
}

impl Touched {
    /// Converts an event of the system. Returns `None` for an event that is no change, such as a
    /// read by bearward itself.
    fn read(event: notify::Event) -> Option<Self> {
        let came_whole = match event.kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Some(true),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => None,
            EventKind::Access(_) => return None,
            EventKind::Modify(ModifyKind::Metadata(_) | ModifyKind::Name(_)) => None,
            EventKind::Remove(_) | EventKind::Other | EventKind::Any => None,
            EventKind::Create(_) | EventKind::Modify(_) => Some(false),
        };
        Some(Touched { paths: event.paths, came_whole })
    }
}

/// Watches the directories of all entries on the paths of the files.
#[derive(Debug)]
pub(super) struct Directories {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// The entries on the paths of the files. Events of other entries in the watched directories
    /// are dropped.
    watch_set: Arc<Mutex<WatchSet>>,
}

impl Directories {
    /// Makes a watcher that calls `on_change` at every change. If the system can't watch
    /// directories, changes are found only by polling.
    pub(super) fn new(on_change: impl Fn(Touched) + Send + 'static) -> Self {
        let watch_set = Arc::new(Mutex::new(WatchSet::default()));
        let known = watch_set.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Some(touched) = event.ok().and_then(Touched::read) else { return };
            let watch_set = known.lock().unwrap_or_else(PoisonError::into_inner);
            if touched.paths.is_empty() || touched.paths.iter().any(|path| watch_set.covers(path)) {
                drop(watch_set);
                on_change(touched);
            }
        });
        let watcher = watcher.map_err(|error| {
            tracing::warn!(%error, "changes of files are noticed only at keys.watch.poll");
        });
        Directories { watcher: watcher.ok(), watched: BTreeSet::new(), watch_set }
    }

    /// Watches the directories of the entries in `watch_set`, and no others.
    pub(super) fn watch(&mut self, watch_set: &WatchSet) {
        let Some(watcher) = &mut self.watcher else { return };
        self.watch_set.lock().unwrap_or_else(PoisonError::into_inner).clone_from(watch_set);
        let parents = watch_set.entries.iter().filter_map(|entry| entry.parent());
        let wanted: BTreeSet<PathBuf> =
            parents.map(Path::to_owned).chain(watch_set.directories.clone()).collect();
        for gone in self.watched.difference(&wanted) {
            let _went_with_its_directory = watcher.unwatch(gone);
        }
        // A directory that is watched already is watched again, because another directory may have
        // replaced it under the same name.
        self.watched = wanted
            .into_iter()
            .filter(|directory| watcher.watch(directory, RecursiveMode::NonRecursive).is_ok())
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &Path) -> FileSet {
        let files = vec![path.to_owned()];
        let stamps = Stamps::of(&files);
        FileSet::new(files, stamps, &[])
    }

    fn touched(path: &Path, came_whole: bool) -> Touched {
        Touched { paths: vec![path.to_owned()], came_whole: Some(came_whole) }
    }

    #[test]
    fn a_file_written_in_place_counts_once_it_stands_still() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "one").unwrap();
        let mut set = set(&path);
        let now = Instant::now();
        assert_eq!(set.check(now, true), FilesState::Same);
        fs::write(&path, "two!").unwrap();
        assert_eq!(set.check(now, false), FilesState::Changing(SETTLED_IN_PLACE));
        let later = now + SETTLED_IN_PLACE;
        fs::write(&path, "two and more").unwrap();
        assert_eq!(set.check(later, false), FilesState::Changing(SETTLED_IN_PLACE), "it moved again");
        assert_eq!(set.check(later + SETTLED_IN_PLACE, false), FilesState::Changed);
        assert_eq!(set.check(later + SETTLED_IN_PLACE, true), FilesState::Same);
    }

    #[test]
    fn a_renamed_file_is_taken_at_once_and_the_same_content_is_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "one").unwrap();
        let mut set = set(&path);
        let rename = |content: &str| {
            fs::write(directory.path().join("new"), content).unwrap();
            fs::rename(directory.path().join("new"), &path).unwrap();
        };
        let now = Instant::now();
        for (content, found) in [("two", FilesState::Changed), ("two", FilesState::Same)] {
            rename(content);
            assert!(set.heard(&touched(&path, true)));
            assert_eq!(set.check(now, false), FilesState::Changing(SETTLED_WHOLE));
            assert_eq!(set.check(now + SETTLED_WHOLE, false), found);
        }
        // A file that is written in place after a rename is not known to be complete.
        rename("three");
        assert!(set.heard(&touched(&path, true)) && set.heard(&touched(&path, false)));
        assert_eq!(set.check(now, false), FilesState::Changing(SETTLED_IN_PLACE));
        assert_eq!(set.check(now + SETTLED_IN_PLACE, false), FilesState::Changed);
        set.forget();
        assert_eq!(set.check(now, false), FilesState::Changing(SETTLED_IN_PLACE));
        assert_eq!(
            set.check(now + SETTLED_IN_PLACE, false),
            FilesState::Changed,
            "though nothing has changed"
        );
        fs::remove_file(&path).unwrap();
        assert!(!set.heard(&touched(&directory.path().join("other"), true)));
        assert!(set.heard(&touched(&path, false)));
        assert_eq!(set.check(now, false), FilesState::Changing(SETTLED_IN_PLACE));
        assert_eq!(set.check(now + SETTLED_IN_PLACE, false), FilesState::Changed, "gone is a change, too");
    }

    #[test]
    fn a_directory_stands_for_the_files_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let keys = root.join("keys");
        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("a"), "a").unwrap();
        let mut set = set(&keys);
        let now = Instant::now();
        assert_eq!(set.check(now, true), FilesState::Same);
        let hears = |set: &mut FileSet, path: &Path| set.heard(&touched(path, true));
        assert!(hears(&mut set, &keys.join("b")), "a file that was not there");
        assert!(!hears(&mut set, &keys.join(".b.swp")) && !hears(&mut set, &root.join("b")));
        fs::write(keys.join(".hidden"), "x").unwrap();
        assert_eq!(set.check(now, true), FilesState::Same);
        for change in
            [|keys: &Path| fs::write(keys.join("b"), "b"), |keys: &Path| fs::remove_file(keys.join("a"))]
        {
            change(&keys).unwrap();
            assert!(matches!(set.check(now, false), FilesState::Changing(_)));
            assert_eq!(set.check(now + SETTLED_IN_PLACE, false), FilesState::Changed);
        }
        let mut later = now;
        for tick in 0..20 {
            fs::write(keys.join("noisy"), tick.to_string()).unwrap();
            later += Duration::from_millis(300);
            if set.check(later, false) == FilesState::Changed {
                break;
            }
        }
        assert!(later - now >= DIRECTORY_PATIENCE && later - now < DIRECTORY_PATIENCE * 6 / 5);
        fs::rename(keys.join("b"), keys.join("c")).unwrap();
        assert_eq!(set.look_settled(), FilesState::Changed, "the name counts, too");
        set.watch_set();
        assert!(hears(&mut set, &keys.join("c")) && hears(&mut set, &keys));
    }
}
