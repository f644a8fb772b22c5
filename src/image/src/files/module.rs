//! Which file of a container image is the module: the one its entrypoint names, `plugin.wasm`, or the
//! only one there is. An entrypoint that is the path of something else, which the image does not have either, is a
//! mistake (Docker's `/bin/sh -c`, say), and nothing runs in its place.

use super::Unpacked;
use super::tree::{FileId, Node, Tree, show};
use crate::FormatError;
use crate::manifest::Execution;

/// Where programs are looked for that are named without a folder, if the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The module of Envoy's compatible images.
const PLUGIN: &[u8] = b"plugin.wasm";

/// Modules that a refusal names.
const NAMED: usize = 5;

pub(super) fn find(tree: &Tree, unpacked: &Unpacked, execution: &Execution) -> Result<FileId, FormatError> {
    if let Some(program) = execution.command().first()
        && let Some((path, file)) = program_at(tree, program, execution)
    {
        return match unpacked.is_wasm(file) {
            true => Ok(file),
            false => {
                Err(FormatError::Program { reason: format!("its entrypoint {} is no module", show(&path)) })
            }
        };
    }
    if let Some(program) = execution.command().first()
        && program.contains('/')
        && !is_module_name(program)
    {
        let reason = format!("its entrypoint {program:?}: no such file or directory");
        return Err(FormatError::Program { reason });
    }
    if let Some((_, Node::File(file))) = tree.look_up(PLUGIN)
        && unpacked.is_wasm(*file)
    {
        return Ok(*file);
    }
    let mut modules: Vec<(Vec<u8>, FileId)> = Vec::new();
    tree.each(&mut |path, node| {
        if let Node::File(file) = node
            && unpacked.is_wasm(*file)
            && !modules.iter().any(|(_, known)| known == file)
        {
            modules.push((path.to_vec(), *file));
        }
    });
    match modules.as_slice() {
        [] => Err(FormatError::Program { reason: "none of its files is a module".to_owned() }),
        [(_, only)] => Ok(*only),
        several => {
            let mut names: Vec<_> = several.iter().take(NAMED).map(|(path, _)| show(path)).collect();
            if several.len() > NAMED {
                names.push("…".to_owned());
            }
            Err(FormatError::Modules { count: several.len(), names: names.join(", ") })
        }
    }
}

/// Whether engines would take a file for a module by its name.
fn is_module_name(program: &str) -> bool {
    [".wasm", ".wat"].iter().any(|ending| program.ends_with(ending))
}

/// The file that a command means, as a shell would find it; and the folder to start in counts, for
/// images that were made for engines that look there.
fn program_at(tree: &Tree, program: &str, execution: &Execution) -> Option<(Vec<u8>, FileId)> {
    let at = |folder: &str| {
        let path = format!("{folder}/{program}");
        match tree.look_up(path.as_bytes()) {
            Some((path, Node::File(file))) => Some((path, *file)),
            _ => None,
        }
    };
    if program.starts_with('/') {
        return at("");
    }
    let variables = execution.variables();
    let path = variables.iter().find(|(name, _)| name == "PATH").map_or(PATH, |(_, value)| value.as_str());
    let path = path.split(':').filter(|_| !program.contains('/'));
    std::iter::once(execution.working_dir.as_str()).chain([""]).chain(path).find_map(at)
}
