//! The kernel's description of its own types (BTF, Documentation/bpf/btf.rst), as far as fields of structures are looked for.
//!
//! In: the bytes of `/sys/kernel/btf/vmlinux`. Out: where a field stands. What can't be read has no fields.

const MAGIC: u16 = 0xeb9f;
/// Bytes of `struct btf_type` before what its kind adds.
const TYPE: usize = 12;
/// Bytes of `struct btf_member`.
const MEMBER: usize = 12;
/// How deep structures without a name may stand in one another.
const DEPTH: usize = 8;

/// Kinds of types: `BTF_KIND_…`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
    /// The newest that is known here, a tag of a type.
    pub(super) const LAST: u32 = ENUM64;
}

/// All types of a kernel.
pub(super) struct Btf<'b> {
    types: &'b [u8],
    strings: &'b [u8],
    /// Where each type begins; numbers count from 1, for 0 is `void`.
    starts: Vec<usize>,
}

/// `struct btf_type`, with where its members begin.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    members: usize,
    /// Offsets of members have the size of a bit field in their upper byte.
    has_bit_fields: bool,
    first: usize,
}

impl<'b> Btf<'b> {
    /// `None`: another format.
    pub(super) fn read(data: &'b [u8]) -> Option<Self> {
        if data.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let [length, types, types_length, strings, strings_length] =
            [4, 8, 12, 16, 20].map(|at| word(data, at).map(|word| word as usize));
        let part = |from: Option<usize>, length: Option<usize>| data.get(from?..from?.checked_add(length?)?);
        let after = |from: Option<usize>| from?.checked_add(length?);
        let types = part(after(types), types_length)?;
        let strings = part(after(strings), strings_length)?;
        let mut this = Self { types, strings, starts: Vec::new() };
        let mut at = 0;
        while at < types.len() {
            this.starts.push(at);
            let found = this.at(at)?;
            at = found.first + added(found.kind, found.members)?;
        }
        Some(this)
    }

    /// Offset in bytes of a field of four bytes in a structure, perhaps in a nameless part of it.
    pub(super) fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        let is_it = |found: &Type| found.kind == kind::STRUCT && self.is_named(found.name, structure);
        let found = self.starts.iter().filter_map(|&at| self.at(at)).find(is_it)?;
        let bits = self.bits(found, field, DEPTH)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    fn bits(&self, within: Type, field: &str, depth: usize) -> Option<u32> {
        for n in 0..within.members {
            let at = within.first + n * MEMBER;
            let [name, number, offset] = [0, 4, 8].map(|part| word(self.types, at + part));
            let (name, offset) = (name?, offset?);
            let (offset, size) =
                if within.has_bit_fields { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            if self.is_named(name, field) {
                return (size == 0).then_some(offset);
            }
            let part = self.numbered(number?);
            if let Some(part) = part.filter(|part| name == 0 && depth > 0 && part.has_fields())
                && let Some(bits) = self.bits(part, field, depth - 1)
            {
                return offset.checked_add(bits);
            }
        }
        None
    }

    fn numbered(&self, number: u32) -> Option<Type> {
        self.at(*self.starts.get((number as usize).checked_sub(1)?)?)
    }

    fn at(&self, at: usize) -> Option<Type> {
        let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
        Some(Type {
            name,
            kind: info >> 24 & 0x1f,
            members: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 != 0,
            first: at + TYPE,
        })
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let found = self.strings.get(name as usize..).and_then(|rest| rest.strip_prefix(wanted.as_bytes()));
        found.is_some_and(|rest| rest.first() == Some(&0))
    }
}

impl Type {
    const fn has_fields(&self) -> bool {
        self.kind == kind::STRUCT || self.kind == kind::UNION
    }
}

/// Bytes that a type has after `struct btf_type`; `None`: it is newer than this.
const fn added(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION => members * MEMBER,
        kind::DATASEC | kind::ENUM64 => members * 12,
        kind::ENUM | kind::FUNC_PROTO => members * 8,
        1..=kind::LAST => 0,
        _ => return None,
    })
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: &[u8] = b"\0outer\0inner\0a\0b\0c\0";
    /// Where the names stand.
    const OUTER: u32 = 1;
    const INNER: u32 = 7;
    const A: u32 = 13;
    const B: u32 = 15;
    const C: u32 = 17;

    fn header(kind: u32, members: u32, bit_fields: bool) -> u32 {
        u32::from(bit_fields) << 31 | kind << 24 | members
    }

    /// `struct inner { int a:3; int b; }; struct outer { int a; struct { int b; union { int c; }; }; struct inner inner; }`
    fn description() -> Vec<u8> {
        let types: &[&[u32]] = &[
            &[0, header(kind::INT, 0, false), 4, 32],
            &[0, header(kind::UNION, 1, false), 4, C, 1, 0],
            &[0, header(kind::STRUCT, 2, false), 8, B, 1, 0, 0, 2, 32],
            &[INNER, header(kind::STRUCT, 2, true), 8, A, 1, 3 << 24, B, 1, 32],
            &[OUTER, header(kind::STRUCT, 3, false), 20, A, 1, 0, 0, 3, 32, INNER, 4, 96],
        ];
        let types: Vec<u8> = types.concat().iter().flat_map(|word| word.to_ne_bytes()).collect();
        let lengths = [24, 0, types.len(), types.len(), STRINGS.len()];
        let mut all = MAGIC.to_ne_bytes().to_vec();
        all.extend([1, 0]);
        all.extend(lengths.iter().flat_map(|&length| u32::try_from(length).unwrap().to_ne_bytes()));
        [all, types, STRINGS.to_vec()].concat()
    }

    #[test]
    fn fields_are_found_in_nameless_parts_too() {
        let description = description();
        let btf = Btf::read(&description).unwrap();
        assert_eq!(
            ["a", "b", "c", "inner"].map(|field| btf.offset("outer", field)),
            [Some(0), Some(4), Some(8), Some(12)]
        );
        assert_eq!(btf.offset("inner", "b"), Some(4));
        assert_eq!(btf.offset("inner", "a"), None, "a bit field");
        assert_eq!(btf.offset("inner", "c"), None);
        assert_eq!(btf.offset("oute", "a"), None);
        assert_eq!(btf.offset("outer", "inne"), None);
    }

    #[test]
    fn what_is_cut_off_or_unknown_has_no_fields() {
        let whole = description();
        for length in 0..whole.len() {
            assert!(Btf::read(&whole[..length]).is_none(), "{length}");
        }
        let mut unknown = whole;
        // The kind of the first type.
        unknown[24 + 7] = 25;
        assert!(Btf::read(&unknown).is_none());
    }
}
