//! The language in which [`types`](super::types) declares the file: one list of fields gives the struct, its
//! parser and its schema, so that they can't differ.
//!
//! Beside each struct stands its draft: the same fields, as far as they could be read.

/// A mapping of the file, and its draft. A field without `=` must be given; `= default` says what it is otherwise, and
/// `=> low..=high` what it can be.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident from $draft:ident {
            $($(#[doc = $doc:literal])* pub $field:ident: $type:ty $(= $default:expr $(=> $range:expr)?)?,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
        }

        /// What could be read of it.
        #[derive(Default)]
        pub(super) struct $draft {
            $(pub(super) $field: <$type as Read>::Draft,)*
        }

        impl Read for $name {
            type Draft = $draft;

            fn read(node: &Node<'_>, reader: &mut Reader) -> $draft {
                if reader.open(node, &[$(stringify!($field)),*]).is_none() {
                    return $draft::default();
                }
                $draft { $($field: section!(@read node, reader, $field, $type $(, $default $(, $range)?)?),)* }
            }

            fn whole(draft: $draft) -> Option<Self> {
                Some(Self { $($field: <$type as Read>::whole(draft.$field)?,)* })
            }

            fn draft(self) -> $draft {
                $draft { $($field: self.$field.draft(),)* }
            }

            fn schema() -> Value {
                let mut object = ObjectSchema::new(concat!($($about, "\n"),*));
                $(section!(@schema object, $field, concat!($($doc, "\n"),*), $type $(, $default $(, $range)?)?);)*
                object.finish()
            }

            fn show(&self) -> Value {
                let fields = [$((camel(stringify!($field)), self.$field.show())),*];
                fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
            }
        }
    };
    (@read $node:ident, $reader:ident, $field:ident, $type:ty) => {
        $reader.required::<$type>($node, stringify!($field))
    };
    (@read $node:ident, $reader:ident, $field:ident, $type:ty, $default:expr) => {
        $reader.optional::<$type>($node, stringify!($field), || $default)
    };
    (@read $node:ident, $reader:ident, $field:ident, $type:ty, $default:expr, $range:expr) => {
        $reader.ranged::<$type>($node, stringify!($field), || $default, &$range)
    };
    (@schema $object:ident, $field:ident, $doc:expr, $type:ty) => {
        $object.required(stringify!($field), $doc, <$type>::schema())
    };
    (@schema $object:ident, $field:ident, $doc:expr, $type:ty, $default:expr $(, $range:expr)?) => {
        #[allow(unused_mut, reason = "only fields with a range change it")]
        let mut schema = <$type>::schema();
        $(<$type as Limit>::limit(&mut schema, &$range);)?
        let default: $type = $default;
        $object.optional(stringify!($field), $doc, schema, default.show())
    };
}

/// The names by which the file calls the variants of an enum.
macro_rules! choice {
    ($type:ty { $($variant:ident = $name:literal),* $(,)? }) => {
        impl Read for $type {
            leaf!();

            fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
                match node.scalar() {
                    $(Some(Scalar::Text($name)) => Some(Self::$variant),)*
                    _ => reader.not_one_of(node, &[$($name),*]),
                }
            }

            fn schema() -> Value {
                json!({ "enum": [$($name),*] })
            }

            fn show(&self) -> Value {
                match self {
                    $(Self::$variant => $name.into(),)*
                }
            }
        }
    };
}

pub(super) use {choice, section};
