//! Enums whose variants have a name outside: one list gives the variants, their names, and how they are written and read.
//! The name is what JSON, series and the binary forms hold, never the number of the variant.
#![deny(clippy::disallowed_methods)]

/// Defines an enum of unit variants with a name each: `as_str`, `ALL`, `from_name`, `Display` and serde as a string.
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every variant, in order.
            $vis const ALL: [$name; [$($text),+].len()] = [$($name::$variant),+];

            /// The name that records, series and JSON have.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }

            /// The variant with a name.
            $vis fn from_name(name: &str) -> Option<$name> {
                $name::ALL.into_iter().find(|variant| variant.as_str() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
                let unknown = || serde::de::Error::custom(format!("`{name}` is no {}", stringify!($name)));
                $name::from_name(&name).ok_or_else(unknown)
            }
        }
    };
}

pub(crate) use named_enum;

#[cfg(test)]
mod tests {
    named_enum! {
        /// Two of them.
        enum Colour {
            /// One.
            DarkRed = "dark_red",
            /// The other.
            Blue = "blue",
        }
    }

    #[test]
    fn a_named_enum_is_its_name_outside() {
        for colour in Colour::ALL {
            assert_eq!(Colour::from_name(colour.as_str()), Some(colour));
        }
        assert_eq!(format!("{:>10}", Colour::DarkRed), "  dark_red");
        assert_eq!(serde_json::to_string(&Colour::ALL).expect("JSON"), r#"["dark_red","blue"]"#);
        assert_eq!(serde_json::from_str::<Colour>(r#""blue""#).expect("a colour"), Colour::Blue);
        let error = serde_json::from_str::<Colour>(r#""green""#).expect_err("no colour of ours");
        assert!(error.to_string().starts_with("`green` is no Colour"), "{error}");
        // A binary form holds the name, too: variants may be put in another order.
        let bytes = postcard::to_stdvec(&Colour::Blue).expect("bytes");
        assert_eq!(bytes, postcard::to_stdvec("blue").expect("bytes"));
        assert_eq!(postcard::from_bytes::<Colour>(&bytes).expect("a colour"), Colour::Blue);
    }
}
