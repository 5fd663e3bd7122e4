//! What the table of fields becomes.

use super::setting::Refusal;
use super::surroundings::Surroundings;
use super::table::{Config, SECTIONS};
use super::value::Value;

/// A part of the file, between one `[name]` and the next.
pub(super) struct Section {
    pub(super) name: &'static str,
    /// As written in the table, a space before each line.
    pub(super) about: &'static str,
    pub(super) fields: &'static [Field],
}

/// One field.
pub(super) struct Field {
    pub(super) name: &'static str,
    /// As written in the table, a space before each line.
    pub(super) about: &'static str,
    /// What its default is, where that is another on each host.
    pub(super) default: Option<&'static str>,
    /// What may be written there.
    pub(super) allowed: fn() -> String,
    /// Takes what somebody wrote.
    pub(super) set: fn(&mut Config, &Value) -> Result<(), Refusal>,
    /// Takes the default. All fields above are as they will be.
    pub(super) fill: fn(&mut Config, &Surroundings) -> Result<(), String>,
    /// As it can be written in a file.
    pub(super) show: fn(&Config) -> toml::Value,
}

/// Each field with its section, in the table's order.
pub(super) fn all() -> impl Iterator<Item = (&'static Section, &'static Field)> {
    SECTIONS.iter().flat_map(|section| section.fields.iter().map(move |field| (section, field)))
}

/// `section.field`.
pub(super) fn path(section: &Section, field: &Field) -> String {
    format!("{}.{}", section.name, field.name)
}

/// The environment's name of a field.
pub(super) fn variable(section: &Section, field: &Field) -> String {
    format!("{}{}", variable_prefix(section), field.name.to_ascii_uppercase())
}

/// What the environment's names of a section's fields begin with.
pub(super) fn variable_prefix(section: &Section) -> String {
    format!("NOVACRON_{}_", section.name.to_ascii_uppercase())
}

/// Makes the types of the configuration, and `SECTIONS`, from the table of fields:
/// `name: Type [least, most] = default, "the default in words";`, where bounds and words may be missing.
macro_rules! configuration {
    (
        |$config:ident, $here:ident|
        $(
            $(#[doc = $about:literal])+
            $section:ident: $Section:ident {
                $(
                    $(#[doc = $doc:literal])+
                    $field:ident: $Type:ty $([$least:expr, $most:expr])? = $default:expr $(, $words:literal)?;
                )+
            }
        )+
    ) => {
        /// What a daemon is told, every field with a value.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $(
                $(#[doc = $about])+
                pub $section: $Section,
            )+
        }
        impl Config {
            /// Where reading begins: nothing has a value that is meant.
            pub(super) fn unset() -> Self {
                Self { $($section: $Section { $($field: Default::default(),)+ },)+ }
            }
        }
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section {
                $(
                    $(#[doc = $doc])+
                    pub $field: $Type,
                )+
            }
        )+
        /// The table.
        pub(super) static SECTIONS: &[$crate::config::field::Section] = &[
            $($crate::config::field::Section {
                name: stringify!($section),
                about: concat!($($about, "\n"),+),
                fields: &[
                    $($crate::config::field::Field {
                        name: stringify!($field),
                        about: concat!($($doc, "\n"),+),
                        default: { let words: &[&str] = &[$($words)?]; words.first().copied() },
                        allowed: || {
                            let bounds = [$($least, $most)?];
                            $crate::config::setting::allowed::<$Type>(&bounds)
                        },
                        set: |config, value| {
                            let bounds = [$($least, $most)?];
                            config.$section.$field = $crate::config::setting::read(value, &bounds)?;
                            Ok(())
                        },
                        fill: |$config, $here| {
                            let _ = $here;
                            let default = $default;
                            $config.$section.$field = default;
                            Ok(())
                        },
                        show: |config| $crate::config::setting::Setting::write(&config.$section.$field),
                    },)+
                ],
            },)+
        ];
    };
}

pub(super) use configuration;
