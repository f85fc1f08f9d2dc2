//! The element formats of GGUF tensors and the size of their blocks.

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types, reason = "the names are those of the format")]
pub enum TensorKind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 4 bits and a scale per 32.
    Q4_0,
    /// 4 bits, a scale and an offset per 32.
    Q4_1,
    /// 5 bits and a scale per 32.
    Q5_0,
    /// 5 bits, a scale and an offset per 32.
    Q5_1,
    /// 8 bits and a scale per 32.
    Q8_0,
    /// 2 bits in super-blocks of 256.
    Q2_K,
    /// 3 bits in super-blocks of 256.
    Q3_K,
    /// 4 bits in super-blocks of 256.
    Q4_K,
    /// 5 bits in super-blocks of 256.
    Q5_K,
    /// 6 bits in super-blocks of 256.
    Q6_K,
}

use TensorKind::*;

/// Every kind that is read: number in the file, kind, name, elements and bytes of one block.
const TABLE: [(u32, TensorKind, &str, usize, usize); 13] = [
    (0, F32, "F32", 1, 4),
    (1, F16, "F16", 1, 2),
    (30, BF16, "BF16", 1, 2),
    (2, Q4_0, "Q4_0", 32, 18),
    (3, Q4_1, "Q4_1", 32, 20),
    (6, Q5_0, "Q5_0", 32, 22),
    (7, Q5_1, "Q5_1", 32, 24),
    (8, Q8_0, "Q8_0", 32, 34),
    (10, Q2_K, "Q2_K", 256, 84),
    (11, Q3_K, "Q3_K", 256, 110),
    (12, Q4_K, "Q4_K", 256, 144),
    (13, Q5_K, "Q5_K", 256, 176),
    (14, Q6_K, "Q6_K", 256, 210),
];

/// Names of kinds that exist but are not read, for the error message.
const NOT_READ: [(u32, &str); 20] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl TensorKind {
    /// Every kind that is read.
    pub fn all() -> impl Iterator<Item = TensorKind> {
        TABLE.iter().map(|row| row.1)
    }

    /// The kind with this number in a GGUF file.
    ///
    /// # Errors
    /// The name of the kind, or its number, if it is not read.
    pub fn from_number(number: u32) -> Result<Self, String> {
        if let Some(row) = TABLE.iter().find(|row| row.0 == number) {
            return Ok(row.1);
        }
        Err(NOT_READ
            .iter()
            .find(|(known, _)| *known == number)
            .map_or_else(
                || format!("number {number}"),
                |(_, name)| (*name).to_string(),
            ))
    }

    /// Its number in a GGUF file.
    pub fn number(self) -> u32 {
        self.row().0
    }

    fn row(self) -> &'static (u32, TensorKind, &'static str, usize, usize) {
        TABLE
            .iter()
            .find(|row| row.1 == self)
            .expect("the table lists every variant")
    }

    /// The name used by GGUF tools, for example `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Elements of one block.
    pub fn block_elements(self) -> usize {
        self.row().3
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes that `elements` elements take; `None` if they do not fill whole blocks or the size overflows.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for TensorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_whole_blocks_and_do_not_wrap() {
        assert_eq!(Q4_1.bytes_for(64), Some(40));
        assert_eq!(Q4_1.bytes_for(33), None);
        assert_eq!(Q8_0.bytes_for(usize::MAX / 32 * 32), None);
    }

    #[test]
    fn an_unread_kind_is_called_by_its_name() {
        assert_eq!(TensorKind::from_number(12), Ok(Q4_K));
        assert_eq!(TensorKind::from_number(23), Err("IQ4_XS".into()));
        assert_eq!(TensorKind::from_number(999), Err("number 999".into()));
    }
}
