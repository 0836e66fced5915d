//! The machine that a pickle is a program for. What it would call is only written down.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};
use std::sync::Arc;

use super::{Budget, Id, Value};

/// The longest line of protocol 0.
const LONGEST_LINE: u64 = 64 << 10;
/// What makes a dict, whatever its items are.
const DICTS: [&str; 3] = ["collections.OrderedDict", "collections.defaultdict", "collections.Counter"];

/// What a reader of pickles is made of.
pub(super) struct Machine<'i, I> {
    input: &'i mut I,
    /// How many bytes were read.
    pub(super) at: u64,
    budget: &'i mut Budget,
    pub(super) values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

/// What is wrong, or nothing.
type Step<T = ()> = Result<T, String>;

impl<'i, I: BufRead> Machine<'i, I> {
    pub(super) fn new(input: &'i mut I, budget: &'i mut Budget) -> Self {
        let (values, stack, marks) = (Vec::new(), Vec::new(), Vec::new());
        Self { input, at: 0, budget, values, stack, marks, memo: HashMap::new() }
    }

    /// Reads up to the end of the pickle, and says which value it is.
    pub(super) fn run(&mut self) -> Step<Id> {
        while let Some(steps) = self.budget.steps.checked_sub(1) {
            self.budget.steps = steps;
            let [opcode] = self.bytes()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
        Err("it takes too many steps".to_owned())
    }

    fn step(&mut self, opcode: u8) -> Step {
        match opcode {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => match self.marks.last() {
                // As Python has it: it may take away a mark.
                Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'I' | b'L' => {
                let line = self.line()?;
                self.push(decimal(&line)?)?;
            }
            b'J' => {
                let number = i32::from_le_bytes(self.bytes()?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' | b'M' => {
                let number = self.length(if opcode == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))?;
            }
            0x8a | 0x8b => {
                let length = self.length(if opcode == 0x8a { 1 } else { 4 })?;
                let bytes = self.kept(length)?;
                self.push(whole(&bytes))?;
            }
            b'F' => {
                let line = self.line()?;
                self.push(Value::Float(line.parse().map_err(|_| format!("{line:?} is no number"))?))?;
            }
            b'G' => {
                let number = f64::from_be_bytes(self.bytes()?);
                self.push(Value::Float(number))?;
            }
            b'S' | b'V' => {
                let line = self.line()?;
                self.push(Value::Text(line.trim_matches(['\'', '"']).to_owned()))?;
            }
            b'X' => self.texts(4)?,
            0x8c => self.texts(1)?,
            0x8d => self.texts(8)?,
            b'T' => self.octets(4)?,
            b'U' => self.octets(1)?,
            b'B' => self.octets(4)?,
            b'C' => self.octets(1)?,
            0x8e | 0x96 => self.octets(8)?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            0x8f => self.push(Value::Set(Vec::new()))?,
            b't' => {
                let items = self.marked()?;
                self.push(Value::Tuple(items))?;
            }
            b'l' => {
                let items = self.marked()?;
                self.push(Value::List(items))?;
            }
            0x91 => {
                let items = self.marked()?;
                self.push(Value::Set(items))?;
            }
            b'd' => {
                let entries = pairs(self.marked()?)?;
                self.push(Value::Dict(entries))?;
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let from = self.stack.len().checked_sub(count).ok_or("the stack is empty")?;
                self.above(from)?;
                let items = self.stack.drain(from..).collect();
                self.push(Value::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])?;
            }
            b'u' => {
                let entries = pairs(self.marked()?)?;
                self.set(entries)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Name(format!("{module}.{name}")))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let full = format!("{}.{}", self.word(module)?, self.word(name)?);
                self.keep(full.len() as u64)?;
                self.push(Value::Name(full))?;
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            0x92 => {
                let (_, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let arguments = self.marked()?;
                let function = self.add(Value::Name(format!("{module}.{name}")))?;
                let arguments = self.add(Value::Tuple(arguments))?;
                self.call(function, arguments)?;
            }
            b'o' => {
                let mut items = self.marked()?;
                if items.is_empty() {
                    return Err("an object without a class".to_owned());
                }
                let function = items.remove(0);
                let arguments = self.add(Value::Tuple(items))?;
                self.call(function, arguments)?;
            }
            b'b' => {
                let given = self.pop()?;
                let object = self.top()?;
                if let Some(Value::Call { state, .. }) = self.values.get_mut(object as usize) {
                    *state = Some(given);
                }
            }
            b'P' => {
                let line = self.line()?;
                let description = self.add(Value::Text(line))?;
                self.push(Value::Outside(description))?;
            }
            b'Q' => {
                let description = self.pop()?;
                self.push(Value::Outside(description))?;
            }
            b'g' => {
                let line = self.line()?;
                self.recall(line.parse().map_err(|_| format!("{line:?} is no place"))?)?;
            }
            b'h' | b'j' => {
                let place = self.length(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(place)?;
            }
            b'p' => {
                let line = self.line()?;
                self.remember(line.parse().map_err(|_| format!("{line:?} is no place"))?)?;
            }
            b'q' | b'r' => {
                let place = self.length(if opcode == b'q' { 1 } else { 4 })?;
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            0x82..=0x84 => {
                let code = self.length(1 << (opcode - 0x82))?;
                self.push(Value::Name(format!("copyreg.extension_{code}")))?;
            }
            0x80 => {
                let [protocol] = self.bytes()?;
                if protocol > 5 {
                    return Err(format!("protocol {protocol} is not known"));
                }
            }
            // A frame is only a promise of its length.
            0x95 => drop(self.length(8)?),
            0x97 => self.push(Value::Skipped(0))?,
            0x98 => {}
            other => return Err(format!("opcode {other:#04x} is not known")),
        }
        Ok(())
    }

    fn add(&mut self, value: Value) -> Step<Id> {
        let id = Id::try_from(self.values.len()).map_err(|_| "too many values".to_owned())?;
        self.values.push(value);
        Ok(id)
    }

    fn push(&mut self, value: Value) -> Step {
        let id = self.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    /// What is on the stack above the last mark stays there until the mark is asked for.
    fn above(&self, from: usize) -> Step {
        match self.marks.last() {
            Some(mark) if *mark > from => Err("a mark is in the way".to_owned()),
            _ => Ok(()),
        }
    }

    fn pop(&mut self) -> Step<Id> {
        self.above(self.stack.len().saturating_sub(1))?;
        self.stack.pop().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn marked(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        if mark > self.stack.len() {
            return Err("a mark is beyond the stack".to_owned());
        }
        Ok(self.stack.drain(mark..).collect())
    }

    fn word(&self, id: Id) -> Step<&str> {
        match self.values.get(id as usize) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err("a name is no text".to_owned()),
        }
    }

    fn call(&mut self, function: Id, arguments: Id) -> Step {
        let (is_dict, is_bytes) = match self.values.get(function as usize) {
            Some(Value::Name(name)) => (DICTS.contains(&name.as_str()), name == "_codecs.encode"),
            _ => (false, false),
        };
        let first = match self.values.get(arguments as usize) {
            Some(Value::Tuple(items)) => items.first().copied(),
            _ => None,
        };
        if is_bytes && let Some(bytes) = first.and_then(|first| self.latin(first)) {
            self.keep(bytes.len() as u64)?;
            return self.push(Value::Bytes(bytes));
        }
        if !is_dict {
            return self.push(Value::Call { function, arguments, state: None });
        }
        // Moved, not copied: what is given to such a call again and again must not grow.
        let given = first.and_then(|first| self.values.get_mut(first as usize)).map(|given| match given {
            Value::Dict(entries) => std::mem::take(entries),
            _ => Vec::new(),
        });
        self.push(Value::Dict(given.unwrap_or_default()))
    }

    /// The bytes that protocol 2 has as text: `_codecs.encode("..", "latin1")`.
    fn latin(&self, id: Id) -> Option<Arc<[u8]>> {
        let Some(Value::Text(text)) = self.values.get(id as usize) else { return None };
        text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
    }

    /// Adds items to what is on top: a list, a set, or what a call makes.
    fn append(&mut self, items: Vec<Id>) -> Step {
        let target = self.target(Value::List(Vec::new()))?;
        match self.values.get_mut(target as usize) {
            Some(Value::List(known) | Value::Set(known)) => known.extend(items),
            _ => return Err("items for what is no list".to_owned()),
        }
        Ok(())
    }

    /// Sets entries of what is on top: a dict, or what a call makes.
    fn set(&mut self, entries: Vec<(Id, Id)>) -> Step {
        let target = self.target(Value::Dict(Vec::new()))?;
        match self.values.get_mut(target as usize) {
            Some(Value::Dict(known)) => known.extend(entries),
            _ => return Err("entries for what is no dict".to_owned()),
        }
        Ok(())
    }

    /// Where items or entries go: to what is on top, or, if that is a call, to what its object is given, which is
    /// `empty` before.
    fn target(&mut self, empty: Value) -> Step<Id> {
        let top = self.top()?;
        match self.values.get(top as usize) {
            Some(Value::Call { state: Some(state), .. }) => return Ok(*state),
            Some(Value::Call { state: None, .. }) => {}
            _ => return Ok(top),
        }
        let given = self.add(empty)?;
        if let Some(Value::Call { state, .. }) = self.values.get_mut(top as usize) {
            *state = Some(given);
        }
        Ok(given)
    }

    fn recall(&mut self, place: u64) -> Step {
        let id = *self.memo.get(&place).ok_or_else(|| format!("nothing was kept at {place}"))?;
        self.stack.push(id);
        Ok(())
    }

    fn remember(&mut self, place: u64) -> Step {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| ended(&error))?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// A length or a small number of so many bytes.
    fn length(&mut self, size: u32) -> Step<u64> {
        let mut bytes = [0; 8];
        for byte in bytes.iter_mut().take(size as usize) {
            [*byte] = self.bytes()?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    fn line(&mut self) -> Step<String> {
        let mut line = Vec::new();
        let limited = self.input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        limited.map_err(|error| ended(&error))?;
        self.at += line.len() as u64;
        if line.pop() != Some(b'\n') {
            return Err("a line without an end".to_owned());
        }
        self.keep(line.len() as u64)?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
    }

    fn keep(&mut self, length: u64) -> Step {
        self.budget.kept = self.budget.kept.checked_sub(length).ok_or("it has too much text")?;
        Ok(())
    }

    /// So many bytes of the input. What is not there is not made room for.
    fn kept(&mut self, length: u64) -> Step<Vec<u8>> {
        self.keep(length)?;
        let mut bytes = Vec::new();
        self.input.by_ref().take(length).read_to_end(&mut bytes).map_err(|error| ended(&error))?;
        self.at += bytes.len() as u64;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err("it ends too early".to_owned()) }
    }

    fn texts(&mut self, size: u32) -> Step {
        let length = self.length(size)?;
        let bytes = self.kept(length)?;
        self.push(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn octets(&mut self, size: u32) -> Step {
        let length = self.length(size)?;
        if length <= self.budget.kept {
            let bytes = self.kept(length)?;
            return self.push(Value::Bytes(bytes.into()));
        }
        let skipped = std::io::copy(&mut self.input.by_ref().take(length), &mut std::io::sink());
        let skipped = skipped.map_err(|error| ended(&error))?;
        self.at += skipped;
        if skipped < length {
            return Err("it ends too early".to_owned());
        }
        self.push(Value::Skipped(length))
    }
}

fn ended(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    }
}

fn pairs(items: Vec<Id>) -> Step<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a key without a value".to_owned());
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

/// A number of protocol 0, in which `00` and `01` are the two truth values.
fn decimal(line: &str) -> Step<Value> {
    match line {
        "00" => return Ok(Value::Bool(false)),
        "01" => return Ok(Value::Bool(true)),
        _ => {}
    }
    let digits = line.trim_end_matches('L');
    if let Ok(number) = digits.parse() {
        return Ok(Value::Int(number));
    }
    let is_number = !digits.is_empty() && digits.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit());
    if is_number { Ok(Value::Large(digits.to_owned())) } else { Err(format!("{line:?} is no number")) }
}

/// A whole number from its bytes, the lowest first, the highest with the sign.
fn whole(bytes: &[u8]) -> Value {
    let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let mut all = [sign; 16];
    if bytes.len() > all.len() {
        return Value::Large(format!("<a number of {} bytes>", bytes.len()));
    }
    all.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    let number = i128::from_le_bytes(all);
    i64::try_from(number).map_or_else(|_| Value::Large(number.to_string()), Value::Int)
}
