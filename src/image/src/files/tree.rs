//! The files of an image as layers leave them, before anything of it is on disk.
//!
//! Layers are merged here, in memory, and only the outcome is written. So nothing that an archive
//! says is ever looked up on the host: a link in one layer and a file behind it in the next meet in
//! this tree, where there is nowhere to escape to.

use std::collections::BTreeMap;

/// Entries that an image may have, over all layers. The largest images of operating systems have some
/// hundred thousand; one of ours takes about 200 bytes here.
pub(super) const MAX_ENTRIES: usize = 100_000;

/// Bytes that a path may have. Linux has 4,096 for a whole path; the store's folder needs some.
pub(super) const MAX_PATH: usize = 2048;

/// Bytes of all paths and targets of links together. Real images have some ten megabytes; those of
/// [`MAX_ENTRIES`] of the longest would be some hundred, of an archive that fits a few kilobytes.
const MAX_TEXT: usize = 32 << 20;

/// Bytes that a name may have, as file systems have it.
const MAX_NAME: usize = 255;

/// Folders inside each other. Deep trees of packages have some thirty.
const MAX_DEPTH: usize = 128;

/// Links that may be followed to get at one file, as Linux has it.
const MAX_LINKS: usize = 40;

/// What a name in a folder begins with that hides another of the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// Hides all of a folder's content in the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The root and what is below.
pub(super) struct Tree {
    nodes: Vec<Entry>,
    max_entries: usize,
    /// The layer that is being added, from 1; the root was there before.
    layer: u32,
    /// Bytes that paths and targets may still have.
    text_left: usize,
}

struct Entry {
    /// The last layer that it, or something below it, is of.
    layer: u32,
    /// The last layer that hid what is below it in the layers before; again there would be nothing to hide, but
    /// everything to look at.
    hidden: u32,
    node: Node,
}

/// A file's number, which whoever keeps the contents gave it.
pub(super) type FileId = usize;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder(BTreeMap<Vec<u8>, usize>),
    File(FileId),
    /// A symbolic link, with its target as the archive has it.
    Link(Vec<u8>),
}

const ROOT: usize = 0;

impl Tree {
    pub(super) fn new(max_entries: usize) -> Tree {
        let root = Entry { layer: 0, hidden: 0, node: Node::Folder(BTreeMap::new()) };
        Tree { nodes: vec![root], max_entries, layer: 0, text_left: MAX_TEXT }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.nodes[ROOT].node, Node::Folder(children) if children.is_empty())
    }

    /// Whether there is no room for another entry.
    pub(super) fn is_full(&self) -> bool {
        self.nodes.len() > self.max_entries
    }

    pub(super) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// Puts a file or a link in its place, or hides what a whiteout hides.
    pub(super) fn put(&mut self, path: &[u8], node: Node) -> Result<(), String> {
        let parts = parts(path)?;
        let Some((name, folders)) = parts.split_last() else {
            return Err("an entry other than a folder stands for the root".to_owned());
        };
        let folder = self.folders(folders)?;
        if *name == OPAQUE {
            self.hide_below(folder);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            // What else begins like this belongs to file systems that keep books in that way.
            if !hidden.is_empty() && !hidden.starts_with(WHITEOUT) {
                self.hide(folder, hidden);
            }
            return Ok(());
        }
        if let Node::Link(target) = &node {
            self.take_text(target.len())?;
        }
        let new = self.add(node)?;
        self.children(folder).insert(name.to_vec(), new);
        Ok(())
    }

    /// Makes a folder; one that is there stays as it is.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<(), String> {
        let parts = parts(path)?;
        let Some((name, folders)) = parts.split_last() else { return Ok(()) };
        let folder = self.folders(folders)?;
        // A link to a folder gives way: this name is a folder now.
        self.folder_in(folder, name).map(|_| ())
    }

    /// Puts another name of a file, or of a link, in its place.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), String> {
        let parts = parts(target)?;
        let missing = || format!("the hard link {} leads to nothing", show(path));
        let (name, folders) = parts.split_last().ok_or_else(missing)?;
        let folder = self.find(folders).ok_or_else(missing)?;
        let node = match &self.nodes[folder].node {
            Node::Folder(children) => children.get(*name).map(|child| &self.nodes[*child].node),
            _ => None,
        };
        match node {
            Some(Node::Folder(_)) => Err(format!("the hard link {} leads to a folder", show(path))),
            Some(node) => {
                let node = node.clone();
                self.put(path, node)
            }
            None => Err(missing()),
        }
    }

    /// What is at a path, links followed: its own path and what it is.
    pub(super) fn look_up(&self, path: &[u8]) -> Option<(Vec<u8>, &Node)> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let found = self.find(&parts)?;
        let mut way = None;
        self.walk(&mut |path, node, index| {
            if index == found {
                way = Some((path.to_vec(), node));
            }
        });
        way
    }

    /// Shows every entry with its path, folders before what is in them, names in order.
    pub(super) fn each<'a>(&'a self, see: &mut dyn FnMut(&[u8], &'a Node)) {
        self.walk(&mut |path, node, _| see(path, node));
    }

    fn walk<'a>(&'a self, see: &mut dyn FnMut(&[u8], &'a Node, usize)) {
        // Depth first, without recursion of our own.
        let mut left = vec![(Vec::new(), ROOT)];
        while let Some((path, index)) = left.pop() {
            let node = &self.nodes[index].node;
            if index != ROOT {
                see(&path, node, index);
            }
            if let Node::Folder(children) = node {
                for (name, child) in children.iter().rev() {
                    let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    left.push(([&path, separator, name].concat(), *child));
                }
            }
        }
    }

    fn add(&mut self, node: Node) -> Result<usize, String> {
        if self.is_full() {
            return Err(format!("there are more than {} files and folders", self.max_entries));
        }
        self.nodes.push(Entry { layer: self.layer, hidden: 0, node });
        Ok(self.nodes.len() - 1)
    }

    fn take_text(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.text_left.checked_sub(bytes);
        self.text_left = left.ok_or_else(|| format!("paths and links have more than {MAX_TEXT} bytes"))?;
        Ok(())
    }

    fn children(&mut self, folder: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.nodes[folder].node {
            Node::Folder(children) => children,
            _ => unreachable!("only folders are looked into"),
        }
    }

    /// The folder of this name, made if something else or nothing is there.
    fn folder_in(&mut self, parent: usize, name: &[u8]) -> Result<usize, String> {
        let there = self.children(parent).get(name).copied();
        let folder = there.filter(|child| matches!(self.nodes[*child].node, Node::Folder(_)));
        if let Some(folder) = folder {
            self.nodes[folder].layer = self.layer;
            return Ok(folder);
        }
        let new = self.add(Node::Folder(BTreeMap::new()))?;
        self.children(parent).insert(name.to_vec(), new);
        Ok(new)
    }

    /// The folder at the end of a way, made as far as it is not there. Links on the way are followed.
    fn folders(&mut self, parts: &[&[u8]]) -> Result<usize, String> {
        let mut way: Vec<usize> = vec![ROOT];
        let mut ahead: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        let (mut links, mut length) = (0, 0);
        while let Some(part) = ahead.pop() {
            let folder = *way.last().expect("the root is never left");
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    way.truncate(way.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let there = self.children(folder).get(&part).copied();
            match there.map(|child| &self.nodes[child].node) {
                Some(Node::Link(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err("too many levels of symbolic links".to_owned());
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    ahead.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                Some(Node::File(_)) => return Err(format!("{} is a file, not a folder", show(&part))),
                Some(Node::Folder(_)) | None => {
                    length += part.len() + 1;
                    if way.len() >= MAX_DEPTH || length > MAX_PATH {
                        return Err(format!(
                            "folders are more than {MAX_DEPTH} deep or {MAX_PATH} bytes long"
                        ));
                    }
                    way.push(self.folder_in(folder, &part)?);
                }
            }
        }
        // Who walks the tree puts this in front of each name.
        self.take_text(length)?;
        Ok(*way.last().expect("the root is never left"))
    }

    /// What is at the end of a way, links followed.
    fn find(&self, parts: &[&[u8]]) -> Option<usize> {
        let mut way: Vec<usize> = vec![ROOT];
        let mut ahead: Vec<&[u8]> = parts.iter().rev().copied().collect();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            let here = *way.last().expect("the root is never left");
            let Node::Folder(children) = &self.nodes[here].node else { return None };
            match part {
                b"" | b"." => {}
                b".." => way.truncate(way.len().saturating_sub(1).max(1)),
                name => {
                    let child = *children.get(name)?;
                    if let Node::Link(target) = &self.nodes[child].node {
                        links += 1;
                        if links > MAX_LINKS {
                            return None;
                        }
                        if target.starts_with(b"/") {
                            way.truncate(1);
                        }
                        ahead.extend(target.split(|byte| *byte == b'/').rev());
                    } else {
                        way.push(child);
                    }
                }
            }
        }
        way.last().copied()
    }

    /// Hides what the layers below have under a name.
    fn hide(&mut self, folder: usize, name: &[u8]) {
        let Some(child) = self.children(folder).get(name).copied() else { return };
        if self.nodes[child].layer < self.layer {
            self.children(folder).remove(name);
        } else if matches!(self.nodes[child].node, Node::Folder(_)) {
            self.hide_below(child);
        }
    }

    /// Hides what the layers below have in a folder.
    fn hide_below(&mut self, folder: usize) {
        let mut left = vec![folder];
        while let Some(folder) = left.pop() {
            if std::mem::replace(&mut self.nodes[folder].hidden, self.layer) == self.layer {
                continue;
            }
            let children = std::mem::take(self.children(folder));
            let kept: BTreeMap<_, _> =
                children.into_iter().filter(|(_, child)| self.nodes[*child].layer == self.layer).collect();
            left.extend(kept.values().filter(|child| matches!(self.nodes[**child].node, Node::Folder(_))));
            *self.children(folder) = kept;
        }
    }
}

/// The names in a path, without those that say nothing. One that leads out is refused.
pub(super) fn parts(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.len() > MAX_PATH {
        return Err(format!("a path has more than {MAX_PATH} bytes"));
    }
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) || path.contains(&0) {
        return Err(format!("the path {} leads out of the image", show(path)));
    }
    match parts.iter().any(|part| part.len() > MAX_NAME) {
        true => Err(format!("a name has more than {MAX_NAME} bytes")),
        false => Ok(parts),
    }
}

/// The target of a link as it is written to disk: relative, and not above the root.
///
/// Guests and the folder on disk have different roots, and capability-based lookups know no absolute
/// targets at all; a relative one means the same to everybody.
pub(super) fn link_target(path: &[u8], target: &[u8]) -> Vec<u8> {
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    let (mut out, mut level): (Vec<&[u8]>, usize) =
        if target.starts_with(b"/") { (vec![b".."; depth], 0) } else { (Vec::new(), depth) };
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if level == 0 => {}
            b".." => {
                level -= 1;
                out.push(part);
            }
            name => {
                level += 1;
                out.push(name);
            }
        }
    }
    if out.is_empty() { b".".to_vec() } else { out.join(&b'/') }
}

/// A path for a message: short, and without what terminals would act upon.
pub(super) fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    if text.chars().count() > 100 {
        shown.push('…');
    }
    format!("{shown:?}")
}
