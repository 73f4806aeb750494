//! The search for the parameter `model` in a body that is JSON, and which some servers read as a
//! query (`application/x-www-form-urlencoded`) because of its content type.

use smallvec::SmallVec;

use super::name::in_query;
use super::named::Named;

/// Longest name of a parameter that is compared, in bytes: each character of `model` may be encoded.
const LONGEST_NAME: usize = 64;

/// A search through one body, which arrives in pieces.
#[derive(Debug, Default)]
pub(super) struct QuerySearch {
    /// The beginning of the name that is being read.
    name: SmallVec<[u8; LONGEST_NAME]>,
    /// Whether the next byte is of a value, and not of a name.
    is_in_value: bool,
}

impl QuerySearch {
    /// Searches the next piece. Returns whether a parameter names a model.
    pub(super) fn names_model(&mut self, data: &[u8]) -> bool {
        for byte in data {
            match byte {
                b'&' | b';' => {
                    self.name.clear();
                    self.is_in_value = false;
                }
                _ if self.is_in_value => {}
                b'=' if self.is_model() => return true,
                b'=' => self.is_in_value = true,
                _ if self.name.len() < LONGEST_NAME => self.name.push(*byte),
                _ => self.is_in_value = true,
            }
        }
        false
    }

    fn is_model(&self) -> bool {
        if self.name.len() < "model".len() {
            return false;
        }
        let name = String::from_utf8_lossy(&self.name);
        in_query(Some(&format!("{name}=x"))) != Named::Absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_however_the_body_is_cut() {
        let names_model = |body: &str, piece: usize| {
            let mut search = QuerySearch::default();
            body.as_bytes().chunks(piece).any(|piece| search.names_model(piece))
        };
        for piece in [1, 3, 100] {
            for body in [
                r#"{"model":"ok","user":"&model=other&x="}"#,
                r#"{"model":"ok","user":";mod%65l=other"}"#,
                r#"{"model":"ok","user":"a=b&model[]=other"}"#,
            ] {
                assert!(names_model(body, piece), "{body}");
            }
            for body in [
                r#"{"model":"ok","messages":[{"content":"a & b; the model = x"}]}"#,
                r#"{"model":"ok","url":"https://a/?b=c&models=d&e=model"}"#,
            ] {
                assert!(!names_model(body, piece), "{body}");
            }
        }
    }
}
