//! What a user of the library sees is listed in `docs/api.txt`, so that it changes only when somebody means it to.
//! `UPDATE=1 cargo test --test it api::` writes the list anew.

use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens;
use syn::{Fields, ImplItem, Item, Type, UseTree, Visibility};

use crate::support::holds_what_is_generated;
use crate::support::sources::sources;

/// Traits of the standard library that users rely on; the others are between rooms.
const KNOWN_TRAITS: [&str; 5] = ["Default", "Display", "Error", "From", "FromStr"];

/// What the root of the crate exports from each room, but for what is hidden from the documentation.
fn exports(root: &syn::File) -> BTreeMap<String, BTreeSet<String>> {
    let mut exports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for item in &root.items {
        let Item::Use(item) = item else { continue };
        let is_hidden = item.attrs.iter().any(|attribute| attribute.to_token_stream().to_string().contains("hidden"));
        if is_public(&item.vis) && !is_hidden {
            let UseTree::Path(from) = &item.tree else { panic!("the root exports from rooms") };
            leaves(&from.tree, exports.entry(from.ident.to_string()).or_default());
        }
    }
    exports
}

fn leaves(tree: &UseTree, names: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => leaves(&path.tree, names),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, names)),
        UseTree::Name(name) => drop(names.insert(name.ident.to_string())),
        UseTree::Rename(_) | UseTree::Glob(_) => panic!("the root exports every name by itself"),
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn keep_non_exhaustive(attributes: &mut Vec<syn::Attribute>) {
    attributes.retain(|attribute| attribute.path().is_ident("non_exhaustive"));
}

fn public_fields(fields: &mut Fields) {
    match fields {
        Fields::Named(named) => {
            named.named = std::mem::take(&mut named.named).into_iter().filter(|field| is_public(&field.vis)).collect();
        }
        Fields::Unnamed(unnamed) => {
            let all = std::mem::take(&mut unnamed.unnamed);
            unnamed.unnamed = all.into_iter().filter(|field| is_public(&field.vis)).collect();
        }
        Fields::Unit => {}
    }
    fields.iter_mut().for_each(|field| field.attrs.clear());
}

/// The public side of an item; `None` if it has none under these names.
fn public_side(item: &Item, names: &BTreeSet<String>) -> Option<Item> {
    let is_ours =
        |ident: &syn::Ident, visibility: &Visibility| is_public(visibility) && names.contains(&ident.to_string());
    match item.clone() {
        Item::Struct(mut item) if is_ours(&item.ident, &item.vis) => {
            keep_non_exhaustive(&mut item.attrs);
            public_fields(&mut item.fields);
            Some(Item::Struct(item))
        }
        Item::Enum(mut item) if is_ours(&item.ident, &item.vis) => {
            keep_non_exhaustive(&mut item.attrs);
            for variant in &mut item.variants {
                variant.attrs.clear();
                variant.fields.iter_mut().for_each(|field| field.attrs.clear());
            }
            Some(Item::Enum(item))
        }
        Item::Trait(mut item) if is_ours(&item.ident, &item.vis) => {
            item.attrs.clear();
            for inner in &mut item.items {
                if let syn::TraitItem::Fn(function) = inner {
                    function.attrs.clear();
                }
            }
            Some(Item::Trait(item))
        }
        Item::Type(mut item) if is_ours(&item.ident, &item.vis) => {
            item.attrs.clear();
            Some(Item::Type(item))
        }
        Item::Fn(mut item) if is_ours(&item.sig.ident, &item.vis) => {
            item.attrs.clear();
            item.block = syn::parse_quote!({});
            Some(Item::Fn(item))
        }
        Item::Impl(mut item) => {
            let Type::Path(of) = &*item.self_ty else { return None };
            if !names.contains(&of.path.segments.last()?.ident.to_string()) {
                return None;
            }
            item.attrs.clear();
            if let Some((_, of, _)) = &item.trait_ {
                let is_known = of.segments.last().is_some_and(|last| KNOWN_TRAITS.contains(&&*last.ident.to_string()));
                item.items.clear();
                return is_known.then_some(Item::Impl(item));
            }
            item.items.retain_mut(|inner| match inner {
                ImplItem::Fn(function) if is_public(&function.vis) => {
                    function.attrs.clear();
                    function.block = syn::parse_quote!({});
                    true
                }
                ImplItem::Const(constant) if is_public(&constant.vis) => {
                    constant.attrs.clear();
                    true
                }
                _ => false,
            });
            (!item.items.is_empty()).then_some(Item::Impl(item))
        }
        _ => None,
    }
}

#[test]
fn the_face_of_the_library_is_the_one_that_is_listed() {
    let sources = sources();
    let root = &sources.iter().find(|(path, _)| path == "lib.rs").expect("a root").1;
    let exports = exports(root);
    let mut missing: BTreeSet<String> = exports.values().flatten().cloned().collect();
    let mut items = Vec::new();
    for (path, file) in &sources {
        let room = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
        let Some(ours) = exports.get(room) else { continue };
        for item in &file.items {
            let Some(item) = public_side(item, ours) else { continue };
            let name = match &item {
                Item::Struct(item) => item.ident.to_string(),
                Item::Enum(item) => item.ident.to_string(),
                Item::Trait(item) => item.ident.to_string(),
                Item::Type(item) => item.ident.to_string(),
                Item::Fn(item) => item.sig.ident.to_string(),
                _ => String::new(),
            };
            missing.remove(&name);
            items.push(item);
        }
    }
    assert!(missing.is_empty(), "exported, and not found in the sources: {missing:?}");
    let listed = prettyplease::unparse(&syn::File { shebang: None, attrs: Vec::new(), items });
    holds_what_is_generated("docs/api.txt", "api::", |_| listed.clone());
}
