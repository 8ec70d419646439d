//! Sections: each key is declared once, with its type, default, range and meaning.

use super::document::{Document, Table};

/// A key of the configuration, for the reference page and for suggestions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The dotted name of its table, `*` for a name that the operator chooses.
    pub section: String,
    /// The key within its table.
    pub name: &'static str,
    /// What kind of value it takes.
    pub kind: &'static str,
    /// Its default as TOML; `unset` where there is none.
    pub default: &'static str,
    /// Meaning, unit and range: its doc comment, a line of the reference page.
    pub about: String,
}

/// A table with known keys.
pub(super) trait Section: Sized {
    /// Reads it; nothing only when a built-in default is wrong.
    fn read(table: &mut Table<'_>, doc: &mut Document<'_>) -> Option<Self>;
    /// Appends its keys; `section` is its dotted name.
    fn keys(section: &str, keys: &mut Vec<Key>);
}

/// Declares a section:
/// `/// meaning` `name: Type = default, check;` for each key, then `with /// meaning` `name: Type;` for each
/// section whose keys stand in the same table, then `section /// meaning` `name: Type;` for each table in it.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident : $ty:ty = $default:tt $(, $check:expr)? ; )*
            $( with $(#[doc = $part_doc:literal])+ $part:ident : $part_ty:ty ; )*
            $( section $(#[doc = $sub_doc:literal])+ $sub:ident : $sub_ty:ty ; )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $( $(#[doc = $doc])+ $vis $field: $ty, )*
            $( $(#[doc = $part_doc])+ $vis $part: $part_ty, )*
            $( $(#[doc = $sub_doc])+ $vis $sub: $sub_ty, )*
        }

        impl $crate::section::Section for $name {
            fn read(
                table: &mut $crate::document::Table<'_>,
                doc: &mut $crate::document::Document<'_>,
            ) -> Option<Self> {
                $(
                    let $field = table.value::<$ty>(
                        doc,
                        stringify!($field),
                        stringify!($default),
                        $crate::section::section!(@check $($check)?),
                    );
                )*
                $( let $part = <$part_ty as $crate::section::Section>::read(table, doc); )*
                $( let $sub = table.section::<$sub_ty>(doc, stringify!($sub)); )*
                Some(Self { $($field: $field?,)* $($part: $part?,)* $($sub: $sub?,)* })
            }

            fn keys(section: &str, keys: &mut Vec<$crate::section::Key>) {
                $(
                    keys.push($crate::section::Key {
                        section: section.to_owned(),
                        name: stringify!($field),
                        kind: <$ty as $crate::value::Value>::KIND,
                        default: stringify!($default),
                        about: [$($doc),+].map(str::trim).join(" "),
                    });
                )*
                $( <$part_ty as $crate::section::Section>::keys(section, keys); )*
                $(
                    <$sub_ty as $crate::section::Section>::keys(
                        &format!("{section}.{}", stringify!($sub)),
                        keys,
                    );
                )*
            }
        }
    };
    (@check $check:expr) => { $check };
    (@check) => { |_| Ok(()) };
}
pub(super) use section;
