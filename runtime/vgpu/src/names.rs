//! Names of C++ in words of the source.

/// The name of a function or variable as its source has it, without its own parameters; a name that is not mangled stays as it is.
pub fn demangled(name: &str) -> String {
    const LONGEST: usize = 4096;
    let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
    let mangled = name.starts_with("_Z") && name.len() <= LONGEST;
    let symbol = mangled.then(|| cpp_demangle::Symbol::new(name).ok()).flatten();
    symbol.and_then(|symbol| symbol.demangle_with_options(&options).ok()).unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_cpp_lose_their_parameters() {
        assert_eq!(super::demangled("_ZN6deepep8dispatchILi8EEEvPKfPf"), "deepep::dispatch<8>");
        assert_eq!(super::demangled("_Z3putPiS_"), "put");
        assert_eq!(super::demangled("dispatch_send"), "dispatch_send");
        assert_eq!(super::demangled("_Zwrong"), "_Zwrong");
        let local = "_ZZN7deep_ep9intranode7combineI13__nv_bfloat16Li2EEEvPT_PfE16channel_tail_idx";
        assert_eq!(
            super::demangled(local),
            "deep_ep::intranode::combine<__nv_bfloat16, 2>(__nv_bfloat16*, float*)::channel_tail_idx"
        );
    }
}
