//! One core module in pieces.

use std::collections::BTreeMap;
use std::ops::Range;

use wasmparser::{
    BinaryReader, DataSectionReader, FunctionBody, FunctionSectionReader, ImportSectionReader,
    MemorySectionReader, MemoryType, Operator, TypeRef, TypeSectionReader,
};

use super::edits::{Edits, Section, sized};
use super::helper::{Memory, Operation, Signature, function_type};
use super::{HEADER, PIECE};

/// Sections of a module.
const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const MEMORIES: u8 = 5;
const CODE: u8 = 10;
const DATA: u8 = 11;

/// Bytes of a page, as a power of two, if the module does not say.
const PAGE: u32 = 16;

/// The first byte of the instructions that are looked for.
const PREFIX: u8 = 0xfc;

/// What the rewriting has to know of a module.
#[derive(Default)]
struct Module {
    types: Option<Section>,
    functions: Option<Section>,
    code: Option<Section>,
    /// How many parameters each type has, if it is that of a function.
    parameters: Vec<usize>,
    imported: u32,
    /// The types of its own functions.
    of_functions: Vec<u32>,
    memories: Vec<Memory>,
    /// Bytes of its data segments.
    data: Vec<usize>,
    helpers: Helpers,
}

/// What is added, in the order of first use.
#[derive(Default)]
struct Helpers {
    functions: Vec<Operation>,
    known: BTreeMap<Operation, u32>,
    types: Vec<Signature>,
}

/// Rewrites the module that these bytes of the file are, and says by how much it grows.
pub(super) fn rewrite(file: &[u8], module: Range<usize>, edits: &mut Edits) -> wasmparser::Result<usize> {
    let mut its = Module::read(file, module)?;
    let (Some(types), Some(functions), Some(code)) =
        (its.types.take(), its.functions.take(), its.code.take())
    else {
        return Ok(0);
    };
    let mut reader = reader(file, &code.body);
    let bodies = reader.read_var_u32()? as usize;
    let count = code.body.start..reader.original_position();
    let mut grown = 0;
    for number in 0..bodies {
        let (size, body) = sized(&mut reader)?;
        let longer = its.body(file, number, &body, edits)?;
        grown += edits.grow(&size, &body, longer);
    }
    let Helpers { functions: helpers, types: new_types, .. } = &its.helpers;
    if helpers.is_empty() {
        return Ok(0);
    }
    grown += edits.number(count, bodies + helpers.len());
    for helper in helpers {
        grown += edits.insert(code.body.end, &helper.helper(&its.memories));
    }
    let mut all = edits.grow(&code.size, &code.body, grown);

    let new: Vec<u8> = new_types.iter().flat_map(|signature| function_type(*signature)).collect();
    all += append(file, &types, new_types.len(), &new, edits)?;

    let mut new = Vec::new();
    for helper in helpers {
        wasm_encoder::Encode::encode(&its.type_of(*helper), &mut new);
    }
    Ok(all + append(file, &functions, helpers.len(), &new, edits)?)
}

/// Appends so many items to a section, and says by how much it grows.
fn append(
    file: &[u8],
    section: &Section,
    items: usize,
    bytes: &[u8],
    edits: &mut Edits,
) -> wasmparser::Result<usize> {
    let mut reader = reader(file, &section.body);
    let known = reader.read_var_u32()? as usize;
    let longer = edits.number(section.body.start..reader.original_position(), known + items);
    let inserted = edits.insert(section.body.end, bytes);
    Ok(edits.grow(&section.size, &section.body, longer + inserted))
}

fn reader<'a>(file: &'a [u8], range: &Range<usize>) -> BinaryReader<'a> {
    BinaryReader::new(&file[range.clone()], range.start)
}

impl Module {
    fn read(file: &[u8], module: Range<usize>) -> wasmparser::Result<Module> {
        let mut its = Module::default();
        let mut at = module.start + HEADER;
        while at < module.end {
            let section = Section::read(file, at)?;
            at = section.body.end;
            let reader = reader(file, &section.body);
            match section.id {
                TYPES => {
                    for group in TypeSectionReader::new(reader)? {
                        let group = group?;
                        let parameters = group.types().map(|its| match &its.composite_type.inner {
                            wasmparser::CompositeInnerType::Func(function) => function.params().len(),
                            _ => 0,
                        });
                        its.parameters.extend(parameters);
                    }
                    its.types = Some(section);
                }
                IMPORTS => {
                    for import in ImportSectionReader::new(reader)?.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => its.imported += 1,
                            TypeRef::Memory(memory) => its.memories.push(Memory::of(memory)),
                            _ => {}
                        }
                    }
                }
                FUNCTIONS => {
                    let types: wasmparser::Result<_> =
                        FunctionSectionReader::new(reader)?.into_iter().collect();
                    its.of_functions = types?;
                    its.functions = Some(section);
                }
                MEMORIES => {
                    for memory in MemorySectionReader::new(reader)? {
                        its.memories.push(Memory::of(memory?));
                    }
                }
                DATA => {
                    for segment in DataSectionReader::new(reader)? {
                        its.data.push(segment?.data.len());
                    }
                }
                CODE => its.code = Some(section),
                _ => {}
            }
        }
        Ok(its)
    }

    /// Rewrites the body of the function with this number among its own, and says by how much it grows.
    fn body(
        &mut self,
        file: &[u8],
        number: usize,
        body: &Range<usize>,
        edits: &mut Edits,
    ) -> wasmparser::Result<usize> {
        if !file[body.clone()].contains(&PREFIX) {
            return Ok(0);
        }
        let function = FunctionBody::new(reader(file, body));
        let mut locals = function.get_locals_reader()?;
        let groups = locals.get_count();
        let count = body.start..locals.original_position();
        let mut local = self.parameters[self.of_functions[number] as usize];
        for _ in 0..groups {
            local += locals.read()?.0 as usize;
        }
        let code = locals.original_position();

        // The last number on the stack, if the last instruction put it there.
        let mut last = None;
        let (mut narrow, mut wide) = (Vec::new(), Vec::new());
        let mut operators = function.get_operators_reader()?;
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset()?;
            let length = last.take();
            match operator {
                Operator::I32Const { value } => last = Some(u64::from(value.cast_unsigned())),
                Operator::I64Const { value } => last = Some(value.cast_unsigned()),
                _ => {}
            }
            let Some(operation) = self.operation(&operator) else { continue };
            if length.is_some_and(|length| length <= PIECE.unsigned_abs()) {
                continue;
            }
            let [.., is_wide] = operation.signature(&self.memories);
            if is_wide { wide.push((at, operation)) } else { narrow.push((at, operation)) }
        }

        let (mut grown, mut new_groups) = (0, 0);
        for (sites, value_type) in [(narrow, I32), (wide, I64)] {
            if sites.is_empty() {
                continue;
            }
            grown += edits.insert(code, &[1, value_type]);
            new_groups += 1;
            let own = u32::try_from(local).unwrap_or(u32::MAX);
            for (at, operation) in sites {
                let (helper, block) = (self.helper(operation), self.type_of(operation));
                grown += edits.insert(at, &operation.call(&self.memories, own, block, helper));
            }
            local += 1;
        }
        if new_groups > 0 {
            grown += edits.number(count, groups as usize + new_groups);
        }
        Ok(grown)
    }

    /// The operation of an instruction, if it may take long.
    fn operation(&self, operator: &Operator<'_>) -> Option<Operation> {
        match *operator {
            Operator::MemoryFill { mem } => Some(Operation::Fill { memory: mem }),
            Operator::MemoryCopy { dst_mem, src_mem } => Some(Operation::Copy { to: dst_mem, from: src_mem }),
            Operator::MemoryInit { data_index, mem } => {
                // More than there is of it traps at once.
                let length = self.data.get(data_index as usize).copied().unwrap_or(0);
                let long = length as u64 > PIECE.unsigned_abs();
                long.then_some(Operation::Init { data: data_index, memory: mem })
            }
            _ => None,
        }
    }

    /// The index of the operation's helper.
    fn helper(&mut self, operation: Operation) -> u32 {
        let own = self.of_functions.len() + self.helpers.functions.len();
        let next = u32::try_from(own).unwrap_or(u32::MAX).saturating_add(self.imported);
        *self.helpers.known.entry(operation).or_insert_with(|| {
            self.helpers.functions.push(operation);
            let signature = operation.signature(&self.memories);
            if !self.helpers.types.contains(&signature) {
                self.helpers.types.push(signature);
            }
            next
        })
    }

    /// The index of the type of an operation's helper.
    fn type_of(&self, operation: Operation) -> u32 {
        let signature = operation.signature(&self.memories);
        let at = self.helpers.types.iter().position(|its| *its == signature).unwrap_or(0);
        u32::try_from(self.parameters.len() + at).unwrap_or(u32::MAX)
    }
}

/// Types of locals.
const I32: u8 = 0x7f;
const I64: u8 = 0x7e;

impl Memory {
    fn of(memory: MemoryType) -> Memory {
        Memory { wide: memory.memory64, page: memory.page_size_log2.unwrap_or(PAGE) }
    }
}
