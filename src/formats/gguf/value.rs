//! Metadata values and how a caller takes them out.

/// A metadata value. Widths are not kept: an integer is 64 bits, a float a double, both exactly.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32, f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Several values of one type.
    Array(Array),
}

/// Several values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Of u8, u16, u32, u64.
    Unsigned(Vec<u64>),
    /// Of i8, i16, i32, i64.
    Signed(Vec<i64>),
    /// Of f32, f64.
    Float(Vec<f64>),
    /// Of truth values.
    Bool(Vec<bool>),
    /// Of texts.
    String(Vec<String>),
    /// Of arrays.
    Nested(Vec<Array>),
}

impl Value {
    /// What it is, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Unsigned(_) => "an unsigned integer",
            Value::Signed(_) => "a signed integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Array(Array::Unsigned(_)) => "an array of unsigned integers",
            Value::Array(Array::Signed(_)) => "an array of signed integers",
            Value::Array(Array::Float(_)) => "an array of floats",
            Value::Array(Array::Bool(_)) => "an array of bools",
            Value::Array(Array::String(_)) => "an array of strings",
            Value::Array(Array::Nested(_)) => "an array of arrays",
        }
    }
}

/// A Rust type that can be taken out of a [`Value`]. Integers of any width and sign are taken if the number fits.
pub trait FromValue<'a>: Sized {
    /// The type in words, for messages.
    const EXPECTED: &'static str;
    /// The value, if it is of that type and fits.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl<'a> FromValue<'a> for $type {
            const EXPECTED: &'static str = concat!("an integer that fits ", stringify!($type));
            fn from_value(value: &'a Value) -> Option<Self> {
                match value {
                    Value::Unsigned(n) => (*n).try_into().ok(),
                    Value::Signed(n) => (*n).try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}
integers!(u32, u64, i32, i64, usize);

impl<'a> FromValue<'a> for f64 {
    const EXPECTED: &'static str = "a float";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for f32 {
    const EXPECTED: &'static str = "a float";
    fn from_value(value: &'a Value) -> Option<Self> {
        f64::from_value(value).map(|x| x as f32)
    }
}

impl<'a> FromValue<'a> for bool {
    const EXPECTED: &'static str = "a bool";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(s) => Some(s),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a [String] {
    const EXPECTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::String(list)) => Some(list),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Vec<i64> {
    const EXPECTED: &'static str = "an array of integers";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::Signed(list)) => Some(list.clone()),
            Value::Array(Array::Unsigned(list)) => {
                list.iter().map(|n| i64::try_from(*n).ok()).collect()
            }
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Vec<f32> {
    const EXPECTED: &'static str = "an array of floats";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::Float(list)) => Some(list.iter().map(|x| *x as f32).collect()),
            _ => None,
        }
    }
}
