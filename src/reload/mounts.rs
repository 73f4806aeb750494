//! The mounts that a process sees, as far as they say who else sees and changes its files.

use std::path::{Component, Path};

use procfs::process::{MountInfo, Process};

/// The mounts of this process (proc(5), `mountinfo`).
#[derive(Default)]
pub(super) struct Mounts {
    all: Vec<MountInfo>,
    /// Whether the process runs in a pod of Kubernetes.
    is_in_pod: bool,
}

impl Mounts {
    pub(super) fn of_process() -> Self {
        let mounts = Process::myself().and_then(|me| me.mountinfo());
        let all = mounts.map(|mounts| mounts.into_iter().collect()).unwrap_or_default();
        Mounts { all, is_in_pod: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() }
    }

    /// Returns the mount that a file is on: the innermost, and of several at one place the last.
    fn of_file(&self, path: &Path) -> Option<&MountInfo> {
        let path = path.canonicalize().ok()?;
        let around = self.all.iter().filter(|mount| path.starts_with(&mount.mount_point));
        around.max_by_key(|mount| mount.mount_point.components().count())
    }

    /// Whether this process can't change a file, whatever its permissions are.
    pub(super) fn are_read_only_at(&self, path: &Path) -> bool {
        self.of_file(path).is_some_and(is_read_only)
    }

    /// Whether a file is on a volume that only the containers see whose pod names it: a Secret, a ConfigMap, an
    /// emptyDir. The kubelet makes such files readable by all, and an emptyDir changeable by all.
    pub(super) fn are_of_pod_at(&self, path: &Path) -> bool {
        self.of_file(path).is_some_and(|mount| {
            let is_memory = mount.fs_type == "tmpfs";
            // A hostPath below the machine's `/run` has another root than that of its file system.
            let is_own = self.is_in_pod && mount.root == "/";
            (is_memory && (is_own || is_read_only(mount))) || has_part(mount, "kubernetes.io~")
        })
    }

    /// Whether a file is replaced somewhere else than here: it is a mount by itself, or it is on a mount of one
    /// version of a volume (a subPath of a directory). The kubelet puts each version of a volume into a new
    /// directory whose name begins with two dots. A directory that is a mount, such as a whole volume, shows
    /// its changes.
    pub(super) fn hide_changes_of(&self, path: &Path) -> bool {
        let Some(mount) = self.of_file(path) else { return false };
        let is_single = !path.is_dir() && path.canonicalize().is_ok_and(|path| path == mount.mount_point);
        is_single || has_part(mount, "..")
    }
}

fn is_read_only(mount: &MountInfo) -> bool {
    mount.mount_options.contains_key("ro")
}

/// Whether the directory that is mounted has a part whose name begins with a text.
fn has_part(mount: &MountInfo, beginning: &str) -> bool {
    Path::new(&mount.root).components().any(|part| match part {
        Component::Normal(name) => name.as_encoded_bytes().starts_with(beginning.as_bytes()),
        _ => false,
    })
}

#[cfg(test)]
impl Mounts {
    /// One mount at `point`, of the directory `root` of its file system.
    pub(super) fn one(point: &Path, root: &str, options: &str, system: &str) -> Self {
        let point = point.display();
        let line = format!("36 35 0:50 {root} {point} {options} - {system} none rw");
        Mounts { all: vec![MountInfo::from_line(&line).unwrap()], is_in_pod: false }
    }

    pub(super) fn in_pod(self) -> Self {
        Mounts { is_in_pod: true, ..self }
    }
}
