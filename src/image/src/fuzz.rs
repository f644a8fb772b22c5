//! Where `tests/fuzz` comes in: what strangers' bytes go through, without a registry around it. Not for anybody else.

use std::io::Cursor;
use std::path::Path;

use crate::format::{self, Choice};
use crate::{Reference, files, wasm};

/// Unpacks bytes as a layer, in a folder below `dir` that goes.
pub fn layer(bytes: &[u8], dir: &Path) {
    files::try_layer(bytes, dir);
}

/// Reads bytes as a manifest, as the configuration of one, and as the head of a module.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = format::parse(bytes)
        && let Ok(Choice::Image(plan)) = format::choose(&manifest)
    {
        let _ = plan.execution(bytes);
        assert!(plan.layers().len() <= manifest.layers.len());
    }
    let _ = wasm::inspect(&mut Cursor::new(bytes));
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(reference) = Reference::parse(text)
    {
        let again = Reference::parse(&reference.to_string()).ok();
        assert_eq!(again.as_ref(), Some(&reference), "it is read as it is written");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::{gzip, zstd};

    /// An archive of one file, a link and a folder, so that changes of it get far.
    fn archive() -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (kind, path, link) in [
            (tar::EntryType::Directory, "d", None),
            (tar::EntryType::Symlink, "d/l", Some("../../x")),
            (tar::EntryType::Regular, "d/m.wasm", None),
            (tar::EntryType::Link, "h", Some("d/m.wasm")),
            (tar::EntryType::Regular, "d/.wh..wh..opq", None),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_path(path).unwrap();
            if let Some(link) = link {
                header.set_link_name(link).unwrap();
            }
            header.set_size(0);
            header.set_cksum();
            archive.append(&header, &[][..]).unwrap();
        }
        archive.into_inner().unwrap()
    }

    const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:aa","size":2},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:bb","size":3}],
        "annotations":{"module.wasm.image/variant":"compat"}}"#;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_layer_gets_out(
            packing in 0..3,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            before in any::<bool>(),
        ) {
            let pack = |bytes: Vec<u8>| match packing {
                0 => bytes,
                1 => gzip(&bytes),
                _ => zstd(&bytes),
            };
            let change = |mut bytes: Vec<u8>| {
                for (at, to) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *to;
                }
                bytes
            };
            let bytes = if before { pack(change(archive())) } else { change(pack(archive())) };
            let dir = tempfile::tempdir().unwrap();
            layer(&bytes, dir.path());
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }

        #[test]
        fn no_manifest_ends_the_host(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = MANIFEST.as_bytes().to_vec();
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            manifest(&bytes);
            manifest(&noise);
            manifest(&[b"\0asm\x0d\0\x01\0", &noise[..]].concat());
        }
    }
}
