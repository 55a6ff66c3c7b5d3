//! The sources of the crate, as text and parsed: for tests of imports, of names and of the library's face.

use std::fs;
use std::path::{Path, PathBuf};

use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Expr, Ident, Item, Token, Type, parse_quote};

/// Every Rust file below a folder of the project, with its path and its text, in order.
pub fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of ours") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("a readable file"))).collect()
}

/// The path of a source file from `src`.
pub fn inside_src(path: &Path) -> &Path {
    path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("a source file")
}

/// Every file of `src`, with its path from there, in order.
pub fn sources() -> Vec<(String, syn::File)> {
    let parsed = |(path, text): (PathBuf, String)| {
        let mut file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.items = file.items.into_iter().flat_map(written_out).collect();
        (inside_src(&path).display().to_string(), file)
    };
    rust_files("src").into_iter().map(parsed).collect()
}

/// What `settings!` makes: a struct with its defaults.
struct Settings {
    attributes: Vec<Attribute>,
    name: Ident,
    fields: Vec<(Vec<Attribute>, Ident, Type)>,
}

impl Parse for Settings {
    fn parse(input: ParseStream<'_>) -> syn::Result<Settings> {
        let (attributes, name) = (input.call(Attribute::parse_outer)?, input.parse()?);
        let inner;
        syn::braced!(inner in input);
        let mut fields = Vec::new();
        while !inner.is_empty() {
            let (attributes, key) = (inner.call(Attribute::parse_outer)?, inner.parse()?);
            inner.parse::<Token![:]>()?;
            let kind = inner.parse()?;
            inner.parse::<Token![=]>()?;
            inner.parse::<Expr>()?;
            inner.parse::<Token![,]>()?;
            inner.parse::<Expr>()?;
            inner.parse::<Token![;]>()?;
            fields.push((attributes, key, kind));
        }
        // The name of a method that checks what was read.
        input.parse::<Option<Ident>>()?;
        Ok(Settings { attributes, name, fields })
    }
}

/// An item, or those that a macro of ours makes.
fn written_out(item: Item) -> Vec<Item> {
    let Item::Macro(call) = &item else { return vec![item] };
    if !call.mac.path.is_ident("settings") {
        return vec![item];
    }
    let Settings { attributes, name, fields } = call.mac.parse_body().expect("settings");
    let fields = fields.iter().map(|(attributes, key, kind)| quote::quote!(#(#attributes)* pub #key: #kind));
    vec![
        parse_quote!(#(#attributes)* pub struct #name { #(#fields,)* }),
        parse_quote!(
            impl Default for #name {}
        ),
    ]
}
