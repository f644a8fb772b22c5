//! The files of 0.3 by the suite that all versions pass: the hosts, called as the bindings call them, and their
//! streams read and written by the test.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use coracle_budget::Budget;
use coracle_vfs::{Mounts, OpenOptions, Volume};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use wasmtime::component::{
    Accessor, FutureConsumer, FutureReader, Lift, Resource, ResourceTable, Source, StreamConsumer,
    StreamReader, StreamResult,
};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi::p3::bindings::clocks::system_clock::Instant;
use wasmtime_wasi::p3::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p3::bindings::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, HostDescriptor,
    HostDescriptorWithStore, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::FilesystemResult;

use super::flow::{Ended, Ending, FileProducer};
use crate::container::Cpu;
use crate::engine::{self, Guards, Settings};
use crate::executor::Executor;
use crate::files::conformance::{
    Door, How, Kind, Seen, backends, check, check_devices, check_read_only, devices, read_only,
};
use crate::files::{FileSystem, Files, FilesView};
use crate::output::{GuestOutput, Output};
use crate::stdio::Stdio;
use crate::tests::Capture;

#[tokio::test]
async fn volumes_are_the_same_through_0_3() {
    let (engine, _) = engine::build(1, Settings { wasi_p3: true, dense: false }, Guards::Light).unwrap();
    let through = async |mounts: &Mounts, writable: bool| {
        let host = Host {
            table: ResourceTable::new(),
            files: Files::new(mounts, &Budget::new(None), Stdio::none()),
        };
        let mut store = Store::new(&engine, host);
        let checked = store.run_concurrent(async |accessor| {
            let mut door = Door3::new(accessor);
            if writable {
                check(&mut door).await;
            } else {
                check_read_only(&mut door).await;
            }
            door.close_root();
        });
        checked.await.unwrap();
        let host = store.into_data();
        assert_eq!(host.files.opened(), 0);
        assert!(host.table.is_empty());
    };
    for backend in backends() {
        println!("{}", backend.name);
        through(&backend.mounts, true).await;
    }
    for backend in read_only() {
        println!("{}", backend.name);
        through(&backend.mounts, false).await;
    }
}

#[tokio::test]
async fn devices_are_the_same_through_0_3() {
    let (engine, _) = engine::build(1, Settings { wasi_p3: true, dense: false }, Guards::Light).unwrap();
    let log = Arc::new(Capture::default());
    let files = Files::new(&devices(), &Budget::new(None), Stdio::to(&log));
    let mut store = Store::new(&engine, Host { table: ResourceTable::new(), files });
    let checked = store.run_concurrent(async |accessor| check_devices(&mut Door3::new(accessor)).await);
    checked.await.unwrap();
    assert_eq!(log.text(), "outerr");
}

/// What flows from host to host, without a guest that could be interrupted, lets others have their turns; so it can
/// be ended, too.
#[tokio::test]
async fn what_flows_without_its_guest_gives_way() {
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let executor = Executor::start(1, io, || {}, || {}).unwrap();
    let (engine, _) = engine::build(1, Settings { wasi_p3: true, dense: false }, Guards::Light).unwrap();
    let volume = Volume::memory(None);
    let options = OpenOptions { read: true, write: true, create: true, ..OpenOptions::default() };
    let file = volume.root().open_file("endless", options).unwrap();
    file.set_size(1 << 62).unwrap();
    let open = Files::new(&Mounts::new(), &Budget::new(None), Stdio::none()).open().unwrap();

    let (sender, flows) = oneshot::channel();
    let mut store = Store::new(&engine, ());
    let endless = async move {
        let flow = store.run_concurrent(async |accessor| {
            let piped = accessor.with(|mut access| {
                let (ending, _ended) = Ending::new(&mut access)?;
                let producer = FileProducer { file, own: None, position: 0, ending, _open: open };
                StreamReader::new(&mut access, producer)?.pipe(&mut access, Nowhere(Mutex::new(Some(sender))))
            });
            piped.unwrap();
            std::future::pending::<()>().await;
        });
        flow.await.unwrap();
    };
    executor.spawn(&executor.share(Cpu::default()), endless, drop);
    flows.await.unwrap();
    another_runs(&executor).await;

    // The same for what wasmtime-wasi moves.
    let (sender, flows) = oneshot::channel();
    let output = GuestOutput::new(Arc::new(Nowhere(Mutex::new(Some(sender)))), false);
    let endless = async move { tokio::io::copy(&mut tokio::io::repeat(7), &mut { output }).await };
    executor.spawn(&executor.share(Cpu::default()), endless, drop);
    flows.await.unwrap();
    another_runs(&executor).await;
}

async fn another_runs(executor: &Executor) {
    let (sender, other) = oneshot::channel();
    let end = move |_| sender.send(()).unwrap();
    executor.spawn(&executor.share(Cpu::default()), async {}, end);
    timeout(Duration::from_secs(60), other).await.expect("it has its turn").unwrap();
}

/// Takes everything, and says when the first has come.
struct Nowhere(Mutex<Option<oneshot::Sender<()>>>);

impl Nowhere {
    fn took(&self) {
        if let Some(sender) = self.0.lock().take() {
            sender.send(()).unwrap();
        }
    }
}

impl<D: 'static> StreamConsumer<D> for Nowhere {
    type Item = u8;

    fn poll_consume(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        store: StoreContextMut<D>,
        source: Source<'_, u8>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        self.took();
        let mut source = source.as_direct(store);
        let count = source.remaining().len();
        source.mark_read(count);
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

impl Output for Nowhere {
    fn write(&self, _bytes: &[u8]) {
        self.took();
    }
}

struct Host {
    table: ResourceTable,
    files: Files,
}

impl Host {
    fn view(&mut self) -> FilesView<'_> {
        FilesView { table: &mut self.table, files: &mut self.files }
    }
}

struct Door3 {
    files: Accessor<Host, FileSystem>,
    root: u32,
}

impl Door3 {
    fn new(accessor: &Accessor<Host>) -> Door3 {
        let files = accessor.with_getter::<FileSystem>(Host::view);
        let root = files.with(|mut access| access.get().get_directories().unwrap().remove(0).0.rep());
        Door3 { files, root }
    }

    fn root(&self) -> Resource<Descriptor> {
        Resource::new_borrow(self.root)
    }

    fn drop_handle(&self, rep: u32) {
        self.files
            .with(|mut access| HostDescriptor::drop(&mut access.get(), Resource::new_own(rep)).unwrap());
    }

    fn close_root(self) {
        self.drop_handle(self.root);
    }

    /// Takes at most so many items of a stream, and says how it ended.
    async fn taken<T: Lift + Send + Unpin + 'static>(
        &self,
        (stream, ended): (StreamReader<T>, Ended<ErrorCode>),
        most: usize,
    ) -> Result<Vec<T>, String> {
        let (told, found) = oneshot::channel();
        let collect = Collect { left: most, found: Vec::new(), told: Some(told) };
        self.files.with(|access| stream.pipe(access, collect)).unwrap();
        let found = found.await.unwrap();
        self.end(ended).await.map(|()| found)
    }

    /// Waits until a stream has ended.
    async fn end(&self, ended: FutureReader<Result<(), ErrorCode>>) -> Result<(), String> {
        let (told, found) = oneshot::channel();
        self.files.with(|access| ended.pipe(access, Tell(Some(told)))).unwrap();
        found.await.unwrap().map_err(word)
    }

    fn seen(stat: &DescriptorStat, identity: (u64, u64)) -> Seen {
        let modified = stat.data_modification_timestamp.unwrap().seconds.try_into().unwrap();
        Seen { kind: kind(&stat.type_), size: stat.size, links: stat.link_count, modified, identity }
    }
}

/// Takes what comes, and hands it over in the end.
struct Collect<T> {
    left: usize,
    found: Vec<T>,
    told: Option<oneshot::Sender<Vec<T>>>,
}

impl<T: Lift + Send + Unpin + 'static> StreamConsumer<Host> for Collect<T> {
    type Item = T;

    fn poll_consume(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut store: StoreContextMut<Host>,
        mut source: Source<'_, T>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = self.get_mut();
        let mut part = Vec::with_capacity(source.remaining(&mut store).min(this.left));
        source.read(&mut store, &mut part)?;
        this.left -= part.len();
        this.found.append(&mut part);
        Poll::Ready(Ok(if this.left == 0 { StreamResult::Dropped } else { StreamResult::Completed }))
    }
}

impl<T> Drop for Collect<T> {
    fn drop(&mut self) {
        if let Some(told) = self.told.take() {
            let _ = told.send(std::mem::take(&mut self.found));
        }
    }
}

/// Passes the value of a future on.
struct Tell<T>(Option<oneshot::Sender<T>>);

impl<T: Lift + Send + 'static> FutureConsumer<Host> for Tell<T> {
    type Item = T;

    fn poll_consume(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        store: StoreContextMut<Host>,
        mut source: Source<'_, T>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut value = None;
        source.read(store, &mut value)?;
        if let (Some(value), Some(told)) = (value, self.get_mut().0.take()) {
            let _ = told.send(value);
        }
        Poll::Ready(Ok(()))
    }
}

fn said<T>(result: FilesystemResult<T>) -> Result<T, String> {
    result.map_err(|error| word(error.downcast().unwrap()))
}

/// `ErrorCode::NoEntry` is `no-entry`.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn word(code: ErrorCode) -> String {
    let name = format!("{code:?}");
    let name = name.rsplit("::").next().unwrap_or(&name);
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

fn kind(kind: &DescriptorType) -> Kind {
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

fn again(file: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(file.rep())
}

impl Door for Door3 {
    type Handle = Resource<Descriptor>;

    async fn open(&mut self, path: &str, how: How) -> Result<Self::Handle, String> {
        let flag = |wanted, flag| if wanted { flag } else { OpenFlags::empty() };
        let open = flag(how.create, OpenFlags::CREATE)
            | flag(how.exclusive, OpenFlags::EXCLUSIVE)
            | flag(how.truncate, OpenFlags::TRUNCATE)
            | flag(how.directory, OpenFlags::DIRECTORY);
        let writing = if how.write { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
        let flags = DescriptorFlags::READ | writing;
        said(FileSystem::open_at(&self.files, self.root(), follow(true), path.into(), open, flags).await)
    }

    async fn close(&mut self, file: Self::Handle) {
        self.drop_handle(file.rep());
    }

    async fn read(&mut self, file: &Self::Handle, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let streams = self.files.with(|access| FileSystem::read_via_stream(access, again(file), offset));
        self.taken(streams.unwrap(), length).await
    }

    async fn write(&mut self, file: &Self::Handle, offset: u64, data: &[u8]) -> Result<(), String> {
        let ended = self.files.with(|mut access| {
            let data = StreamReader::new(&mut access, data.to_vec()).unwrap();
            FileSystem::write_via_stream(access, again(file), data, offset).unwrap()
        });
        self.end(ended).await
    }

    async fn append(&mut self, file: &Self::Handle, data: &[u8]) -> Result<(), String> {
        let ended = self.files.with(|mut access| {
            let data = StreamReader::new(&mut access, data.to_vec()).unwrap();
            FileSystem::append_via_stream(access, again(file), data).unwrap()
        });
        self.end(ended).await
    }

    async fn set_size(&mut self, file: &Self::Handle, size: u64) -> Result<(), String> {
        said(FileSystem::set_size(&self.files, again(file), size).await)
    }

    async fn sync(&mut self, file: &Self::Handle) -> Result<(), String> {
        said(FileSystem::sync_data(&self.files, again(file)).await)?;
        said(FileSystem::sync(&self.files, again(file)).await)
    }

    async fn advise(&mut self, file: &Self::Handle) -> Result<(), String> {
        said(FileSystem::advise(&self.files, again(file), 0, u64::MAX, Advice::WillNeed).await)
    }

    async fn stat(&mut self, file: &Self::Handle) -> Result<Seen, String> {
        let stat = said(FileSystem::stat(&self.files, again(file)).await)?;
        let hash = said(FileSystem::metadata_hash(&self.files, again(file)).await)?;
        Ok(Door3::seen(&stat, (hash.lower, hash.upper)))
    }

    async fn stat_at(&mut self, path: &str, links: bool) -> Result<Seen, String> {
        let stat = FileSystem::stat_at(&self.files, self.root(), follow(links), path.into()).await;
        let hash = FileSystem::metadata_hash_at(&self.files, self.root(), follow(links), path.into()).await;
        let (stat, hash) = (said(stat)?, said(hash)?);
        Ok(Door3::seen(&stat, (hash.lower, hash.upper)))
    }

    async fn set_modified(&mut self, path: &str, seconds: u64) -> Result<(), String> {
        let at = Instant { seconds: seconds.try_into().unwrap(), nanoseconds: 0 };
        let (keep, at) = (NewTimestamp::NoChange, NewTimestamp::Timestamp(at));
        said(FileSystem::set_times_at(&self.files, self.root(), follow(true), path.into(), keep, at).await)
    }

    async fn list(&mut self, path: &str) -> Result<Vec<(String, Kind)>, String> {
        let dir = self.open(path, How { directory: true, ..How::default() }).await?;
        let streams = self.files.with(|access| FileSystem::read_directory(access, again(&dir)));
        let found = self.taken(streams.unwrap(), usize::MAX).await;
        self.close(dir).await;
        Ok(found?.into_iter().map(|entry| (entry.name, kind(&entry.type_))).collect())
    }

    async fn create_directory(&mut self, path: &str) -> Result<(), String> {
        said(FileSystem::create_directory_at(&self.files, self.root(), path.into()).await)
    }

    async fn remove_directory(&mut self, path: &str) -> Result<(), String> {
        said(FileSystem::remove_directory_at(&self.files, self.root(), path.into()).await)
    }

    async fn unlink(&mut self, path: &str) -> Result<(), String> {
        said(FileSystem::unlink_file_at(&self.files, self.root(), path.into()).await)
    }

    async fn rename(&mut self, from: &str, to: &str) -> Result<(), String> {
        let renamed =
            FileSystem::rename_at(&self.files, self.root(), from.into(), self.root(), to.into()).await;
        said(renamed)
    }

    async fn link(&mut self, from: &str, to: &str) -> Result<(), String> {
        let (root, none) = (self.root(), PathFlags::empty());
        said(FileSystem::link_at(&self.files, root, none, from.into(), self.root(), to.into()).await)
    }

    async fn symlink(&mut self, target: &str, path: &str) -> Result<(), String> {
        said(FileSystem::symlink_at(&self.files, self.root(), target.into(), path.into()).await)
    }

    async fn read_link(&mut self, path: &str) -> Result<String, String> {
        said(FileSystem::readlink_at(&self.files, self.root(), path.into()).await)
    }
}
