//! The files of `/dev` that programs expect in every container: nothing of the host's devices, but what these are
//! for under their names.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rand::Rng;

use crate::clock;
use crate::error::VfsError;
use crate::namespace::{Mount, Point};
use crate::quota::Quota;
use crate::tree::{Access, Cursor, FileKind, Node, OpenFile, Stat, Times, Tree, next_device};
use crate::volume::Usage;

/// What a file of `/dev` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Reads as empty; what is written is gone.
    Null,
    /// Reads as zeros without end.
    Zero,
    /// Reads as random bytes without end.
    Random,
    /// What the program reads as its stdin. It is the host's to say what that is, as with the next two: here they
    /// can be opened and nothing else.
    Stdin,
    /// Where the program's stdout goes.
    Stdout,
    /// Where the program's stderr goes.
    Stderr,
}

/// The names, by their numbers.
const NAMES: [(&str, Device); 7] = [
    ("null", Device::Null),
    ("zero", Device::Zero),
    ("random", Device::Random),
    ("urandom", Device::Random),
    ("stdin", Device::Stdin),
    ("stdout", Device::Stdout),
    ("stderr", Device::Stderr),
];

/// They are the same for all, so there is one of them.
static POINT: LazyLock<Arc<Point>> = LazyLock::new(|| {
    let quota = Quota::new(None);
    let tree: Arc<dyn Tree> = Arc::new(Devices { number: next_device(), since: clock::now(), quota });
    let mounts = NAMES.iter().zip(1..).map(|((name, device), inode)| {
        let root = Node { kind: FileKind::Device, inner: Arc::new(Item { device: *device, inode }) };
        let mount = Mount { tree: Arc::clone(&tree), root, read_only: false };
        ((*name).to_owned(), Arc::new(Point { mount: Some(Arc::new(mount)), children: BTreeMap::new() }))
    });
    Arc::new(Point { mount: None, children: mounts.collect() })
});

/// What is mounted in `/dev`.
pub(crate) fn point() -> Arc<Point> {
    Arc::clone(&POINT)
}

/// Files without a directory: each is mounted by itself.
struct Devices {
    number: u64,
    since: SystemTime,
    /// Empty: nothing is ever charged.
    quota: Quota,
}

struct Item {
    device: Device,
    inode: u64,
}

impl Devices {
    fn facts(&self, item: &Item) -> Stat {
        Stat {
            kind: FileKind::Device,
            size: 0,
            links: 1,
            device: self.number,
            inode: item.inode,
            mode: 0o666,
            accessed: self.since,
            modified: self.since,
            changed: self.since,
        }
    }
}

impl Tree for Devices {
    fn device(&self) -> u64 {
        self.number
    }

    fn blocking(&self) -> bool {
        false
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn quota(&self) -> &Quota {
        &self.quota
    }

    fn root(&self) -> Node {
        Node { kind: FileKind::Device, inner: Arc::new(Item { device: Device::Null, inode: 0 }) }
    }

    fn lookup(&self, _dir: &Node, _name: &str) -> Result<Node, VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn stat(&self, node: &Node) -> Result<Stat, VfsError> {
        Ok(self.facts(node.get()))
    }

    fn set_times(&self, _node: &Node, _times: Times) -> Result<(), VfsError> {
        Ok(())
    }

    fn open(&self, node: &Node, _access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        let item = node.get::<Item>();
        Ok(Arc::new(Opened { device: item.device, stat: self.facts(item) }))
    }

    fn create(&self, _dir: &Node, _name: &str, _access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn create_directory(&self, _dir: &Node, _name: &str) -> Result<(), VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn symlink(&self, _dir: &Node, _name: &str, _target: &str) -> Result<(), VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn read_link(&self, _node: &Node) -> Result<String, VfsError> {
        Err(VfsError::Invalid)
    }

    fn link(&self, _from: &Node, _name: &str, _to: &Node, _new_name: &str) -> Result<(), VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn unlink(&self, _dir: &Node, _name: &str) -> Result<(), VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn remove_directory(&self, _dir: &Node, _name: &str) -> Result<(), VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn rename(&self, _from: &Node, _name: &str, _to: &Node, _new_name: &str) -> Result<(), VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn read_directory(&self, _dir: &Node) -> Result<Box<dyn Cursor>, VfsError> {
        Err(VfsError::NotDirectory)
    }

    fn sync(&self, _dir: &Node) -> Result<(), VfsError> {
        Ok(())
    }
}

/// One of them, open.
struct Opened {
    device: Device,
    stat: Stat,
}

impl OpenFile for Opened {
    fn device(&self) -> Option<Device> {
        Some(self.device)
    }

    fn read_at(&self, _offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError> {
        match self.device {
            Device::Null => return Ok(0),
            Device::Zero => buffer.fill(0),
            Device::Random => rand::rng().fill_bytes(buffer),
            Device::Stdin | Device::Stdout | Device::Stderr => return Err(VfsError::Unsupported),
        }
        Ok(buffer.len())
    }

    fn write_at(&self, _offset: u64, data: &[u8]) -> Result<usize, VfsError> {
        match self.device {
            Device::Null | Device::Zero | Device::Random => Ok(data.len()),
            Device::Stdin | Device::Stdout | Device::Stderr => Err(VfsError::Unsupported),
        }
    }

    fn append(&self, data: &[u8]) -> Result<usize, VfsError> {
        self.write_at(0, data)
    }

    fn set_size(&self, _size: u64) -> Result<(), VfsError> {
        Err(VfsError::Invalid)
    }

    fn reserve(&self, _offset: u64, _length: u64) -> Result<(), VfsError> {
        Err(VfsError::Unsupported)
    }

    fn stat(&self) -> Result<Stat, VfsError> {
        Ok(self.stat)
    }

    fn set_times(&self, _times: Times) -> Result<(), VfsError> {
        Ok(())
    }

    fn blocking(&self) -> bool {
        false
    }

    fn sync(&self, _data_only: bool) -> Result<(), VfsError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CREATE, READ, WRITE, fails, names};
    use crate::{MountOptions, Mounts, OpenOptions, Volume};

    #[test]
    fn dev_has_what_programs_expect() {
        let mut mounts = Mounts::new();
        mounts.add_devices().unwrap();
        let root = mounts.root();
        root.write("dev/own", b"x").unwrap();
        let dev = root.open_directory("dev").unwrap();
        let all = ["null", "own", "random", "stderr", "stdin", "stdout", "urandom", "zero"];
        assert_eq!(names(&dev), all);
        let null = root.open_file("dev/null", OpenOptions { truncate: true, ..CREATE }).unwrap();
        assert_eq!(null.write_at(1 << 40, b"gone").unwrap(), 4);
        let mut bytes = [7; 64];
        assert_eq!(null.read_at(0, &mut bytes).unwrap(), 0);
        let zero = root.open_file("dev/zero", READ).unwrap();
        assert_eq!((zero.read_at(1 << 40, &mut bytes).unwrap(), bytes), (64, [0; 64]));
        for name in ["dev/random", "dev/urandom"] {
            let mut other = [0; 64];
            let random = root.open_file(name, READ).unwrap();
            assert_eq!(random.read_at(0, &mut other).unwrap(), 64);
            assert_ne!(std::mem::replace(&mut bytes, other), other);
        }
        let stdout = root.open_file("dev/stdout", WRITE).unwrap();
        assert_eq!((stdout.device(), null.device()), (Some(Device::Stdout), Some(Device::Null)));
        assert_eq!(root.stat_at("dev/stdout", true).unwrap().kind, FileKind::Device);
        fails(stdout.append(b"x"), "Unsupported");
        fails(null.set_size(9), "Invalid");
        fails(root.unlink("dev/null"), "Busy");
        fails(root.rename("dev/null", &root, "null"), "Busy");
        fails(root.open_directory("dev/null"), "NotDirectory");
        fails(root.open("dev/null/x", READ), "NotDirectory");
    }

    /// A volume over `/dev`, or over one of them, is what its author asked for; a read-only root has them, too.
    #[test]
    fn volumes_come_over_devices() {
        let mut mounts = Mounts::new();
        mounts.add_devices().unwrap();
        let volume = Volume::memory(None);
        volume.root().write("file", b"mine").unwrap();
        let part = MountOptions { sub_path: Some("file".to_owned()), ..MountOptions::default() };
        mounts.add("/dev/zero", &volume, &part).unwrap();
        mounts.add("/dev/shm", &volume, &MountOptions::default()).unwrap();
        mounts.set_root_read_only();
        let root = mounts.root();
        assert_eq!(root.read("dev/zero", 9).unwrap(), b"mine");
        assert_eq!(root.read("dev/shm/file", 9).unwrap(), b"mine");
        assert!(root.open_file("dev/null", WRITE).is_ok());
        let mut other = Mounts::new();
        other.add_devices().unwrap();
        let zero = other.root().stat_at("dev/zero", true).unwrap();
        assert_eq!(zero.kind, FileKind::Device, "another container's are untouched");
    }
}
