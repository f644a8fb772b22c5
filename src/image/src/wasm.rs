//! What a Wasm binary is, read from its outermost sections only. Whether it is valid is for the
//! runtime to say.

use std::io::{self, Read, Seek, SeekFrom};

use wasmparser::{BinaryReader, ComponentExportSectionReader, ComponentImportSectionReader};

use crate::FormatError;

/// Bytes that the list of imports or exports may have to be read. A component that imports all of
/// WASI needs some two thousand.
const MAX_NAMES: u32 = 1024 * 1024;

/// Sections of a component that hold code or wire it up: core modules and instances, components,
/// instances.
const CODE: [u8; 4] = [1, 2, 4, 5];
const IMPORTS: u8 = 10;
const EXPORTS: u8 = 11;

/// A Wasm binary from outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wasm {
    /// A core module, the form of WASI 0.1.
    Module,
    /// A component, with the names of what it imports and exports.
    Component { imports: Vec<String>, exports: Vec<String> },
}

/// Reads what there is to know; refuses what is no Wasm binary, and packages without code.
pub(crate) fn inspect(binary: &mut (impl Read + Seek)) -> Result<Wasm, FormatError> {
    let mut header = [0; 8];
    binary.read_exact(&mut header).map_err(unreadable)?;
    let layer = match header {
        [0, b'a', b's', b'm', 1, 0, 0, 0] => return Ok(Wasm::Module),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0] => binary,
        [0, b'a', b's', b'm', version @ ..] => return Err(invalid(format!("its version is {version:02x?}"))),
        other => return Err(invalid(format!("it begins with the bytes {:02x?}", &other[..4]))),
    };
    let end = layer.seek(SeekFrom::End(0)).map_err(unreadable)?;
    let mut position = layer.seek(SeekFrom::Start(8)).map_err(unreadable)?;
    let (mut imports, mut exports, mut code) = (Vec::new(), Vec::new(), false);
    while position < end {
        let section = byte(layer)?;
        let size = leb128(layer)?;
        let begin = layer.stream_position().map_err(unreadable)?;
        position = begin + u64::from(size);
        if position > end {
            return Err(invalid("a section is longer than the file".to_owned()));
        }
        code |= CODE.contains(&section);
        if matches!(section, IMPORTS | EXPORTS) && size <= MAX_NAMES {
            let mut content = vec![0; size as usize];
            layer.read_exact(&mut content).map_err(unreadable)?;
            let reader = BinaryReader::new(&content, 0);
            let names = if section == IMPORTS { import_names(reader) } else { export_names(reader) };
            let names = names.map_err(|error| invalid(error.message().to_owned()))?;
            if section == IMPORTS { &mut imports } else { &mut exports }.extend(names);
        }
        layer.seek(SeekFrom::Start(position)).map_err(unreadable)?;
    }
    if code { Ok(Wasm::Component { imports, exports }) } else { Err(FormatError::Interfaces) }
}

fn import_names(reader: BinaryReader<'_>) -> wasmparser::Result<Vec<String>> {
    let imports = ComponentImportSectionReader::new(reader)?;
    imports.into_iter().map(|import| Ok(import?.name.name.to_owned())).collect()
}

fn export_names(reader: BinaryReader<'_>) -> wasmparser::Result<Vec<String>> {
    let exports = ComponentExportSectionReader::new(reader)?;
    exports.into_iter().map(|export| Ok(export?.name.name.to_owned())).collect()
}

fn byte(binary: &mut impl Read) -> Result<u8, FormatError> {
    let mut byte = [0];
    binary.read_exact(&mut byte).map_err(unreadable)?;
    Ok(byte[0])
}

fn leb128(binary: &mut impl Read) -> Result<u32, FormatError> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = byte(binary)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_err(|_| invalid("a section is too long".to_owned()));
        }
    }
    Err(invalid("a section has no length".to_owned()))
}

// By value, as `map_err` hands it over.
#[expect(clippy::needless_pass_by_value, reason = "used as a function of the error in map_err")]
fn unreadable(error: io::Error) -> FormatError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it ends too early".to_owned()),
        _ => invalid(error.to_string()),
    }
}

fn invalid(reason: String) -> FormatError {
    FormatError::Binary { reason }
}
