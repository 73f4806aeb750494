//! Warnings about the files that a configuration names: those that other users can read or change, those that
//! the service's group can't read, and those whose changes never arrive.
//!
//! Called at a start and by `bearward check`, and by the reloading thread, because permissions change with the
//! files.
//! Invariant: no advice takes the service's own access away. The kubelet makes the files of a mounted Secret
//! readable by all, and without an `fsGroup` the pod reads them as everybody does: they get no warning.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, getegid, geteuid, getgroups};

use super::mounts::Mounts;
use crate::config::{Config, Content};
use crate::key_store::id_secret::file_beside;
use crate::key_store::ownership::group_of_service;
use crate::key_store::{Store, directory};
use crate::plural::plural;
use crate::shell_word::{shell_word, shown};
use crate::unreadable::name_of_group;

/// The maximum number of files that warnings of one kind name. A directory may have many.
const MAX_NAMED: usize = 20;
/// The bit of a directory in which users can only replace or remove their own files.
const STICKY: u32 = 0o1000;

/// Warnings about the files of a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FileWarnings {
    /// About files and directories that everybody can change.
    pub(crate) alarms: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

impl FileWarnings {
    /// Looks at the files of a configuration as they are now.
    pub(crate) fn of(config: &Config) -> Self {
        Self::with_mounts(config, &Mounts::of_process())
    }

    fn with_mounts(config: &Config, mounts: &Mounts) -> Self {
        let files = Files::of(config);
        let is_changed_by_others =
            |path: &Path| !mounts.are_read_only_at(path) && !mounts.are_of_pod_at(path);
        let changeable: Vec<&Path> =
            files.all().filter(|path| has_mode(path, 0o002) && is_changed_by_others(path)).collect();
        let directories = files.changeable_directories();
        let directories = directories.iter().map(PathBuf::as_path).filter(|path| is_changed_by_others(path));
        let mut alarms: Vec<String> = directories.map(of_changeable_directory).collect();
        alarms.extend(named(&changeable, "can be changed by everybody", of_changeable_file));
        let secret = files.secret.iter().map(PathBuf::as_path);
        let readable: Vec<&Path> =
            secret.filter(|path| has_mode(path, 0o004) && !mounts.are_of_pod_at(path)).collect();
        let group = files.group_of_service();
        let mut warnings = named(&readable, "can be read by everybody", |path| {
            let right = if mounts.are_read_only_at(path) {
                closed_elsewhere(path, group)
            } else {
                closed_here(path, group)
            };
            format!("{} can be read by everybody on this machine; {right}", shown(path))
        });
        warnings.extend(files.named().filter(|path| mounts.hide_changes_of(path)).map(|path| {
            format!(
                "{} is a mount by itself (subPath, or a single file): a file that replaces it never arrives; mount its directory",
                shown(path)
            )
        }));
        FileWarnings { alarms, warnings }
    }

    /// Logs the alarms that were not logged before, as errors.
    pub(super) fn raise(self, before: &mut Vec<String>) {
        for alarm in self.alarms.iter().filter(|alarm| !before.contains(alarm)) {
            tracing::error!("{alarm}");
        }
        *before = self.alarms;
    }
}

fn of_changeable_directory(path: &Path) -> String {
    format!(
        "{} is a directory that everybody on this machine can change: whoever replaces or adds a file there can let himself \
         in, or redirect what bearward sends; `chmod o-w {}`",
        shown(path),
        shell_word(path)
    )
}

fn of_changeable_file(path: &Path) -> String {
    format!(
        "{} can be changed by everybody on this machine: whoever changes it can let himself in, or redirect what bearward \
         sends; `chmod o-w {}`",
        shown(path),
        shell_word(path)
    )
}

/// Returns how a file with a secret is closed to others so that the service still reads it. `of_service`: the
/// group of the service, if the directory of the configuration shows it.
fn closed_here(path: &Path, of_service: Option<u32>) -> String {
    let word = shell_word(path);
    let Ok(file) = fs::metadata(path) else { return format!("`chmod o= {word}`") };
    let is_read_by = |group: u32| file.gid() == group && file.mode() & 0o040 != 0;
    let euid = geteuid();
    let needed = match euid.is_root() {
        true => of_service,
        false if file.uid() == euid.as_raw() => None,
        false => {
            let own = getgroups().unwrap_or_default().into_iter().chain([getegid()]).map(Gid::as_raw);
            (!own.into_iter().any(is_read_by)).then(|| getegid().as_raw())
        }
    };
    match needed.filter(|group| !is_read_by(*group)) {
        Some(group) => format!("`chgrp {} {word} && chmod g+r,o= {word}`", name_of_group(group)),
        None if euid.is_root() && of_service.is_none() => {
            format!("`chmod o= {word}`, where its owner or its group is that of the service")
        }
        None => format!("`chmod o= {word}`"),
    }
}

/// Returns the same for a file on a mount that is read-only here, as `/etc` is for a unit with `ProtectSystem`.
fn closed_elsewhere(path: &Path, of_service: Option<u32>) -> String {
    format!(
        "{}, where it can be changed; of a volume of Kubernetes, `defaultMode: 0440` with an `fsGroup`",
        closed_here(path, of_service)
    )
}

/// Returns warnings about files that root alone can read, where the directory of the configuration has the group of
/// a service. Of interest to root only, who reads all files.
pub(crate) fn unreadable_by_group(config: &Config) -> Vec<String> {
    let files = Files::of(config);
    let Some(group) = files.group_of_service() else { return Vec::new() };
    let paths: Vec<&Path> = files.all().filter(|path| is_left_to_root(path, group)).collect();
    let name = name_of_group(group);
    named(&paths, "can't be read by the group of their directory", |path| {
        let (file, word) = (shown(path), shell_word(path));
        format!(
            "{file}: the group {name} can't read it, as the service does; `chgrp {name} {word} && chmod g+r {word}`"
        )
    })
}

/// Whether a file is in a directory of the group, and root alone can read it.
fn is_left_to_root(path: &Path, group: u32) -> bool {
    let (Ok(file), Ok(directory)) = (fs::metadata(path), fs::metadata(directory_of(path))) else {
        return false;
    };
    let reads = file.mode() & 0o004 != 0 || (file.gid() == group && file.mode() & 0o040 != 0);
    let is_of_root_alone = file.is_file() && file.uid() == 0 && (file.gid() == 0 || file.mode() & 0o040 == 0);
    directory.gid() == group && !reads && is_of_root_alone
}

/// Makes the warning of each path, and a last one of those that are too many to be named.
fn named(paths: &[&Path], fault: &str, mut text: impl FnMut(&Path) -> String) -> Vec<String> {
    let mut warnings: Vec<String> = paths.iter().take(MAX_NAMED).map(|path| text(path)).collect();
    if let Some(more @ 1..) = paths.len().checked_sub(MAX_NAMED) {
        warnings.push(format!("{} {fault}", plural(more, "more file", "more files")));
    }
    warnings
}

fn has_mode(path: &Path, bit: u32) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & bit != 0)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// The files that a configuration names, as far as their permissions matter.
struct Files {
    /// The configuration itself.
    config: Option<PathBuf>,
    /// The key store as it is named: a file or a directory.
    store: PathBuf,
    /// The files of the store, and the other files with a secret.
    secret: BTreeSet<PathBuf>,
    /// The other files, such as certificates, keys of issuers, and lists of the denied.
    public: BTreeSet<PathBuf>,
}

impl Files {
    fn of(config: &Config) -> Self {
        let store = config.keys.path.path().to_owned();
        let is_directory = matches!(Store::at(&config.keys.path), Ok(Store::Directory(_)));
        let of_store = match is_directory {
            true => directory::files(&store).unwrap_or_default(),
            false => vec![store.clone()],
        };
        let id_secret = Some(file_beside(&store)).filter(|path| path.is_file());
        let named = |content| {
            let named = config.named_files.files.iter().filter(move |named| named.content == content);
            named.map(|named| named.path.clone())
        };
        let secret = of_store.into_iter().chain(id_secret).chain(named(Content::Secret));
        let secret: BTreeSet<PathBuf> = secret.filter(|path| !path.is_dir()).collect();
        // A file may have a certificate and its key.
        let public = named(Content::Public).filter(|path| !secret.contains(path)).collect();
        Files { config: config.source.as_ref().map(|source| source.path.clone()), secret, public, store }
    }

    /// Returns the group of the service whose directory has the configuration.
    fn group_of_service(&self) -> Option<u32> {
        group_of_service(&fs::metadata(directory_of(self.config.as_deref()?)).ok()?)
    }

    fn all(&self) -> impl Iterator<Item = &Path> {
        self.config.iter().chain(&self.secret).chain(&self.public).map(PathBuf::as_path)
    }

    /// Returns the paths that the configuration names, each of which could be a mount.
    fn named(&self) -> impl Iterator<Item = &Path> {
        let of_store = std::iter::once(&self.store).filter(|store| store.is_dir());
        let is_inside = |path: &&PathBuf| directory_of(path) == self.store;
        let secret = self.secret.iter().filter(move |path| !is_inside(path));
        self.config.iter().chain(secret).chain(&self.public).chain(of_store).map(PathBuf::as_path)
    }

    /// Returns the directories in which everybody can replace a file or the link to it, or add one to the key store.
    fn changeable_directories(&self) -> BTreeSet<PathBuf> {
        let mode = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.mode());
        let of_file = |path: &Path| {
            let of_target = path.canonicalize().ok().map(|path| directory_of(&path).to_owned());
            [directory_of(path).canonicalize().ok(), of_target]
        };
        let replaced =
            self.all().flat_map(of_file).flatten().filter(|path| mode(path) & (0o002 | STICKY) == 0o002);
        let store = self.store.canonicalize().ok().filter(|store| store.is_dir());
        replaced.chain(store.filter(|path| mode(path) & 0o002 != 0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Good enough for each kind of secret.
    const SECRET: &str = "pF3kQ9vLx2Rt7Wm8Zc5Nb1Hy6Jd4Sg0aUeTo";

    /// A directory with a configuration whose key store is `store` in it.
    struct Case {
        root: tempfile::TempDir,
        config: Config,
    }

    impl Case {
        fn new(store: &str) -> Self {
            Case::with(store, "", "upstreams: [{name: m, endpoints: ['http://127.0.0.1:1']}]\n")
        }

        /// A configuration with more in the section `keys`, and more sections. `DIR` stands for the directory; the
        /// files in it that these name are there.
        fn with(store: &str, of_keys: &str, sections: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            let text = format!(
                "listeners: [{{address: 127.0.0.1:0}}]\nkeys: {{path: DIR/{store}, {of_keys}}}\n{sections}\
                 admin: {{address: 127.0.0.1:0, token_file: DIR/token}}\nroutes: openai\n"
            );
            let named = text.split("DIR/").skip(1).filter_map(|rest| rest.split([',', '}', ' ']).next());
            for name in named.filter(|name| *name != store || !of_keys.is_empty()) {
                fs::write(root.path().join(name), SECRET).unwrap();
                fs::set_permissions(root.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
            }
            let path = root.path().join("bearward.yaml");
            fs::write(&path, text.replace("DIR", &root.path().display().to_string())).unwrap();
            let config = Config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
            Case { root, config }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().canonicalize().unwrap().join(name)
        }

        fn write(&self, name: &str, mode: u32) {
            fs::create_dir_all(directory_of(&self.path(name))).unwrap();
            fs::write(self.path(name), "").unwrap();
            self.chmod(name, mode);
        }

        fn chmod(&self, name: &str, mode: u32) {
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn found(&self, mounts: &Mounts) -> FileWarnings {
            FileWarnings::with_mounts(&self.config, mounts)
        }
    }

    #[test]
    fn a_secret_mounted_as_a_directory_gets_no_warning() {
        let case = Case::new("keys");
        case.write("keys/..2026_11_30/checkout.yaml", 0o644);
        std::os::unix::fs::symlink("..2026_11_30", case.path("keys/..data")).unwrap();
        std::os::unix::fs::symlink("..data/checkout.yaml", case.path("keys/checkout.yaml")).unwrap();
        case.chmod("keys", 0o1777);
        let secret = Mounts::one(&case.path("keys"), "/", "ro,relatime", "tmpfs");
        assert_eq!(case.found(&secret), FileWarnings::default());
        // An emptyDir into which another container of the pod writes them.
        let volume = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/keys";
        assert_eq!(
            case.found(&Mounts::one(&case.path("keys"), volume, "rw", "ext4")),
            FileWarnings::default()
        );
        let in_memory = Mounts::one(&case.path("keys"), "/", "rw", "tmpfs");
        assert_eq!(case.found(&in_memory).alarms.len(), 1, "a machine's /run is everybody's");
        assert_eq!(case.found(&in_memory.in_pod()), FileWarnings::default());
        // The same files, where everybody on the machine sees them.
        let found = case.found(&Mounts::default());
        assert!(found.alarms[0].contains("keys is a directory that everybody"), "{found:?}");
        assert!(found.warnings[0].contains("checkout.yaml can be read by everybody"), "{found:?}");
    }

    #[test]
    fn a_mounted_file_and_a_directory_of_one_version_hide_their_changes() {
        let (case, hides) = (Case::new("keys.yaml"), "is a mount by itself");
        case.write("keys.yaml", 0o600);
        let found = case.found(&Mounts::one(&case.path("keys.yaml"), "/keys.yaml", "rw", "ext4"));
        assert!(found.warnings[0].contains("keys.yaml is a mount by itself"), "{found:?}");
        let case = Case::new("keys");
        case.write("keys/a.yaml", 0o600);
        let of = |root: &str| case.found(&Mounts::one(&case.path("keys"), root, "ro", "tmpfs")).warnings;
        assert_eq!(of("/"), [""; 0]);
        assert!(of("/..2026_11_30/team")[0].contains(hides));
    }

    #[test]
    fn what_everybody_can_change_is_an_alarm() {
        for (store, file) in [
            ("keys.yaml", "keys.yaml"),
            ("keys.jsonl", "keys.jsonl"),
            ("keys.txt", "keys.txt"),
            ("keys", "keys/a.yaml"),
        ] {
            let case = Case::new(store);
            case.write(file, 0o666);
            case.chmod("token", 0o622);
            case.chmod("bearward.yaml", 0o646);
            let found = case.found(&Mounts::default());
            for name in [file, "token", "bearward.yaml"] {
                let text = format!("{name} can be changed by everybody");
                assert!(found.alarms.iter().any(|alarm| alarm.contains(&text)), "{text}: {found:?}");
            }
            assert_eq!(found.alarms.len(), 3, "{found:?}");
            let read_only = Mounts::one(&case.path(""), "/", "ro", "ext4");
            assert_eq!(case.found(&read_only).alarms, [""; 0], "nobody can");
        }
    }

    #[test]
    fn every_file_that_the_configuration_names_is_looked_at() {
        let case = Case::with(
            "keys.yaml",
            "id_secret: {file: DIR/id}",
            "upstreams: [{name: m, endpoints: ['https://a'], credential: {file: DIR/credential}, tls: {ca: DIR/ca.pem, \
             client_certificate: DIR/client.pem, client_key: DIR/client.key}}]\n\
             auth: {deny: DIR/denied.yaml, jwt: [{issuer: 'https://i', audience: a, jwks: {file: DIR/jwks.json}, \
             identities: [{when: {sub: a}, permissions: [read]}]}]}\n",
        );
        let (secret, public) = (
            ["keys.yaml", "id", "credential", "client.key"],
            ["ca.pem", "client.pem", "denied.yaml", "jwks.json"],
        );
        for name in secret.iter().chain(&public) {
            case.chmod(name, 0o644);
        }
        let found = case.found(&Mounts::default());
        assert_eq!((found.alarms.len(), found.warnings.len()), (0, secret.len()), "{found:?}");
        for name in secret {
            let advice = format!("; `chmod o= {}`", case.path(name).display());
            assert!(found.warnings.iter().any(|warning| warning.contains(&advice)), "{advice}: {found:?}");
        }
        for name in secret.into_iter().chain(public) {
            case.chmod(name, 0o646);
            let advice = format!("`chmod o-w {}`", case.path(name).display());
            let found = case.found(&Mounts::default());
            assert!(found.alarms.iter().any(|alarm| alarm.ends_with(&advice)), "{advice}: {found:?}");
        }
    }

    #[test]
    fn a_secret_is_closed_so_that_the_service_still_reads_it() {
        if !geteuid().is_root() {
            return;
        }
        let case = Case::new("keys.yaml");
        case.write("keys.yaml", 0o644);
        std::os::unix::fs::chown(case.path(""), None, Some(1)).unwrap();
        case.chmod("", 0o750);
        let (group, shown) = (name_of_group(1), case.path("keys.yaml").display().to_string());
        let told = || case.found(&Mounts::default()).warnings.concat();
        let advice = format!("`chgrp {group} {shown} && chmod g+r,o= {shown}`");
        assert!(told().ends_with(&advice), "{}", told());
        std::os::unix::fs::chown(case.path("keys.yaml"), None, Some(1)).unwrap();
        assert!(told().ends_with(&format!("; `chmod o= {shown}`")), "{}", told());
        let elsewhere = case.found(&Mounts::one(&case.path(""), "/", "ro", "ext4")).warnings.concat();
        assert!(elsewhere.contains("where it can be changed; of a volume of Kubernetes"), "{elsewhere}");
    }

    #[test]
    fn a_link_leads_to_a_directory_that_is_looked_at_too() {
        let case = Case::new("keys.yaml");
        case.write("open/keys.yaml", 0o600);
        case.chmod("open", 0o777);
        std::os::unix::fs::symlink("open/keys.yaml", case.path("keys.yaml")).unwrap();
        let found = case.found(&Mounts::default());
        assert!(found.alarms.concat().contains("open is a directory that everybody"), "{found:?}");
    }

    #[test]
    fn no_name_of_a_file_is_a_part_of_an_advised_command() {
        let case = Case::new("keys");
        case.write("keys/$(reboot).yaml", 0o646);
        let found = case.found(&Mounts::default());
        assert!(
            found.alarms[0].contains("`chmod o-w '/") && found.alarms[0].contains("$(reboot).yaml'`"),
            "{found:?}"
        );
    }

    #[test]
    fn a_directory_that_everybody_can_change_is_an_alarm_unless_files_of_others_stay_in_it() {
        let case = Case::new("store/keys.yaml");
        case.write("store/keys.yaml", 0o600);
        for (mode, alarms) in [(0o777, 1), (0o1777, 0), (0o775, 0)] {
            case.chmod("store", mode);
            assert_eq!(case.found(&Mounts::default()).alarms.len(), alarms, "{mode:o}");
        }
        let case = Case::new("store");
        case.write("store/a.yaml", 0o600);
        case.chmod("store", 0o1777);
        assert_eq!(case.found(&Mounts::default()).alarms.len(), 1, "a key can be added");
    }

    #[test]
    fn of_many_files_only_some_are_named() {
        let case = Case::new("keys");
        (0..MAX_NAMED + 2).for_each(|number| case.write(&format!("keys/{number}.yaml"), 0o644));
        let warnings = case.found(&Mounts::default()).warnings;
        assert_eq!(warnings.len(), MAX_NAMED + 1);
        assert_eq!(warnings[MAX_NAMED], "2 more files can be read by everybody");
    }

    #[test]
    fn a_file_of_root_alone_in_a_directory_of_the_services_group_is_told() {
        if !geteuid().is_root() {
            return;
        }
        let case = Case::new("keys.yaml");
        case.write("keys.yaml", 0o600);
        case.chmod("token", 0o644);
        case.chmod("", 0o750);
        let path = case.path("keys.yaml");
        let told = || unreadable_by_group(&case.config);
        assert_eq!(told(), [""; 0], "the group is root's");
        std::os::unix::fs::chown(case.path(""), None, Some(1)).unwrap();
        let (group, shown) = (name_of_group(1), path.display());
        let advice = format!("`chgrp {group} {shown} && chmod g+r {shown}`");
        assert_eq!(
            told(),
            [format!("{shown}: the group {group} can't read it, as the service does; {advice}")]
        );
        case.chmod("", 0o755);
        assert_eq!(told(), [""; 0], "the group may be one of many people");
        case.chmod("", 0o750);
        std::os::unix::fs::chown(&path, None, Some(1)).unwrap();
        assert_eq!(told().len(), 1, "its group may not read it");
        case.chmod("keys.yaml", 0o640);
        assert_eq!(told(), [""; 0]);
    }
}
