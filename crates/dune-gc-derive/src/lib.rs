//! `#[derive(Trace)]` for `dune_gc::Trace`.

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Fields, parse_macro_input};

/// Implements `dune_gc::Trace`: a value leads to what its fields lead to.
///
/// All fields have to be `Trace`. The type must not implement `Drop`: a destructor could follow a `Gc` to an object that has been
/// swept before it.
///
#[proc_macro_derive(Trace)]
pub fn derive_trace(input: TokenStream) -> TokenStream {
    expand(&parse_macro_input!(input as DeriveInput)).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let name = &input.ident;
    // Where the parts of a struct are is always the same.
    let mut pointers = quote! {};
    let (types, body) = match &input.data {
        Data::Struct(data) => {
            let (types, pattern, calls) = arm(&data.fields);
            let members: Vec<_> = data.fields.members().collect();
            pointers = quote! {
                const POINTERS: ::core::option::Option<::dune_gc::PointerMap> = ::dune_gc::PointerMap::of_parts(&[
                    #((::core::mem::offset_of!(Self, #members), <#types as ::dune_gc::Trace>::POINTERS)),*
                ]);
            };
            (types, quote! { let Self #pattern = self; #calls })
        }
        Data::Enum(data) => {
            let mut all = Vec::new();
            let mut arms = Vec::new();
            for variant in &data.variants {
                let (types, pattern, calls) = arm(&variant.fields);
                let ident = &variant.ident;
                all.extend(types);
                arms.push(quote! { Self::#ident #pattern => { #calls } });
            }
            let body = if arms.is_empty() {
                quote! { match *self {} }
            } else {
                quote! { match self { #(#arms)* } }
            };
            (all, body)
        }
        Data::Union(_) => {
            let message = "a union does not say which of its fields is there: make it an enum";
            return Err(syn::Error::new_spanned(name, message));
        }
    };
    let mut generics = input.generics.clone();
    let parameters: Vec<_> = generics.type_params().map(|parameter| parameter.ident.clone()).collect();
    let conditions = generics.make_where_clause();
    for parameter in parameters {
        conditions.predicates.push(syn::parse_quote!(#parameter: ::dune_gc::Trace));
    }
    let (plain_impl, plain_types, plain_where) = input.generics.split_for_impl();
    let (in_impl, in_type, conditions) = generics.split_for_impl();
    Ok(quote! {
        const _: () = {
            // Whoever implements Drop implements this twice, which the compiler refuses.
            trait MustNotImplementDrop {}
            #[allow(drop_bounds)]
            impl<T: ?::core::marker::Sized + ::core::ops::Drop> MustNotImplementDrop for T {}
            impl #plain_impl MustNotImplementDrop for #name #plain_types #plain_where {}

            // SAFETY: 1. all fields are traced; 2. what they own by other means has no edges, as they are `Trace`; 3. there is no Drop but
            // that of the fields; 5. each is `Trace`; 6. their maps, each where the field is.
            #[automatically_derived]
            #[allow(unsafe_code)]
            unsafe impl #in_impl ::dune_gc::Trace for #name #in_type #conditions {
                // Not `||`: each is to be evaluated, as some are refused.
                const HAS_EDGES: bool = false #(| <#types as ::dune_gc::Trace>::HAS_EDGES)*;
                #pointers

                #[inline]
                fn trace(&self, tracer: &mut ::dune_gc::Tracer<'_>) {
                    let _ = &tracer;
                    #body
                }
            }
        };
    })
}

/// The types of the fields, a pattern that names each, and the calls that trace them.
fn arm(fields: &Fields) -> (Vec<syn::Type>, proc_macro2::TokenStream, proc_macro2::TokenStream) {
    let types: Vec<_> = fields.iter().map(|field| field.ty.clone()).collect();
    let names: Vec<_> = (0..fields.len()).map(|index| format_ident!("field_{index}")).collect();
    let pattern = match fields {
        Fields::Named(named) => {
            let idents = named.named.iter().map(|field| &field.ident);
            quote! { { #(#idents: #names),* } }
        }
        Fields::Unnamed(_) => quote! { ( #(#names),* ) },
        Fields::Unit => quote! {},
    };
    // The field is of the type that HAS_EDGES was asked of, also if an attribute that is expanded later has changed the item. In a tuple
    // nothing is coerced.
    let calls = quote! {
        #(
            let field = (#names,);
            let (field,): (&#types,) = field;
            <#types as ::dune_gc::Trace>::trace(field, tracer);
        )*
    };
    (types, pattern, calls)
}
