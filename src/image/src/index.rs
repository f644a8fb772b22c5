//! Which repository has what: in memory for reading, in small files for the next start.
//!
//! Changes are written before they are shown, one at a time. A file that names content which is not
//! there (a removal that was interrupted) is ignored at the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::ImageError;
use crate::content::{Content, remove_if_there, sync_dir};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Manifest};

/// Repositories by their full name, `<registry>/<name>`.
pub(crate) struct Index {
    root: PathBuf,
    repositories: RwLock<BTreeMap<String, Repository>>,
    /// Held while files change, so that a blob is not removed while another repository links it.
    changes: Mutex<()>,
}

#[derive(Clone, Default)]
struct Repository {
    blobs: BTreeSet<Digest>,
    /// With their media types.
    manifests: BTreeMap<Digest, String>,
    tags: BTreeMap<String, Digest>,
    /// What says something about a manifest, which need not be here: by both digests.
    referrers: BTreeMap<Digest, BTreeMap<Digest, Value>>,
}

const BLOBS: &str = "_blobs";
const MANIFESTS: &str = "_manifests";
const TAGS: &str = "_tags";
const REFERRERS: &str = "_referrers";

impl Index {
    pub(crate) fn open(dir: &Path, content: &Content) -> Result<Index, ImageError> {
        let root = dir.join("repositories");
        fs::create_dir_all(&root).map_err(ImageError::io("create", &root))?;
        let mut repositories = BTreeMap::new();
        let mut folders = vec![(root.clone(), String::new())];
        while let Some((folder, name)) = folders.pop() {
            let mut repository = Repository::default();
            for (child, path) in children(&folder)? {
                match child.as_str() {
                    BLOBS => {
                        let digests =
                            children(&path)?.into_iter().filter_map(|(hex, _)| Digest::from_hex(&hex));
                        repository.blobs.extend(digests);
                    }
                    MANIFESTS => {
                        for (hex, path) in children(&path)? {
                            let media_type =
                                fs::read_to_string(&path).map_err(ImageError::io("read", &path))?;
                            repository
                                .manifests
                                .extend(Digest::from_hex(&hex).map(|digest| (digest, media_type)));
                        }
                    }
                    TAGS => {
                        for (tag, path) in children(&path)? {
                            let digest = fs::read_to_string(&path).map_err(ImageError::io("read", &path))?;
                            repository.tags.extend(Digest::parse(&digest).map(|digest| (tag, digest)));
                        }
                    }
                    REFERRERS => {
                        for (pair, path) in children(&path)? {
                            let text = fs::read(&path).map_err(ImageError::io("read", &path))?;
                            let said: Value = serde_json::from_slice(&text).unwrap_or_default();
                            let subject =
                                pair.split_once('-').and_then(|(subject, _)| Digest::from_hex(subject));
                            let referrer = said["digest"].as_str().and_then(Digest::parse);
                            if let (Some(subject), Some(referrer)) = (subject, referrer) {
                                repository.referrers.entry(subject).or_default().insert(referrer, said);
                            }
                        }
                    }
                    _ if name.is_empty() => folders.push((path, child)),
                    _ => folders.push((path, format!("{name}/{child}"))),
                }
            }
            repository.forget_missing(content)?;
            if !repository.is_empty() {
                repositories.insert(name, repository);
            } else if !name.is_empty() {
                remove_folders(&root, &name);
            }
        }
        Ok(Index { root, repositories: RwLock::new(repositories), changes: Mutex::new(()) })
    }

    pub(crate) fn has_repository(&self, name: &str) -> bool {
        self.repositories.read().contains_key(name)
    }

    pub(crate) fn has_blob(&self, name: &str, digest: &Digest) -> bool {
        self.repositories.read().get(name).is_some_and(|repository| repository.blobs.contains(digest))
    }

    /// A repository below `prefix` that has the blob.
    pub(crate) fn find_blob(&self, prefix: &str, digest: &Digest) -> bool {
        let repositories = self.repositories.read();
        repositories
            .iter()
            .any(|(name, repository)| name.starts_with(prefix) && repository.blobs.contains(digest))
    }

    pub(crate) fn tag(&self, name: &str, tag: &str) -> Option<Digest> {
        self.repositories.read().get(name)?.tags.get(tag).cloned()
    }

    /// The media type of a manifest.
    pub(crate) fn manifest(&self, name: &str, digest: &Digest) -> Option<String> {
        self.repositories.read().get(name)?.manifests.get(digest).cloned()
    }

    /// Whether any repository has a manifest.
    pub(crate) fn has_manifest(&self, digest: &Digest) -> bool {
        self.repositories.read().values().any(|repository| repository.manifests.contains_key(digest))
    }

    pub(crate) fn blobs_of(&self, name: &str) -> BTreeSet<Digest> {
        self.repositories.read().get(name).map(|repository| repository.blobs.clone()).unwrap_or_default()
    }

    pub(crate) fn manifests_of(&self, name: &str) -> Vec<Digest> {
        let repositories = self.repositories.read();
        repositories
            .get(name)
            .map_or_else(Vec::new, |repository| repository.manifests.keys().cloned().collect())
    }

    pub(crate) fn is_tagged(&self, name: &str, digest: &Digest) -> bool {
        let repositories = self.repositories.read();
        repositories
            .get(name)
            .is_some_and(|repository| repository.tags.values().any(|tagged| tagged == digest))
    }

    pub(crate) fn tags(&self, name: &str) -> Option<Vec<String>> {
        Some(self.repositories.read().get(name)?.tags.keys().cloned().collect())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.repositories.read().keys().cloned().collect()
    }

    /// The descriptors of the manifests of a repository that say something about another one.
    pub(crate) fn referrers(&self, name: &str, subject: &Digest) -> BTreeMap<Digest, Value> {
        let repositories = self.repositories.read();
        let referrers = repositories.get(name).and_then(|repository| repository.referrers.get(subject));
        referrers.cloned().unwrap_or_default()
    }

    /// All manifests, as repository, digest and the tags for it.
    pub(crate) fn manifests(&self) -> Vec<(String, Digest, Vec<String>)> {
        let mut all = Vec::new();
        for (name, repository) in &*self.repositories.read() {
            for digest in repository.manifests.keys() {
                let tags = repository.tags.iter().filter(|(_, tagged)| *tagged == digest);
                all.push((name.clone(), digest.clone(), tags.map(|(tag, _)| tag.clone()).collect()));
            }
        }
        all
    }

    /// Makes the file of a finished draft a blob of the repository.
    pub(crate) fn adopt(
        &self,
        content: &Content,
        name: &str,
        draft: &Path,
        digest: &Digest,
    ) -> Result<(), ImageError> {
        let _changes = self.changes.lock();
        content.adopt(draft, digest)?;
        self.link_blob(name, digest)
    }

    /// Stores bytes as a blob of the repository.
    pub(crate) fn store(&self, content: &Content, name: &str, bytes: &[u8]) -> Result<Digest, ImageError> {
        let _changes = self.changes.lock();
        let digest = content.write(bytes)?;
        self.link_blob(name, &digest)?;
        Ok(digest)
    }

    /// Gives a repository a blob that another one has; false if it is gone.
    pub(crate) fn mount(&self, content: &Content, name: &str, digest: &Digest) -> Result<bool, ImageError> {
        let _changes = self.changes.lock();
        let there = content.size(digest)?.is_some();
        if there {
            self.link_blob(name, digest)?;
        }
        Ok(there)
    }

    fn link_blob(&self, name: &str, digest: &Digest) -> Result<(), ImageError> {
        if !self.has_blob(name, digest) {
            self.put(name, BLOBS, &digest.hex(), "")?;
            self.repositories.write().entry(name.to_owned()).or_default().blobs.insert(digest.clone());
        }
        Ok(())
    }

    /// Stores a manifest that has this digest, and points the tag at it if there is one.
    pub(crate) fn put_manifest(
        &self,
        content: &Content,
        name: &str,
        (digest, bytes): (&Digest, &[u8]),
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<(), ImageError> {
        let _changes = self.changes.lock();
        content.write_as(bytes, digest)?;
        self.put(name, MANIFESTS, &digest.hex(), media_type)?;
        if let Some(tag) = tag {
            self.put(name, TAGS, tag, &digest.to_string())?;
        }
        let referrer = referrer(bytes, media_type, digest);
        if let Some((subject, said)) = &referrer {
            self.put(name, REFERRERS, &pair(subject, digest), &said.to_string())?;
        }
        let mut repositories = self.repositories.write();
        let repository = repositories.entry(name.to_owned()).or_default();
        repository.manifests.insert(digest.clone(), media_type.to_owned());
        if let Some((subject, said)) = referrer {
            repository.referrers.entry(subject).or_default().insert(digest.clone(), said);
        }
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        Ok(())
    }

    /// Removes a tag; false if there is none.
    pub(crate) fn remove_tag(&self, name: &str, tag: &str) -> Result<bool, ImageError> {
        let _changes = self.changes.lock();
        if self.tag(name, tag).is_none() {
            return Ok(false);
        }
        self.delete(name, TAGS, tag)?;
        self.edit(name, |repository| repository.tags.remove(tag));
        Ok(true)
    }

    /// Removes a manifest and its tags; false if there is none.
    pub(crate) fn remove_manifest(
        &self,
        content: &Content,
        name: &str,
        digest: &Digest,
    ) -> Result<bool, ImageError> {
        let _changes = self.changes.lock();
        if self.manifest(name, digest).is_none() {
            return Ok(false);
        }
        for tag in self.tags(name).unwrap_or_default() {
            if self.tag(name, &tag).as_ref() == Some(digest) {
                self.delete(name, TAGS, &tag)?;
                self.edit(name, |repository| repository.tags.remove(&tag));
            }
        }
        for subject in self.subjects(name, digest) {
            self.delete(name, REFERRERS, &pair(&subject, digest))?;
        }
        self.delete(name, MANIFESTS, &digest.hex())?;
        self.edit(name, |repository| {
            repository.referrers.retain(|_, referrers| {
                referrers.remove(digest);
                !referrers.is_empty()
            });
            repository.manifests.remove(digest)
        });
        self.collect(content, digest)?;
        Ok(true)
    }

    /// What a manifest says something about: one manifest, or none.
    fn subjects(&self, name: &str, digest: &Digest) -> Vec<Digest> {
        let repositories = self.repositories.read();
        let Some(repository) = repositories.get(name) else { return Vec::new() };
        let about = repository.referrers.iter().filter(|(_, referrers)| referrers.contains_key(digest));
        about.map(|(subject, _)| subject.clone()).collect()
    }

    /// Removes a blob from a repository; false if it does not have it.
    pub(crate) fn remove_blob(
        &self,
        content: &Content,
        name: &str,
        digest: &Digest,
    ) -> Result<bool, ImageError> {
        let _changes = self.changes.lock();
        if !self.has_blob(name, digest) {
            return Ok(false);
        }
        self.delete(name, BLOBS, &digest.hex())?;
        self.edit(name, |repository| repository.blobs.remove(digest));
        self.collect(content, digest)?;
        Ok(true)
    }

    /// Removes content that no repository has any more.
    fn collect(&self, content: &Content, digest: &Digest) -> Result<(), ImageError> {
        let has = |repository: &Repository| {
            repository.blobs.contains(digest) || repository.manifests.contains_key(digest)
        };
        if self.repositories.read().values().any(has) { Ok(()) } else { content.remove(digest) }
    }

    fn edit<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) {
        let mut repositories = self.repositories.write();
        let Some(repository) = repositories.get_mut(name) else { return };
        change(repository);
        if repository.is_empty() {
            repositories.remove(name);
            drop(repositories);
            remove_folders(&self.root, name);
        }
    }

    /// Writes one of the small files, whole and durably.
    fn put(&self, name: &str, kind: &str, file: &str, text: &str) -> Result<(), ImageError> {
        let folder = self.root.join(name).join(kind);
        let path = folder.join(file);
        // Neither digests nor tags begin with a dot.
        let draft = folder.join(".new");
        if !folder.is_dir() {
            create_dirs(&self.root, &folder)?;
        }
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        write().map_err(ImageError::io("write", &path))?;
        sync_dir(&folder)
    }

    fn delete(&self, name: &str, kind: &str, file: &str) -> Result<(), ImageError> {
        let folder = self.root.join(name).join(kind);
        remove_if_there(&folder.join(file))?;
        sync_dir(&folder)
    }
}

impl Repository {
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.manifests.is_empty() && self.tags.is_empty()
    }

    fn forget_missing(&mut self, content: &Content) -> Result<(), ImageError> {
        let mut missing = BTreeSet::new();
        for digest in self.blobs.iter().chain(self.manifests.keys()) {
            if content.size(digest)?.is_none() {
                missing.insert(digest.clone());
            }
        }
        self.blobs.retain(|digest| !missing.contains(digest));
        self.manifests.retain(|digest, _| !missing.contains(digest));
        self.tags.retain(|_, digest| self.manifests.contains_key(digest));
        self.referrers.retain(|_, referrers| {
            referrers.retain(|digest, _| self.manifests.contains_key(digest));
            !referrers.is_empty()
        });
        Ok(())
    }
}

/// The name of the file that says what refers to what. As long as a name may be, two digests of SHA-512 are longer;
/// what the file holds says the second one, too.
fn pair(subject: &Digest, referrer: &Digest) -> String {
    let mut referrer = referrer.hex();
    referrer.truncate(64);
    format!("{}-{referrer}", subject.hex())
}

/// What a manifest says something about, and how lists of such manifests describe this one.
fn referrer(bytes: &[u8], media_type: &str, digest: &Digest) -> Option<(Digest, Value)> {
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let subject = Digest::parse(&manifest.subject?.digest)?;
    let config_type = manifest.config.map(|config| config.media_type);
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: bytes.len() as u64,
        // Artifacts that have no type of their own go by that of their configuration.
        artifact_type: manifest.artifact_type.filter(|of| !of.is_empty()).or(config_type),
        annotations: manifest.annotations,
        ..Descriptor::default()
    };
    Some((subject, serde_json::to_value(descriptor).ok()?))
}

/// Makes a folder below `root` whose name is durable on every level.
fn create_dirs(root: &Path, folder: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(folder).map_err(ImageError::io("create", folder))?;
    let above = folder.ancestors().skip(1).take_while(|above| above.starts_with(root));
    above.into_iter().try_for_each(sync_dir)
}

/// Removes the folders of a repository that has nothing, and those above it that lead to no other: names come and go,
/// and who may name images could leave any number of them.
fn remove_folders(root: &Path, name: &str) {
    let folder = root.join(name);
    for kind in [BLOBS, MANIFESTS, TAGS, REFERRERS] {
        let _ = remove_if_there(&folder.join(kind).join(".new"));
        let _ = fs::remove_dir(folder.join(kind));
    }
    for folder in folder.ancestors().take_while(|folder| *folder != root) {
        // One that is not empty stays.
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

/// The visible names in a folder; those that are not UTF-8 are not ours.
fn children(folder: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let list = || {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
            {
                names.push((name, entry.path()));
            }
        }
        Ok(names)
    };
    list().map_err(ImageError::io("read", folder))
}
