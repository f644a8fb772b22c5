//! Functions that do all but the last piece of an operation.
//!
//! Each takes the operands of its instruction and gives back those of what is left, for the same instruction, which
//! comes after it. It gives them back as they were if the whole would not fit: then that instruction traps, and
//! nothing was written. What is left begins where the rest of the whole would, whichever end it is.

use wasm_encoder::{BlockType, Encode, Function, InstructionSink, ValType};

use super::PIECE;

/// An instruction, for any operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Fill { memory: u32 },
    Copy { to: u32, from: u32 },
    Init { data: u32, memory: u32 },
}

/// A memory as far as code depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// It has addresses of 64 bits.
    pub(super) wide: bool,
    /// Bytes of a page, as a power of two.
    pub(super) page: u32,
}

/// Which of an instruction's operands have 64 bits.
pub(super) type Signature = [bool; 3];

/// The operands: where to, what or where from, and how much.
const TO: u32 = 0;
const FROM: u32 = 1;
const LENGTH: u32 = 2;

impl Operation {
    pub(super) fn signature(self, memories: &[Memory]) -> Signature {
        let wide = |memory: u32| memories[memory as usize].wide;
        match self {
            Operation::Fill { memory } => [wide(memory), false, wide(memory)],
            Operation::Copy { to, from } => [wide(to), wide(from), wide(to) && wide(from)],
            Operation::Init { memory, .. } => [wide(memory), false, false],
        }
    }

    /// What is put before the instruction: a call of `helper`, if there is more than a piece to do. `local` is one for
    /// the length, `block` the type of the helper.
    pub(super) fn call(self, memories: &[Memory], local: u32, block: u32, helper: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut code = Code { sink: InstructionSink::new(&mut bytes), signature: self.signature(memories) };
        code.sink.local_tee(local).local_get(local);
        code.piece(LENGTH).greater(LENGTH);
        code.sink.if_(BlockType::FunctionType(block)).call(helper).end();
        bytes
    }

    /// The function, as it stands in a module.
    pub(super) fn helper(self, memories: &[Memory]) -> Vec<u8> {
        let mut function = Function::new([]);
        let mut code = Code { sink: function.instructions(), signature: self.signature(memories) };
        match self {
            Operation::Fill { memory } => {
                code.within(TO, memory, memories);
                code.up(&[TO], |code| {
                    code.sink.local_get(TO).local_get(FROM);
                    code.piece(LENGTH).sink.memory_fill(memory);
                });
            }
            Operation::Copy { to, from } => {
                code.within(TO, to, memories);
                code.within(FROM, from, memories);
                // Later pieces must find what they copy, as it was: both may be one memory, which was imported twice.
                code.number(TO).number(FROM).sink.i64_gt_u().if_(BlockType::Empty);
                code.down(|code| {
                    code.sum(TO).sum(FROM).piece(LENGTH).sink.memory_copy(to, from);
                });
                code.give_back().sink.return_().end();
                code.up(&[TO, FROM], |code| {
                    code.sink.local_get(TO).local_get(FROM);
                    code.piece(LENGTH).sink.memory_copy(to, from);
                });
            }
            Operation::Init { data, memory } => {
                code.within(TO, memory, memories);
                code.number(FROM).number(LENGTH).sink.i64_add().i64_const(i64::from(u32::MAX)).i64_gt_u();
                code.leave();
                // Down, so that the first piece is the one that the data may have no end for.
                code.down(|code| {
                    code.sum(TO).sum(FROM).piece(LENGTH).sink.memory_init(memory, data);
                });
            }
        }
        code.give_back().sink.end();
        let mut bytes = Vec::new();
        function.encode(&mut bytes);
        bytes
    }
}

/// A function type from and to these.
pub(super) fn function_type(signature: Signature) -> Vec<u8> {
    const FUNCTION: u8 = 0x60;
    let types = signature.map(|wide| if wide { ValType::I64 } else { ValType::I32 });
    let mut bytes = vec![FUNCTION];
    types.as_slice().encode(&mut bytes);
    types.as_slice().encode(&mut bytes);
    bytes
}

/// Instructions on the operands.
struct Code<'a> {
    sink: InstructionSink<'a>,
    signature: Signature,
}

impl Code<'_> {
    fn wide(&self, operand: u32) -> bool {
        self.signature[operand as usize]
    }

    /// A piece's length, as this operand has it.
    fn piece(&mut self, operand: u32) -> &mut Self {
        match self.wide(operand) {
            true => self.sink.i64_const(PIECE),
            false => self.sink.i32_const(PIECE.try_into().expect("a piece is small")),
        };
        self
    }

    /// Whether of two such as this operand the first is greater.
    fn greater(&mut self, operand: u32) -> &mut Self {
        if self.wide(operand) {
            self.sink.i64_gt_u()
        } else {
            self.sink.i32_gt_u()
        };
        self
    }

    fn add(&mut self, operand: u32) -> &mut Self {
        if self.wide(operand) {
            self.sink.i64_add()
        } else {
            self.sink.i32_add()
        };
        self
    }

    /// An operand in 64 bits.
    fn number(&mut self, operand: u32) -> &mut Self {
        self.sink.local_get(operand);
        if !self.wide(operand) {
            self.sink.i64_extend_i32_u();
        }
        self
    }

    /// An operand and what is left of the length.
    fn sum(&mut self, operand: u32) -> &mut Self {
        self.sink.local_get(operand).local_get(LENGTH);
        if self.wide(operand) && !self.wide(LENGTH) {
            self.sink.i64_extend_i32_u();
        }
        self.add(operand)
    }

    fn shorten(&mut self) {
        self.sink.local_get(LENGTH);
        self.piece(LENGTH);
        if self.wide(LENGTH) {
            self.sink.i64_sub()
        } else {
            self.sink.i32_sub()
        };
        self.sink.local_set(LENGTH);
    }

    fn give_back(&mut self) -> &mut Self {
        self.sink.local_get(TO).local_get(FROM).local_get(LENGTH);
        self
    }

    /// Ends if so, with nothing done.
    fn leave(&mut self) {
        self.sink.if_(BlockType::Empty);
        self.give_back().sink.return_().end();
    }

    /// Ends if what begins at this operand does not lie in the memory.
    fn within(&mut self, operand: u32, memory: u32, memories: &[Memory]) {
        let its = memories[memory as usize];
        let size = |code: &mut Self| {
            code.sink.memory_size(memory);
            if !its.wide {
                code.sink.i64_extend_i32_u();
            }
            code.sink.i64_const(i64::from(its.page)).i64_shl();
        };
        self.number(LENGTH);
        size(self);
        self.sink.i64_gt_u();
        self.leave();
        self.number(operand);
        size(self);
        self.number(LENGTH).sink.i64_sub().i64_gt_u();
        self.leave();
    }

    /// Does pieces from the beginning on. At each the engine looks whether the guest is to end.
    fn up(&mut self, operands: &[u32], piece: impl FnOnce(&mut Self)) {
        self.sink.loop_(BlockType::Empty);
        piece(self);
        for operand in operands {
            self.sink.local_get(*operand);
            self.piece(*operand).add(*operand).sink.local_set(*operand);
        }
        self.shorten();
        self.again();
    }

    /// Does pieces from the end on.
    fn down(&mut self, piece: impl FnOnce(&mut Self)) {
        self.sink.loop_(BlockType::Empty);
        self.shorten();
        piece(self);
        self.again();
    }

    fn again(&mut self) {
        self.sink.local_get(LENGTH);
        self.piece(LENGTH).greater(LENGTH).sink.br_if(0).end();
    }
}
