//! Packed strings and replies of the library.

use crate::InventoryError;
use onsale_domain::UnitNumber;
use redis::Value;

/// Numbers as big-endian u32, one after another.
pub(crate) fn pack_numbers(numbers: &[UnitNumber]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// The reverse of [`pack_numbers`].
pub(crate) fn unpack_numbers(packed: &[u8]) -> Result<Vec<UnitNumber>, InventoryError> {
    let (chunks, rest) = packed.as_chunks::<4>();
    if rest.is_empty() {
        Ok(chunks.iter().map(|c| u32::from_be_bytes(*c)).collect())
    } else {
        Err(InventoryError::Unexpected(format!("{} bytes of packed numbers", packed.len())))
    }
}

/// Reads fixed-width integers off the front of a packed string.
pub(crate) struct Unpack<'a>(pub &'a [u8]);

impl<'a> Unpack<'a> {
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], InventoryError> {
        let (head, rest) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| InventoryError::Unexpected("a packed string that is too short".into()))?;
        self.0 = rest;
        Ok(head)
    }

    /// An unsigned big-endian integer of `n` bytes, 8 at most.
    pub fn uint(&mut self, n: usize) -> Result<u64, InventoryError> {
        Ok(self.take(n)?.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
    }

    pub fn u32(&mut self) -> Result<u32, InventoryError> {
        Ok(self.take(4)?.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)))
    }

    pub fn uuid(&mut self) -> Result<uuid::Uuid, InventoryError> {
        uuid::Uuid::from_slice(self.take(16)?).map_err(|e| InventoryError::Unexpected(e.to_string()))
    }
}

/// The array a function of the library returns: a status word, then values by position.
#[derive(Debug)]
pub(crate) struct Reply(pub Vec<Value>);

impl Reply {
    pub fn status(&self) -> Result<&str, InventoryError> {
        self.text(0)
    }

    pub fn bytes(&self, i: usize) -> Result<&[u8], InventoryError> {
        match self.0.get(i) {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(self.unexpected()),
        }
    }

    pub fn text(&self, i: usize) -> Result<&str, InventoryError> {
        match self.0.get(i) {
            Some(Value::SimpleString(text)) => Ok(text),
            _ => str::from_utf8(self.bytes(i)?).map_err(|_| self.unexpected()),
        }
    }

    pub fn int(&self, i: usize) -> Result<i64, InventoryError> {
        match self.0.get(i) {
            Some(Value::Int(n)) => Ok(*n),
            _ => Err(self.unexpected()),
        }
    }

    /// An integer of any width that must fit `T`.
    pub fn number<T: TryFrom<i64>>(&self, i: usize) -> Result<T, InventoryError> {
        T::try_from(self.int(i)?).map_err(|_| self.unexpected())
    }

    pub fn unexpected(&self) -> InventoryError {
        InventoryError::Unexpected(format!("{:.300}", format!("{:?}", self.0)))
    }
}
