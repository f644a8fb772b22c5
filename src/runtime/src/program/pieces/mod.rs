//! Long operations of a guest in pieces.
//!
//! A guest is ended, or has its turn taken away, where a loop begins and where a function does. An instruction that
//! fills or copies a memory may take a second on gigabytes, and the engine does not stop in it. So before each of
//! those whose length is not known to be small stands a call of a function that does all but the last piece in a loop,
//! for lengths of more than a piece:
//!
//! ```text
//!                              local.tee $n  local.get $n  i32.const PIECE  i32.gt_u
//!   memory.fill      ──▶       if (param i32 i32 i32) (result i32 i32 i32)  call $helper  end
//!                              memory.fill
//! ```
//!
//! Types, functions and locals are added after the ones there are, so that no index changes. What an instruction does
//! stays the same: whether all of it lies in the memory is known before the first piece, the instruction itself still
//! traps, and nobody else sees the memory between pieces: a store that gives way is not used by others. A module that
//! has all the types, functions or locals of a function that the engine takes has no room for more, and is refused.
//!
//! Operations on tables are not touched: tables are small ([`TABLE_ELEMENTS`](crate::limits::TABLE_ELEMENTS)).

mod edits;
mod helper;
mod module;

use std::ops::Range;

use wasmparser::Parser;

pub(crate) use self::edits::Moved;
use self::edits::{Edits, Section};

/// Bytes that are filled or copied at a time. If the kernel has to find the pages first, that takes about half a
/// millisecond, of the ten in which who is killed is to be gone; what ordinary programs fill and copy is less.
const PIECE: i64 = 1 << 20;

/// Bytes before the first section of a module or component.
const HEADER: usize = 8;

/// Sections of a component: a core module, and another component.
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// A component whose sections are being read.
struct Open {
    end: usize,
    /// The section that it is, unless it is all of the file.
    section: Option<(Range<usize>, Range<usize>)>,
    grown: usize,
}

/// The same program with long operations in pieces, and where its instructions were; `None` if it has no such
/// operations. The program is valid.
pub(super) fn piecewise(program: &[u8]) -> wasmparser::Result<Option<(Vec<u8>, Moved)>> {
    let mut edits = Edits::default();
    if Parser::is_component(program) {
        component(program, &mut edits)?;
    } else {
        module::rewrite(program, 0..program.len(), &mut edits)?;
    }
    Ok(if edits.is_empty() { None } else { Some(edits.apply(program)) })
}

fn component(program: &[u8], edits: &mut Edits) -> wasmparser::Result<()> {
    let mut open = vec![Open { end: program.len(), section: None, grown: 0 }];
    let mut at = HEADER;
    while let Some(innermost) = open.last_mut() {
        if at >= innermost.end {
            let grown = innermost.grown;
            let section = innermost.section.take();
            open.pop();
            if let (Some((size, body)), Some(outer)) = (section, open.last_mut()) {
                outer.grown += edits.grow(&size, &body, grown);
            }
            continue;
        }
        let Section { id, size, body } = Section::read(program, at)?;
        at = body.end;
        match id {
            CORE_MODULE => {
                let grown = module::rewrite(program, body.clone(), edits)?;
                innermost.grown += edits.grow(&size, &body, grown);
            }
            COMPONENT => {
                at = body.start + HEADER;
                open.push(Open { end: body.end, section: Some((size, body)), grown: 0 });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
