//! The types that numbers of tensors have.

use half::{bf16, f16};

/// The longest name of a type.
const LONGEST: usize = 32;

/// What the numbers of a tensor are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 64 bits.
    Float64,
    /// 32 bits.
    Float32,
    /// 16 bits, as IEEE 754 has them.
    Float16,
    /// 16 bits, the upper half of 32.
    Bfloat16,
    /// Whole numbers of so many bytes.
    Int(u64),
    /// Whole numbers of so many bytes, without a sign.
    Uint(u64),
    /// Truth values, of a byte each.
    Bool,
    /// Two floating-point numbers of so many bytes together.
    Complex(u64),
    /// One whose numbers are not read.
    Other(String),
}

impl Dtype {
    /// The type that torch and numpy know by a name.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "float64" | "double" => Self::Float64,
            "float32" | "float" => Self::Float32,
            "float16" | "half" => Self::Float16,
            "bfloat16" => Self::Bfloat16,
            "int8" | "char" => Self::Int(1),
            "int16" | "short" => Self::Int(2),
            "int32" | "int" => Self::Int(4),
            "int64" | "long" => Self::Int(8),
            "uint8" | "byte" => Self::Uint(1),
            "uint16" => Self::Uint(2),
            "uint32" => Self::Uint(4),
            "uint64" => Self::Uint(8),
            "bool" => Self::Bool,
            "complex64" => Self::Complex(8),
            "complex128" => Self::Complex(16),
            other => Self::Other(other.chars().filter(|c| !c.is_control()).take(LONGEST).collect()),
        }
    }

    /// The name that torch gives it.
    pub fn name(&self) -> String {
        match self {
            Self::Float64 => "float64".to_owned(),
            Self::Float32 => "float32".to_owned(),
            Self::Float16 => "float16".to_owned(),
            Self::Bfloat16 => "bfloat16".to_owned(),
            Self::Int(size) => format!("int{}", size * 8),
            Self::Uint(size) => format!("uint{}", size * 8),
            Self::Bool => "bool".to_owned(),
            Self::Complex(size) => format!("complex{}", size * 8),
            Self::Other(name) => name.clone(),
        }
    }

    /// The bytes of one element.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Float64 => Some(8),
            Self::Float32 => Some(4),
            Self::Float16 | Self::Bfloat16 => Some(2),
            Self::Int(size) | Self::Uint(size) | Self::Complex(size) => Some(*size),
            Self::Bool => Some(1),
            Self::Other(_) => None,
        }
    }

    /// How many numbers one element has.
    pub(super) fn parts(&self) -> usize {
        if matches!(self, Self::Complex(_)) { 2 } else { 1 }
    }

    /// The numbers in some bytes, the lowest byte first.
    pub(super) fn decode(&self, bytes: &[u8], numbers: &mut Vec<f64>) {
        numbers.clear();
        match self {
            Self::Float64 | Self::Complex(16) => {
                numbers.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)));
            }
            Self::Float32 | Self::Complex(_) => {
                numbers.extend(bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))));
            }
            Self::Float16 => {
                numbers.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()));
            }
            Self::Bfloat16 => {
                numbers.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()));
            }
            Self::Int(size) => numbers.extend(bytes.chunks_exact(*size as usize).map(|b| {
                let sign = if b.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
                i64::from_le_bytes(widened(b, sign)) as f64
            })),
            Self::Uint(size) => {
                let chunks = bytes.chunks_exact(*size as usize);
                numbers.extend(chunks.map(|b| u64::from_le_bytes(widened(b, 0)) as f64));
            }
            Self::Bool => numbers.extend(bytes.iter().map(|byte| f64::from(u8::from(*byte != 0)))),
            Self::Other(_) => {}
        }
    }
}

fn widened(bytes: &[u8], sign: u8) -> [u8; 8] {
    let mut all = [sign; 8];
    all.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    all
}
