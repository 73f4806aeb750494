//! Writes protocol buffers (protobuf.dev, "Encoding"), field by field into one buffer. An answer to a question has
//! some forty short fields, and values of prost's types would each be copied first.

/// The fields of a message.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Fields(Vec::with_capacity(bytes))
    }

    /// Writes a number that is not negative, in a field of type `int32` or of an enumeration.
    pub(super) fn number(&mut self, tag: u8, value: u64) {
        self.varint(u64::from(tag) << 3);
        self.varint(value);
    }

    /// Writes a text or bytes.
    pub(super) fn text(&mut self, tag: u8, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.varint((u64::from(tag) << 3) | LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Writes a message.
    pub(super) fn message(&mut self, tag: u8, write: impl FnOnce(&mut Fields)) {
        self.varint((u64::from(tag) << 3) | LENGTH_DELIMITED);
        // Most messages have a length of one byte. A longer length is put in afterwards.
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        match (u8::try_from(length), self.0.get_mut(at)) {
            (Ok(short @ 0..0x80), Some(place)) => *place = short,
            _ => {
                let mut written = Fields::default();
                written.varint(length as u64);
                self.0.splice(at..=at, written.0);
            }
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The type of a field with a length (wire type 2).
const LENGTH_DELIMITED: u64 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Inner {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(int32, tag = "3")]
        action: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Outer {
        #[prost(message, repeated, tag = "2")]
        inner: Vec<Inner>,
        #[prost(bytes = "vec", tag = "15")]
        body: Vec<u8>,
    }

    proptest! {
        #[test]
        fn prost_reads_what_is_written(names in prop::collection::vec(".{0,300}", 0..5), action in 0..i32::MAX, body: Vec<u8>) {
            let mut fields = Fields::default();
            for name in &names {
                fields.message(2, |inner| {
                    inner.text(1, name);
                    inner.number(3, action as u64);
                });
            }
            fields.text(15, &body);
            let inner = names.into_iter().map(|name| Inner { name, action }).collect();
            prop_assert_eq!(Outer::decode(&*fields.into_bytes()).unwrap(), Outer { inner, body });
        }
    }
}
