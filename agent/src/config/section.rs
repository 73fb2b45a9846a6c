//! The language in which [`types`](super::types) declares the file: one list of fields gives the struct, its
//! parser and its schema, so that they can't differ.

/// A mapping of the file. A field without `=` must be given; `= default` says what it is otherwise, and
/// `=> low..=high` what it can be.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $($(#[doc = $doc:literal])* pub $field:ident: $type:ty $(= $default:expr $(=> $range:expr)?)?,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
        }

        impl Read for $name {
            fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
                reader.open(node, &[$(stringify!($field)),*])?;
                $(let $field = section!(@read node, reader, $field, $type $(, $default $(, $range)?)?);)*
                Some(Self { $($field: $field?,)* })
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
        $reader.ranged::<$type>($node, stringify!($field), || $default, $range)
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
