//! `wasi:filesystem` 0.2 as guests see it.

use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorStat, DescriptorType, HostDescriptor, HostDirectoryEntryStream, NewTimestamp,
    OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynOutputStream, FsResult};

use super::conformance::{
    Door, How, Kind, Seen, backends, check, check_devices, check_read_only, devices, read_only,
};
use super::*;
use crate::tests::Capture;

/// A guest that opens files without end is told so, and what it closes it can open again.
#[tokio::test]
async fn open_files_are_bounded() {
    let mut table = ResourceTable::new();
    let mut files = Files::new(&Mounts::new(), &Budget::new(None), Stdio::none());
    let mut view = FilesView { table: &mut table, files: &mut files };
    let root = view.get_directories().unwrap().remove(0).0;
    let mut open = async || {
        let root = Resource::new_borrow(root.rep());
        view.open_at(root, PathFlags::empty(), "f".into(), OpenFlags::CREATE, DescriptorFlags::WRITE).await
    };
    let mut last = None;
    for _ in 1..OPEN_FILES {
        last = Some(open().await.unwrap());
    }
    assert_eq!(open().await.unwrap_err().downcast().unwrap(), ErrorCode::Quota);
    HostDescriptor::drop(&mut view, last.unwrap()).unwrap();
    assert!(view.get_directories().is_ok());
    assert!(view.get_directories().is_err());
}

/// Programs that log to `/dev/stdout` reach the log.
#[tokio::test]
async fn devices_are_the_same_through_0_2() {
    let mut door = Door2::new(&devices());
    let log = Arc::new(Capture::default());
    door.files.stdio = Stdio::to(&log);
    check_devices(&mut door).await;
    assert_eq!(log.text(), "outerr");
    let stdout = door.open("dev/stdout", How { write: true, ..How::default() }).await.unwrap();
    assert_eq!(door.view().write(again(&stdout), b"direct".to_vec(), 0).await.unwrap(), 6);
    assert_eq!(log.text(), "outerrdirect");
    HostDescriptor::drop(&mut door.view(), stdout).unwrap();
    door.all_closed();
}

/// What a listing makes the host hold is the pod's memory, until it ends.
#[tokio::test]
async fn listings_are_memory() {
    let budget = Budget::new(Some(16 << 10));
    let mut table = ResourceTable::new();
    let mut files = Files::new(&Mounts::new(), &budget, Stdio::none());
    let mut view = FilesView { table: &mut table, files: &mut files };
    let root = view.get_directories().unwrap().remove(0).0.rep();
    let mut open = Vec::new();
    let refused = loop {
        match view.read_directory(Resource::new_borrow(root)).await {
            Ok(listing) => open.push(listing),
            Err(error) => break error.downcast().unwrap(),
        }
        assert!(open.len() < OPEN_FILES, "they are charged");
    };
    assert_eq!(refused, ErrorCode::InsufficientMemory);
    assert!(open.len() > 10 && budget.used() <= 16 << 10);
    open.drain(..).for_each(|listing| HostDirectoryEntryStream::drop(&mut view, listing).unwrap());
    assert_eq!(budget.used(), 0);
}

/// A stream holds its file open when the descriptor is gone.
#[tokio::test]
async fn what_streams_hold_counts() {
    let mut door = Door2::new(&Mounts::new());
    let root = door.root();
    let both = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let opened = door.view().open_at(root, PathFlags::empty(), "f".into(), OpenFlags::CREATE, both).await;
    let file = opened.unwrap();
    let input = door.view().read_via_stream(again(&file), 0).unwrap();
    let output = door.view().append_via_stream(again(&file)).unwrap();
    assert_eq!(door.files.opened(), 2, "all that is one file counts once");
    HostDescriptor::drop(&mut door.view(), file).unwrap();
    assert_eq!(door.files.opened(), 2);
    door.table.delete(input).unwrap();
    assert_eq!(door.files.opened(), 2);
    door.table.delete(output).unwrap();
    door.all_closed();
}

#[tokio::test]
async fn volumes_are_the_same_through_0_2() {
    for backend in backends() {
        println!("{}", backend.name);
        let mut door = Door2::new(&backend.mounts);
        check(&mut door).await;
        door.all_closed();
    }
    for backend in read_only() {
        println!("{}", backend.name);
        check_read_only(&mut Door2::new(&backend.mounts)).await;
    }
}

/// The hosts of 0.2, called as the bindings call them.
struct Door2 {
    table: ResourceTable,
    files: Files,
    root: u32,
}

impl Door2 {
    fn new(mounts: &Mounts) -> Door2 {
        let mut door = Door2 {
            table: ResourceTable::new(),
            files: Files::new(mounts, &Budget::new(None), Stdio::none()),
            root: 0,
        };
        door.root = door.view().get_directories().unwrap().remove(0).0.rep();
        door
    }

    fn view(&mut self) -> FilesView<'_> {
        FilesView { table: &mut self.table, files: &mut self.files }
    }

    fn root(&self) -> Resource<Descriptor> {
        Resource::new_borrow(self.root)
    }

    /// Nothing is left in the table but the root.
    fn all_closed(mut self) {
        assert_eq!(self.files.opened(), 1);
        let root = Resource::new_own(self.root);
        HostDescriptor::drop(&mut self.view(), root).unwrap();
        assert!(self.table.is_empty());
    }
}

fn said<T>(result: FsResult<T>) -> Result<T, String> {
    result.map_err(|error| word(error.downcast().unwrap()))
}

fn word(code: ErrorCode) -> String {
    code.name().to_owned()
}

fn again(file: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(file.rep())
}

fn kind(kind: DescriptorType) -> Kind {
    match kind {
        DescriptorType::RegularFile => Kind::File,
        DescriptorType::Directory => Kind::Directory,
        DescriptorType::SymbolicLink => Kind::Symlink,
        DescriptorType::CharacterDevice => Kind::Device,
        other => panic!("{other:?}"),
    }
}

fn follow(follow: bool) -> PathFlags {
    if follow { PathFlags::SYMLINK_FOLLOW } else { PathFlags::empty() }
}

impl Door2 {
    async fn seen(&mut self, stat: DescriptorStat, identity: (u64, u64)) -> Seen {
        let modified = stat.data_modification_timestamp.unwrap().seconds;
        Seen { kind: kind(stat.type_), size: stat.size, links: stat.link_count, modified, identity }
    }

    /// Writes through a stream, as programs do.
    fn stream(&mut self, stream: Resource<DynOutputStream>, mut data: &[u8]) -> Result<(), String> {
        let mut stream = self.table.delete(stream).unwrap();
        loop {
            let room = match stream.check_write() {
                Ok(room) => room.min(data.len()),
                Err(wasmtime_wasi_io::streams::StreamError::LastOperationFailed(error)) => {
                    return Err(word(error::code(error.downcast_ref().unwrap())));
                }
                Err(error) => panic!("{error}"),
            };
            if data.is_empty() {
                return Ok(());
            }
            stream.write(bytes::Bytes::copy_from_slice(&data[..room])).unwrap();
            data = &data[room..];
        }
    }
}

impl Door for Door2 {
    type Handle = Resource<Descriptor>;

    async fn open(&mut self, path: &str, how: How) -> Result<Self::Handle, String> {
        assert!(how.write || !how.append); // 0.2 says where it writes when it writes
        let mut flags = DescriptorFlags::READ;
        if how.write {
            flags |= DescriptorFlags::WRITE;
        }
        let mut open = OpenFlags::empty();
        for (wanted, flag) in [
            (how.create, OpenFlags::CREATE),
            (how.exclusive, OpenFlags::EXCLUSIVE),
            (how.truncate, OpenFlags::TRUNCATE),
            (how.directory, OpenFlags::DIRECTORY),
        ] {
            if wanted {
                open |= flag;
            }
        }
        let root = self.root();
        said(self.view().open_at(root, follow(true), path.into(), open, flags).await)
    }

    async fn close(&mut self, file: Self::Handle) {
        HostDescriptor::drop(&mut self.view(), file).unwrap();
    }

    async fn read(&mut self, file: &Self::Handle, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        said(self.view().read(again(file), length as u64, offset).await).map(|(data, _)| data)
    }

    async fn write(&mut self, file: &Self::Handle, offset: u64, data: &[u8]) -> Result<(), String> {
        let stream = said(self.view().write_via_stream(again(file), offset))?;
        self.stream(stream, data)
    }

    async fn append(&mut self, file: &Self::Handle, data: &[u8]) -> Result<(), String> {
        let stream = said(self.view().append_via_stream(again(file)))?;
        self.stream(stream, data)
    }

    async fn set_size(&mut self, file: &Self::Handle, size: u64) -> Result<(), String> {
        said(self.view().set_size(again(file), size).await)
    }

    async fn sync(&mut self, file: &Self::Handle) -> Result<(), String> {
        said(self.view().sync_data(again(file)).await)?;
        said(HostDescriptor::sync(&mut self.view(), again(file)).await)
    }

    async fn advise(&mut self, file: &Self::Handle) -> Result<(), String> {
        said(self.view().advise(again(file), 0, u64::MAX, Advice::WillNeed).await)
    }

    async fn stat(&mut self, file: &Self::Handle) -> Result<Seen, String> {
        let stat = said(self.view().stat(again(file)).await)?;
        let hash = said(self.view().metadata_hash(again(file)).await)?;
        Ok(self.seen(stat, (hash.lower, hash.upper)).await)
    }

    async fn stat_at(&mut self, path: &str, links: bool) -> Result<Seen, String> {
        let (root, again) = (self.root(), self.root());
        let stat = said(self.view().stat_at(root, follow(links), path.into()).await)?;
        let hash = said(self.view().metadata_hash_at(again, follow(links), path.into()).await)?;
        Ok(self.seen(stat, (hash.lower, hash.upper)).await)
    }

    async fn set_modified(&mut self, path: &str, seconds: u64) -> Result<(), String> {
        let root = self.root();
        let at = NewTimestamp::Timestamp(Datetime { seconds, nanoseconds: 0 });
        said(self.view().set_times_at(root, follow(true), path.into(), NewTimestamp::NoChange, at).await)
    }

    async fn list(&mut self, path: &str) -> Result<Vec<(String, Kind)>, String> {
        let dir = self.open(path, How { directory: true, ..How::default() }).await?;
        let stream = said(self.view().read_directory(again(&dir)).await)?;
        let mut names = Vec::new();
        let rep = stream.rep();
        while let Some(entry) = said(self.view().read_directory_entry(Resource::new_borrow(rep)).await)? {
            names.push((entry.name, kind(entry.type_)));
        }
        HostDirectoryEntryStream::drop(&mut self.view(), stream).unwrap();
        self.close(dir).await;
        Ok(names)
    }

    async fn create_directory(&mut self, path: &str) -> Result<(), String> {
        let root = self.root();
        said(self.view().create_directory_at(root, path.into()).await)
    }

    async fn remove_directory(&mut self, path: &str) -> Result<(), String> {
        let root = self.root();
        said(self.view().remove_directory_at(root, path.into()).await)
    }

    async fn unlink(&mut self, path: &str) -> Result<(), String> {
        let root = self.root();
        said(self.view().unlink_file_at(root, path.into()).await)
    }

    async fn rename(&mut self, from: &str, to: &str) -> Result<(), String> {
        let (root, again) = (self.root(), self.root());
        said(self.view().rename_at(root, from.into(), again, to.into()).await)
    }

    async fn link(&mut self, from: &str, to: &str) -> Result<(), String> {
        let (root, again) = (self.root(), self.root());
        said(self.view().link_at(root, PathFlags::empty(), from.into(), again, to.into()).await)
    }

    async fn symlink(&mut self, target: &str, path: &str) -> Result<(), String> {
        let root = self.root();
        said(self.view().symlink_at(root, target.into(), path.into()).await)
    }

    async fn read_link(&mut self, path: &str) -> Result<String, String> {
        let root = self.root();
        said(self.view().readlink_at(root, path.into()).await)
    }
}
