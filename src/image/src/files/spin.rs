//! Spin applications of one component: its files go where the application's description says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;

use super::tree::{Node, Tree};
use super::{Budget, Problem, Unpacked};
use crate::content::Content;
use crate::error::Unusable;
use crate::format::Spin;
use crate::manifest::MAX_APPLICATION;
use crate::{FormatError, ImageError};

#[derive(Deserialize)]
struct Application {
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<Placed>,
}

/// One file: its place, and its content or where that is.
#[derive(Deserialize)]
struct Placed {
    path: String,
    #[serde(default)]
    inline: Option<String>,
    #[serde(default)]
    digest: Option<String>,
}

/// Puts the files in their places; gives the environment.
pub(super) fn place(
    content: &Content,
    spin: &Spin,
    tree: &mut Tree,
    unpacked: &mut Unpacked,
    budget: &mut Budget,
) -> Result<Vec<(String, String)>, Unusable> {
    let Some(app) = &spin.app else { return Ok(Vec::new()) };
    let bytes = content.read(&app.digest, MAX_APPLICATION)?;
    let invalid = |reason: String| FormatError::Manifest { reason: format!("its application: {reason}") };
    let app_digest = &app.digest;
    let app: Application = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    let count = app.components.len();
    let Ok([component]) = <[Component; 1]>::try_from(app.components) else {
        return Err(FormatError::Components { count }.into());
    };
    tree.begin_layer();
    for Placed { path, inline, digest } in &component.files {
        let kept = if let Some(inline) = inline {
            let bytes = STANDARD.decode(inline).map_err(|error| invalid(error.to_string()))?;
            unpacked.write(&mut bytes.as_slice(), bytes.len() as u64, 0, budget)
        } else {
            // What is in no layer of its own is in an archive, and in its place already.
            let target = spin.files.iter().find(|file| Some(&file.digest.to_string()) == digest.as_ref());
            let Some(target) = target else { continue };
            let from = content.path(&target.digest);
            let failed = || ImageError::io("read", &from);
            let mut file = File::open(&from).map_err(failed())?;
            let size = file.metadata().map_err(failed())?.len();
            unpacked.write(&mut file, size, 0, budget)
        };
        let put = kept.and_then(|file| tree.put(path.as_bytes(), Node::File(file)).map_err(Problem::Format));
        put.map_err(|problem| problem.of(app_digest))?;
    }
    Ok(component.env.into_iter().collect())
}
